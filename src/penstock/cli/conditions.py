"""Filters as they are typed: `--where department=hr --where 'year>=2023'`, or in JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from penstock.core.errors import UsageError
from penstock.core.filter_parser import shown
from penstock.core.filters import FIELDS
from penstock.core.metadata import parse_value

_CONDITION = re.compile(r"([^=<>!^].*?)(!=|>=|<=|\^=|=|>|<)(.*)", re.DOTALL)
_COMPARISONS = {"!=": "$ne", ">=": "$gte", "<=": "$lte", ">": "$gt", "<": "$lt", "^=": "$prefix"}
_SIGNS = ("=", "<", ">")
"""No value begins with one: else `a==b` and `a=>2` would stand for odd texts."""
EXPECTED = "NAME=VALUE, NAME!=VALUE, NAME>=VALUE (<=, >, <), NAME^=PREFIX, or a filter in JSON"


def parse_conditions(texts: Sequence[str]) -> dict[str, Any] | None:
    """The filter that several conditions stand for, all of which must hold. Raises UsageError."""
    parsed = [_json(text) if text.lstrip().startswith("{") else _condition(text) for text in texts if text.strip()]
    terms = [term for term in parsed if term]
    return {"$and": terms} if len(terms) > 1 else terms[0] if terms else None


def _json(text: str) -> dict[str, Any]:
    try:
        where: dict[str, Any] = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"invalid --where: {error}; expected JSON such as '{{\"page\": 3}}'") from None
    return where


def _condition(text: str) -> dict[str, Any]:
    parts = _CONDITION.fullmatch(text)
    name = parts[1].strip() if parts else ""
    if not parts or not name:
        raise UsageError(f"invalid --where {shown(text)}: expected {EXPECTED}")
    sign, value = parts[2], parts[3].strip()
    if value.startswith(_SIGNS):
        literal = json.dumps({name: value}, ensure_ascii=False) if len(text) < 1000 else "{NAME: VALUE}"
        raise UsageError(
            f"invalid --where {shown(text)}: unknown comparison {sign + value[0]!r}; expected {EXPECTED}. A value that"
            f" begins with {value[0]!r} is written in JSON: {literal}"
        )
    parsed = value if FIELDS.get(name) is str else parse_value(value)
    if sign == "=":
        return {name: parsed}
    if sign == "!=" and isinstance(parsed, list):
        return {name: {"$nin": parsed}}
    if sign == "^=" and not isinstance(parsed, str):
        parsed = value
    return {name: {_COMPARISONS[sign]: parsed}}


def typed(value: str | float) -> str:
    """A value as it is typed in a condition."""
    if isinstance(value, str) and value == value.strip() and parse_value(value) == value and value[:1] not in _SIGNS:
        return value
    return json.dumps(value, ensure_ascii=False)
