"""From a filter as users write it, see penstock.core.filters, to the tree that sinks translate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from penstock.core import fields
from penstock.core.errors import UsageError
from penstock.core.fields import Scalar
from penstock.core.filters import (
    FIELDS,
    Absent,
    Among,
    Compare,
    Every,
    Filter,
    HasValue,
    Not,
    Some,
    Value,
    leaves,
    successor,
)
from penstock.core.metadata import normalized_value

DEPTH = 16
"""Levels: stores put a filter into statements whose parsers recurse, LanceDB's not even 24 times."""
TERMS = 1000
"""Comparisons of one filter: each is an expression of its own in a store's statement."""
NAMES = 4000
"""Names in the paths of its fields: a store may look into a mapping for each."""
VALUES = 10_000
"""Values that one filter compares with: stores take some thirty thousand parameters a statement."""
LARGEST_NUMBER = 1 << 53
"""Of metadata: stores keep numbers as doubles."""

_SHOWN = 100
"""Characters of a name or value in a message."""
_OPERATORS = {"$lt": "<", "$lte": "<=", "$gt": ">", "$gte": ">="}


def parse_filter(where: Mapping[str, Any] | None) -> Filter | None:
    """The filter; None where there is none. Raises UsageError for an invalid one."""
    wanted = _parse(where, 1) if where else None
    if wanted is not None:
        _check_size(wanted)
    return wanted


def _check_size(wanted: Filter) -> None:
    if _levels(wanted) > DEPTH:
        raise UsageError(_DEEP)
    terms = names = values = 0
    for term in leaves(wanted):
        terms += 1
        names += len(term.path) if isinstance(term, HasValue) else 1
        several = term.values if isinstance(term, Among) else term.value if isinstance(term, HasValue) else None
        values += len(several) if isinstance(several, tuple) else 1
    for number, most, what in (
        (terms, TERMS, "comparisons"),
        (names, NAMES, "names of fields"),
        (values, VALUES, "values"),
    ):
        if number > most:
            raise UsageError(
                f"a filter of {number:,} {what}: expected at most {most:,}; search in parts, or by fewer fields"
            )


_DEEP = f"a filter of more than {DEPTH} levels"


def _levels(wanted: Filter | None) -> int:
    match wanted:
        case Every(terms) | Some(terms):
            return 1 + max(map(_levels, terms))
        case Not(term):
            return 1 + _levels(term)
    return 1


def _parse(where: object, depth: int) -> Filter:
    if not isinstance(where, Mapping):
        raise UsageError(f"a filter is a mapping such as {{'page': 3}}, not a {type(where).__name__}")
    if depth > DEPTH:
        raise UsageError(_DEEP)
    terms: list[Filter] = []
    for name, wanted in where.items():
        if name in ("$and", "$or"):
            if not isinstance(wanted, Sequence) or isinstance(wanted, str) or not wanted:
                raise UsageError(f"{name} takes a list of filters")
            several = tuple(_parse(part, depth + 1) for part in wanted)
            terms.append(Every(several) if name == "$and" else Some(several))
        elif name == "$not":
            terms.append(Not(_parse(wanted, depth + 1)))
        elif isinstance(name, str):
            terms.extend(_field(name, wanted))
        else:
            raise UsageError(f"a field of a filter is named by a text, not a {type(name).__name__}")
    if not terms:
        raise UsageError("a part of the filter asks nothing")
    return terms[0] if len(terms) == 1 else Every(tuple(terms))


def _field(name: str, wanted: object) -> list[Filter]:
    field = _field_of(name)
    name = _short(name)
    if not isinstance(wanted, Mapping):
        return [field.among(wanted) if isinstance(wanted, list | tuple) else field.equal(wanted)]
    if not wanted:
        raise UsageError(f"nothing is asked of {name}")
    terms: list[Filter] = []
    for sign, value in wanted.items():
        if sign == "$eq":
            terms.append(field.equal(value))
        elif sign == "$ne":
            terms.append(Not(field.equal(value)))
        elif sign == "$in":
            terms.append(field.among(value))
        elif sign == "$nin":
            terms.append(Not(field.among(value)))
        elif sign == "$all" and isinstance(value, list | tuple) and value:
            terms.extend(map(field.equal, value))
        elif sign == "$exists" and isinstance(value, bool):
            terms.append(Not(field.equal(None)) if value else field.equal(None))
        elif sign == "$prefix" and isinstance(value, str):
            terms.append(field.prefix(value))
        elif sign in _OPERATORS:
            terms.append(field.order(_OPERATORS[sign], value))
        elif sign in _SHAPES:
            raise UsageError(f"{name}: {sign} takes {_SHAPES[sign]}, not {shown(value)}")
        else:
            known = ", ".join(["$eq", "$ne", "$in", "$nin", *_OPERATORS, *_SHAPES])
            raise UsageError(f"{name}: unknown comparison {shown(sign)}; there are: {known}")
    return terms


_SHAPES = {"$all": "a list of values", "$exists": "true or false", "$prefix": "a text"}


class _ChunkField:
    """One of FIELDS."""

    def __init__(self, name: str) -> None:
        self.name = name

    def equal(self, value: object) -> Filter:
        return Absent(self.name) if value is None else self.order("=", value)

    def order(self, sign: str, value: object) -> Filter:
        return Compare(self.name, sign, self._typed(value))

    def among(self, values: object) -> Filter:
        return Among(self.name, tuple(map(self._typed, _several(self.name, values))))

    def prefix(self, value: str) -> Filter:
        terms = [Compare(self.name, ">=", self._typed(value))]
        if after := successor(value):
            terms.append(Compare(self.name, "<", after))
        return Every(tuple(terms))

    def _typed(self, value: object) -> Value:
        expected = FIELDS[self.name]
        if isinstance(value, bool) or not isinstance(value, str | int) or not isinstance(value, expected):
            raise UsageError(f"{self.name} is compared with {expected.__name__}, not {type(value).__name__}")
        if isinstance(value, int) and abs(value) >= 1 << 63:
            raise UsageError(f"{self.name}: {shown(value)} is out of range")
        return value


class _TypeField:
    """`type`: whether a chunk is an image or a text."""

    name = "type"

    def equal(self, value: object) -> Filter:
        if value == "image":
            return Not(Absent("image"))
        if value == "text":
            return Absent("image")
        raise UsageError(f"type is text or image, not {shown(value)}")

    def among(self, values: object) -> Filter:
        several = tuple(map(self.equal, _several(self.name, values)))
        return Some(several) if several else Among("id", ())

    def order(self, sign: str, value: object) -> Filter:
        raise UsageError(f"type is text or image: it has no order, as {sign} would need")

    def prefix(self, value: str) -> Filter:
        return self.order("$prefix", value)


class _MetadataField:
    def __init__(self, name: str) -> None:
        try:
            self.path = fields.parse_path(name)
            self.name = _short(name)
        except ValueError:
            known = ", ".join([*sorted(FIELDS), "type", "fields of metadata such as author.name, $and, $or, $not"])
            raise UsageError(f"a search cannot be narrowed by {shown(name)}; by: {known}") from None

    def equal(self, value: object) -> Filter:
        if value is None:
            return Not(HasValue(self.path, "exists"))
        return HasValue(self.path, "=", self._scalar(value))

    def among(self, values: object) -> Filter:
        return HasValue(self.path, "in", tuple(map(self._scalar, _several(self.name, values))))

    def order(self, sign: str, value: object) -> Filter:
        if isinstance(value, bool):
            raise UsageError(f"{self.name}: true and false are in no order, as {sign} would need")
        return HasValue(self.path, sign, self._scalar(value))

    def prefix(self, value: str) -> Filter:
        return HasValue(self.path, "prefix", value) if value else HasValue(self.path, "exists")

    def _scalar(self, value: object) -> Scalar:
        if not isinstance(value, str | int | float | date):
            expected = "a text, number, true or false, date or time"
            raise UsageError(f"{self.name} is compared with {expected}, not {type(value).__name__}")
        if isinstance(value, int) and abs(value) > LARGEST_NUMBER:
            raise UsageError(
                f"{self.name}: {shown(value)} is out of range: numbers of metadata are compared up to 2^53"
            )
        try:
            scalar: Scalar = normalized_value(value, self.name)
        except ValueError as error:
            raise UsageError(f"{self.name}: {error}") from None
        return scalar


def _field_of(name: str) -> _ChunkField | _TypeField | _MetadataField:
    if name in FIELDS:
        return _ChunkField(name)
    return _TypeField() if name == "type" else _MetadataField(name)


def facet_path(name: str) -> fields.Path | None:
    """The path of a field whose values are counted; None for `type`. Raises UsageError for what is not counted."""
    field = _field_of(name)
    if isinstance(field, _ChunkField):
        raise UsageError(f"values are counted of type and of fields of metadata, not of {shown(name)}")
    return None if isinstance(field, _TypeField) else field.path


def shown(value: object) -> str:
    """A value in a message, which is no longer for what is in the filter."""
    try:
        return _short(repr(value))
    except (ValueError, RecursionError):  # an int of thousands of digits, a list of thousands of levels
        return f"such a {type(value).__name__}"


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _several(name: str, values: object) -> list[Any] | tuple[Any, ...]:
    if not isinstance(values, list | tuple):
        raise UsageError(f"{name}: a list of values is compared with, not a {type(values).__name__}")
    return values
