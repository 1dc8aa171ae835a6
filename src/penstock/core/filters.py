"""What narrows a search: one form for the user, a small tree for the stores.

    {"uri": "file:///docs/a.md"}                            equal
    {"page": [1, 2, 3]}                                     one of
    {"page": {"$gte": 2, "$lt": 9}, "uri": {"$ne": "..."}}  all of these
    {"$or": [{"page": 1}, {"$not": {"ordinal": {"$lt": 5}}}]}

Fields are those of a chunk, see FIELDS. A comparison with what a chunk does not have (a page) is false, its negation
true: two values, whatever the store's own language makes of nulls. Each sink translates the tree into that language.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.core.errors import UsageError
from penstock.core.records import Chunk

Value = str | int

FIELDS: dict[str, type] = {"id": str, "uri": str, "text": str, "ordinal": int, "page": int}
"""What a search may be narrowed by, and the types. Only `page` may be absent."""
DEPTH = 16
"""Levels: stores put a filter into statements whose parsers recurse, LanceDB's not even 24 times."""


@dataclass(frozen=True, slots=True)
class Compare:
    field: str
    operator: str
    """One of = < <= > >=."""
    value: Value


@dataclass(frozen=True, slots=True)
class Among:
    field: str
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Absent:
    field: str


@dataclass(frozen=True, slots=True)
class Every:
    terms: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Some:
    terms: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Not:
    term: Filter


Filter = Compare | Among | Absent | Every | Some | Not

_OPERATORS = {"$lt": "<", "$lte": "<=", "$gt": ">", "$gte": ">="}
_MEANING: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def parse(where: Mapping[str, Any] | None) -> Filter | None:
    """The filter; None where there is none. Raises UsageError for an invalid one."""
    wanted = _parse(where, 1) if where else None
    if _levels(wanted) > DEPTH:
        raise UsageError(_DEEP)
    return wanted


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
        elif name in FIELDS:
            terms.extend(_field(name, wanted))
        else:
            known = ", ".join([*sorted(FIELDS), "$and", "$or", "$not"])
            raise UsageError(f"a search cannot be narrowed by {name!r}; by: {known}")
    if not terms:
        raise UsageError("a part of the filter asks nothing")
    return terms[0] if len(terms) == 1 else Every(tuple(terms))


def _field(name: str, wanted: object) -> list[Filter]:
    if not isinstance(wanted, Mapping):
        return [_among(name, wanted) if isinstance(wanted, list | tuple) else _equal(name, wanted)]
    if not wanted:
        raise UsageError(f"nothing is asked of {name}")
    terms: list[Filter] = []
    for sign, value in wanted.items():
        if sign == "$eq":
            terms.append(_equal(name, value))
        elif sign == "$ne":
            terms.append(Not(_equal(name, value)))
        elif sign == "$in":
            terms.append(_among(name, value))
        elif sign == "$nin":
            terms.append(Not(_among(name, value)))
        elif sign in _OPERATORS:
            terms.append(Compare(name, _OPERATORS[sign], _typed(name, value)))
        else:
            known = ", ".join(["$eq", "$ne", "$in", "$nin", *_OPERATORS])
            raise UsageError(f"{name}: unknown comparison {sign!r}; there are: {known}")
    return terms


def _equal(name: str, value: object) -> Filter:
    return Absent(name) if value is None else Compare(name, "=", _typed(name, value))


def _among(name: str, values: object) -> Filter:
    if not isinstance(values, list | tuple):
        raise UsageError(f"{name}: a list of values is compared with, not a {type(values).__name__}")
    return Among(name, tuple(_typed(name, value) for value in values))


def _typed(name: str, value: object) -> Value:
    kind = FIELDS[name]
    if isinstance(value, bool) or not isinstance(value, str | int) or not isinstance(value, kind):
        raise UsageError(f"{name} is compared with {kind.__name__}, not {type(value).__name__}")
    if isinstance(value, int) and abs(value) >= 1 << 63:
        raise UsageError(f"{name}: {value} is out of range")
    return value


def passes(chunk: Chunk, wanted: Filter) -> bool:
    """What the tree means."""
    match wanted:
        case Compare(field, sign, value):
            held = getattr(chunk, field)
            return held is not None and _MEANING[sign](held, value)
        case Among(field, values):
            return getattr(chunk, field) in values
        case Absent(field):
            return getattr(chunk, field) is None
        case Every(terms):
            return all(passes(chunk, term) for term in terms)
        case Some(terms):
            return any(passes(chunk, term) for term in terms)
        case Not(term):
            return not passes(chunk, term)


def sql(wanted: Filter, put: Callable[[Value], str]) -> str:
    """The tree as SQL; `put` writes a value down, as a literal or as a parameter that it keeps."""
    match wanted:
        case Compare(field, sign, value):
            return f"({field} IS NOT NULL AND {field} {sign} {put(value)})"
        case Among(field, values):
            inside = ", ".join(map(put, values))
            return f"({field} IS NOT NULL AND {field} IN ({inside}))" if values else "(1 = 0)"
        case Absent(field):
            return f"({field} IS NULL)"
        case Every(terms):
            return f"({' AND '.join(sql(term, put) for term in terms)})"
        case Some(terms):
            return f"({' OR '.join(sql(term, put) for term in terms)})"
        case Not(term):
            return f"(NOT {sql(term, put)})"


@dataclass(frozen=True, slots=True)
class Parameters:
    """Keeps the values that a statement is given, and writes a mark for each."""

    mark: str
    values: list[Any]

    def __call__(self, value: Value) -> str:
        self.values.append(value)
        return self.mark


def literal(value: Value) -> str:
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"
