"""What narrows a search: one form for the user, a small tree for the stores.

    {"uri": "file:///docs/a.md"}                            equal
    {"page": [1, 2, 3]}                                     one of
    {"page": {"$gte": 2, "$lt": 9}, "uri": {"$ne": "..."}}  all of these
    {"$or": [{"page": 1}, {"$not": {"ordinal": {"$lt": 5}}}]}
    {"department": "hr", "author.name": {"$prefix": "A"}}   fields of its metadata
    {"tags": {"$all": ["new", "draft"]}, "year": {"$exists": True}}

Fields are those of a chunk, see FIELDS, `type` ("text" or "image"), and all of its metadata, see penstock.core.fields.
A comparison with what a chunk does not have (a page) is false, its negation true: two values, whatever the store's own
language makes of nulls. A number is never compared with a text. Texts are in the order of their characters' codes, in
which dates and times of the form that metadata keep are in the order of time. Each sink translates the tree into its
store's language; what that has no words for is refused, with UsageError.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from penstock.core import fields
from penstock.core.fields import Scalar, kind
from penstock.core.records import Chunk

Value = str | int

FIELDS: dict[str, type] = {"id": str, "uri": str, "text": str, "ordinal": int, "page": int}
"""What a search may be narrowed by, and the types. Only `page` may be absent."""


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
class HasValue:
    """Whether the metadata has at that path a value which is as asked. Of several each is tried by itself."""

    path: fields.Path
    operator: str
    """One of = < <= > >= in prefix exists."""
    value: Scalar | tuple[Scalar, ...] | None = None
    """Several for `in`, none for `exists`."""

    @property
    def name(self) -> str:
        return ".".join(self.path)


@dataclass(frozen=True, slots=True)
class Every:
    terms: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Some:
    terms: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Not:
    term: Filter


Leaf = Compare | Among | Absent | HasValue
Filter = Leaf | Every | Some | Not

_MEANING: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def successor(prefix: str) -> str:
    """The first text after all that begin with this one; nothing where there is none."""
    for position in range(len(prefix) - 1, -1, -1):
        if (code := ord(prefix[position])) < 0x10FFFF:
            return prefix[:position] + chr(0xE000 if code + 1 == 0xD800 else code + 1)
    return ""


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
        case HasValue():
            return _has_value(fields.value_at(chunk.metadata, wanted.path), wanted)
        case Every(terms):
            return all(passes(chunk, term) for term in terms)
        case Some(terms):
            return any(passes(chunk, term) for term in terms)
        case Not(term):
            return not passes(chunk, term)


def _has_value(value: Any, wanted: HasValue) -> bool:
    if wanted.operator == "exists":
        return fields.has_value(value)
    held = fields.scalars(value)
    asked: Any = wanted.value
    if wanted.operator == "in":
        return any(kind(one) is kind(other) and one == other for one in held for other in asked)
    same = [one for one in held if kind(one) is kind(asked)]
    if wanted.operator == "prefix":
        return any(str(one).startswith(asked) for one in same)
    return any(_MEANING[wanted.operator](one, asked) for one in same)


def leaves(wanted: Filter | None) -> Iterator[Leaf]:
    """The terms that have none within them, in their order."""
    match wanted:
        case None:
            return
        case Every(terms) | Some(terms):
            for term in terms:
                yield from leaves(term)
        case Not(term):
            yield from leaves(term)
        case _:
            yield wanted


def chunk_fields(wanted: Filter | None) -> set[str]:
    """The names of the fields of a chunk itself that a filter asks for; of the type, `image`."""
    return {term.field for term in leaves(wanted) if not isinstance(term, HasValue)}


def metadata_fields(wanted: Filter | None) -> list[str]:
    """The names of the fields of metadata that a filter asks for."""
    return list(dict.fromkeys(term.name for term in leaves(wanted) if isinstance(term, HasValue)))


def sql(wanted: Filter, put: Callable[[Scalar], str], has_value: Callable[[HasValue], str]) -> str:
    """The tree as SQL; `put` writes a value down, as a literal or as a parameter that it keeps, and `has_value` the
    test of a field of metadata, which is never null."""
    match wanted:
        case Compare(field, sign, value):
            return f"({field} IS NOT NULL AND {field} {sign} {put(value)})"
        case Among(field, values):
            inside = ", ".join(map(put, values))
            return f"({field} IS NOT NULL AND {field} IN ({inside}))" if values else "(1 = 0)"
        case Absent(field):
            return f"({field} IS NULL)"
        case HasValue():
            return f"({has_value(wanted)})"
        case Every(terms):
            return f"({' AND '.join(sql(term, put, has_value) for term in terms)})"
        case Some(terms):
            return f"({' OR '.join(sql(term, put, has_value) for term in terms)})"
        case Not(term):
            return f"(NOT {sql(term, put, has_value)})"


@dataclass(frozen=True, slots=True)
class Parameters:
    """Keeps the values that a statement is given, and writes a mark for each."""

    mark: str
    values: list[Any]

    def __call__(self, value: Scalar) -> str:
        self.values.append(value)
        return self.mark


def literal(value: Scalar) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, int | float) else "'" + value.replace("'", "''") + "'"
