"""Filters as conditions of SQL, of texts as they are kept.

Of metadata equality is asked by containment, for which the GIN index on it serves; anything else by SQL/JSON paths.
Those compare texts by the codes of their characters, whatever the collation, and values of two types never.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from penstock.core import filters
from penstock.core.errors import UsageError
from penstock.core.fields import Path, Scalar
from penstock.core.filters import HasValue, Parameters
from penstock.sinks.pgvector.values import encoded, storable, to_jsonb

MOST_CONTAINED = 20
"""Values that are each looked up in the GIN index; for more, those of each row are looked up in the list."""
_FROM_TEXT = r"""CASE WHEN metadata ~ E'\\\\u000[01]|NaN|Infinity'
    THEN replace(replace(regexp_replace(
        replace(replace(replace(replace(
            metadata, E'\\\\', E'\x03'), E'\\u0001', E'\\u0001\\u0002'), E'\\u0000', E'\\u0001\\u0001'),
            E'\x03', E'\\\\'),
        E'("(?:[^"\\\\]|\\\\.)*")|NaN|-?Infinity', E'\\1\x02', 'g'), E'"\x02', '"'), E'\x02', 'null')::jsonb
    ELSE metadata::jsonb END"""
"""What tables of earlier versions have as text, with the characters that no jsonb takes as `values.to_jsonb` has them,
and null for NaN and infinity. The control characters stand for parts of it meanwhile: none is in a text of JSON."""
_NOTHING = "('null', '[]', '{}')"
_NO_CONSTANT = r'!(@ like_regex "^\u0001[-IN]")'
"""No NaN or infinity, which are kept as texts."""


def condition(wanted: filters.Filter | None, jsonb: bool, values: list[Any]) -> str:
    """The filter in SQL with marks for values, which it appends. `jsonb` says how the table has metadata."""
    if wanted is None:
        return "true"
    put = Parameters("%s", values)
    return filters.sql(_as_stored(wanted), put, lambda one: _has_value(one, put, column(jsonb)))


def column(jsonb: bool) -> str:
    """The metadata of a row, as jsonb."""
    return "metadata" if jsonb else f"({_FROM_TEXT})"


def json_path(path: Path) -> str:
    """The path to a field. In strict mode: else those of the mappings in a list would count as the list's own."""
    if unknown := [name for name in path if next(storable([name]), None) is None]:
        raise UsageError(f"invalid field in a filter: {unknown[0]!r} has a lone surrogate, which no text can hold")
    return f"strict ${''.join(f'.{_json(name)}' for name in path)}"


def _has_value(wanted: HasValue, put: Callable[[Scalar], str], metadata: str) -> str:
    path, asked = json_path(wanted.path), wanted.value
    if wanted.operator == "exists":
        first = f"jsonb_path_query_first({metadata}, {put(path)}::jsonpath, '{{}}', true)"
        return f"coalesce({first}, 'null') NOT IN {_NOTHING}"
    assert asked is not None
    several = asked if isinstance(asked, tuple) else (asked,)
    if not several:
        return "1 = 0"
    if wanted.operator in ("=", "in") and len(several) <= MOST_CONTAINED:
        # A list contains its values, but is contained by another list only.
        forms = (form for value in several for form in (_json(value), f"[{_json(value)}]"))
        return " OR ".join(f"{metadata} @> {put(_nested(wanted.path, form))}::jsonb" for form in forms)
    if isinstance(asked, tuple):
        values = held(metadata, put(path), put(f"{path}[*]"), "UNION ALL")
        listed: Any = [_json(value) for value in asked]
        return f"EXISTS (SELECT FROM ({values}) AS held (value) WHERE value = ANY({put(listed)}::jsonb[]))"
    variables = _json({"x": asked})
    test = "@ starts with $x" if wanted.operator == "prefix" else f"@ {wanted.operator} $x"
    if isinstance(asked, str):
        test += f" && {_NO_CONSTANT}"
    tests = []
    for part in (path, f"{path}[*]"):
        arguments = f"{metadata}, {put(f'{part} ? ({test})')}::jsonpath, {put(variables)}::jsonb, true"
        tests.append(f"coalesce(jsonb_path_exists({arguments}), false)")
    return " OR ".join(tests)


def held(metadata: str, path: str, each: str, union: str = "UNION") -> str:
    """What is at a path, and what is in it if it is a list: each value once, unless it is a UNION ALL."""
    return f" {union} ".join(
        f"SELECT jsonb_path_query({metadata}, {of}::jsonpath, '{{}}', true)" for of in (path, each)
    )


def _nested(path: Path, value: str) -> str:
    return "".join(f"{{{_json(name)}: " for name in path) + value + "}" * len(path)


def _json(value: object) -> str:
    return to_jsonb(json.dumps(value, ensure_ascii=False))


def _as_stored(wanted: filters.Filter) -> filters.Filter:
    """The same filter of texts as they are kept; beside a term about a uri, one for the index on uris' starts."""
    match wanted:
        case filters.Compare(field, sign, str(value)):
            term = filters.Compare(field, sign, _encoded(value))
            start = filters.Compare("left(uri, 500)", sign, _encoded(value)[:500])
            return filters.Every((start, term)) if (field, sign) == ("uri", "=") else term
        case filters.Among(field, values) if filters.FIELDS[field] is str:
            texts = tuple(_encoded(str(value)) for value in values)
            among = filters.Among(field, texts)
            starts = filters.Among("left(uri, 500)", tuple(text[:500] for text in texts))
            return filters.Every((starts, among)) if field == "uri" else among
        case filters.Every(terms):
            return filters.Every(tuple(map(_as_stored, terms)))
        case filters.Some(terms):
            return filters.Some(tuple(map(_as_stored, terms)))
        case filters.Not(term):
            return filters.Not(_as_stored(term))
        case _:
            return wanted


def _encoded(text: str) -> str:
    if next(storable([text]), None) is None:
        raise UsageError(f"invalid value in a filter: {text!r} has a lone surrogate, which no text can hold")
    return encoded(text)
