"""Filters in Weaviate's language, put so that servers which differ in their Not agree on them."""

from __future__ import annotations

import hashlib
from typing import Any

from penstock.core.errors import UsageError
from penstock.core.filters import Absent, Among, Compare, Every, Filter, HasValue, Not, Some
from penstock.sinks.lengths import key
from penstock.sinks.weaviate import tokens
from penstock.sinks.weaviate.tokens import Order

TOKENS = "field_tokens"
"""The property that has the tokens of an object's metadata."""
LARGEST_NUMBER = 1 << 53
"""Numbers go over the wire as doubles."""
_FLIPPED = {"<": ">=", "<=": ">", ">": "<=", ">=": "<"}
_METHODS = {"<": "less_than", "<=": "less_or_equal", ">": "greater_than", ">=": "greater_or_equal"}


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def translate(wanted: Filter, f: Any, positive: bool = True) -> Any:
    """Translate the tree, or its negation, by the client's class of filters `f`. Raises UsageError for the order of
    texts. Older servers have no Not and differ in how they treat absent values; older clients cannot ask for booleans.
    """
    match wanted:
        case Compare(field, "=", value):
            return _equal(field, value, f, positive)
        case Compare(field, _, str()):
            raise UsageError(f"{field}: Weaviate does not order texts by their characters; compare numbers")
        case Compare(field, sign, value):
            if abs(int(value)) > LARGEST_NUMBER:
                raise UsageError(f"{field}: Weaviate compares numbers up to 2^53, not {value}")
            condition = getattr(f.by_property(field), _METHODS[sign if positive else _FLIPPED[sign]])(value)
            return condition if positive else _or_absent(field, condition, f)
        case Among(field, values):
            return _joined([_equal(field, value, f, positive) for value in dict.fromkeys(values)], f, positive)
        case Absent("page" | "image" as field):
            return f.by_property(f"has_{field}").equal(int(not positive))
        case Absent():
            return constant(not positive, f)
        case HasValue(path, "exists"):
            return _has_any([tokens.present(path)], f, positive)
        case HasValue(path, "=" | "in", value):
            assert value is not None
            several = value if isinstance(value, tuple) else (value,)
            return _has_any([tokens.equal(path, one) for one in several], f, positive)
        case HasValue():
            return _ordered(wanted, f, positive)
        case Not(term):
            return translate(term, f, not positive)
        case Every(terms) | Some(terms):
            return _joined([translate(term, f, positive) for term in terms], f, isinstance(wanted, Some) is positive)


def _joined(terms: list[Any], f: Any, alternatives: bool) -> Any:
    if not terms:
        return constant(not alternatives, f)
    return f.any_of(terms) if alternatives else f.all_of(terms)


def _has_any(several: list[str], f: Any, positive: bool) -> Any:
    target = f.by_property(TOKENS)
    if positive and several:
        return target.contains_any(several)
    return _joined([target.not_equal(token) for token in several], f, positive)


def _ordered(wanted: HasValue, f: Any, positive: bool) -> Any:
    """Any value of a list is greater if the greatest is; no value is, if the greatest is not, or there is none."""
    sign, asked = wanted.operator, wanted.value
    order = (Order.of_times if isinstance(asked, str) else Order.of_numbers)(wanted.path)
    if sign not in _FLIPPED or isinstance(asked, tuple | None) or (position := order.position(asked)) is None:
        raise UsageError(
            f"{wanted.name}: Weaviate has no order of texts, nor what they begin with: compare numbers, dates or times"
        )
    end = sign[0]
    target = f.by_property(TOKENS)
    if positive:
        return target.contains_any(order.beyond(sign, position, end))
    return target.contains_any(order.beyond(_FLIPPED[sign], position, end)) | target.not_equal(order.start)


def _equal(field: str, value: str | int, f: Any, positive: bool) -> Any:
    if field == "id":
        target, value = f.by_id(), key(str(value))
    elif isinstance(value, str):
        target, value = f.by_property(f"{field}_digest"), digest(value)
    elif abs(value) > LARGEST_NUMBER:
        return constant(not positive, f)
    else:
        target = f.by_property(field)
    if positive:
        return target.equal(value)
    if isinstance(value, int):  # servers differ in whether an absent number is unequal
        return _or_absent(field, target.less_than(value) | target.greater_than(value), f)
    return target.not_equal(value)


def _or_absent(field: str, condition: Any, f: Any) -> Any:
    return condition | f.by_property("has_page").equal(0) if field == "page" else condition


def constant(value: bool, f: Any) -> Any:
    """A filter that every point passes, or none."""
    either = [f.by_property("has_page").equal(1), f.by_property("has_page").equal(0)]
    return f.any_of(either) if value else f.all_of(either)
