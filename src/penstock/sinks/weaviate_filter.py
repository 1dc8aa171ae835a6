"""What narrows a search, in Weaviate's language: it means the same in servers that differ in what they make of Not."""

from __future__ import annotations

import hashlib
from typing import Any

from penstock.core.errors import UsageError
from penstock.core.filters import Absent, Among, Compare, Every, Filter, Not, Some
from penstock.sinks.lengths import key

LARGEST_NUMBER = 1 << 53
"""Numbers go over the wire as doubles."""
_FLIPPED = {"<": ">=", "<=": ">", ">": "<=", ">=": "<"}
_CALLED = {"<": "less_than", "<=": "less_or_equal", ">": "greater_than", ">=": "greater_or_equal"}


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def translate(wanted: Filter, f: Any, meant: bool = True) -> Any:
    """The tree, or what it is not if not `meant`: older servers have no Not and differ in what they make of absent
    values, and older clients cannot ask for booleans. Raises UsageError for the order of texts."""
    match wanted:
        case Compare(field, "=", value):
            return _equal(field, value, f, meant)
        case Compare(field, _, str()):
            raise UsageError(f"{field}: Weaviate does not order texts as we do: comparisons are for numbers")
        case Compare(field, sign, value):
            if abs(int(value)) > LARGEST_NUMBER:
                raise UsageError(f"{field}: Weaviate compares numbers up to 2^53, not {value}")
            asked = getattr(f.by_property(field), _CALLED[sign if meant else _FLIPPED[sign]])(value)
            return asked if meant else _or_absent(field, asked, f)
        case Among(field, ()):
            return always(f, not meant)
        case Among(field, values):
            several = [_equal(field, value, f, meant) for value in dict.fromkeys(values)]
            return f.any_of(several) if meant else f.all_of(several)
        case Absent(field):
            return f.by_property("has_page").equal(int(not meant)) if field == "page" else always(f, not meant)
        case Not(term):
            return translate(term, f, not meant)
        case Every(terms) | Some(terms):
            several = [translate(term, f, meant) for term in terms]
            return f.all_of(several) if isinstance(wanted, Every) is meant else f.any_of(several)


def _equal(field: str, value: str | int, f: Any, meant: bool) -> Any:
    if field == "id":
        target, value = f.by_id(), key(str(value))
    elif isinstance(value, str):
        target, value = f.by_property(f"{field}_digest"), digest(value)
    elif abs(value) > LARGEST_NUMBER:
        return always(f, not meant)
    else:
        target = f.by_property(field)
    if meant:
        return target.equal(value)
    if isinstance(value, int):  # servers differ in whether an absent number is unequal
        return _or_absent(field, target.less_than(value) | target.greater_than(value), f)
    return target.not_equal(value)


def _or_absent(field: str, asked: Any, f: Any) -> Any:
    return asked | f.by_property("has_page").equal(0) if field == "page" else asked


def always(f: Any, meant: bool) -> Any:
    either = [f.by_property("has_page").equal(1), f.by_property("has_page").equal(0)]
    return f.any_of(either) if meant else f.all_of(either)
