"""Filters in Chroma's language, which says less than ours: what is left is tested point by point."""

from __future__ import annotations

from typing import Any

from penstock.core.filters import Absent, Among, Compare, Every, Filter, HasValue, Not, Some
from penstock.sinks import terms
from penstock.sinks.chroma.points import ABSENT, key

ALWAYS = {"ordinal": {"$gt": ABSENT}}
NEVER = {"ordinal": {"$lte": ABSENT}}
MOST = 5000
"""Values that Chroma compares a field with; its database takes some thirty thousand in all."""
MOST_CONDITIONS = 500
"""Of one filter: Chroma's database takes a thousand in one expression."""

_SIGNS = {"=": ("$eq", "$ne"), "<": ("$lt", "$gte"), "<=": ("$lte", "$gt"), ">": ("$gt", "$lte"), ">=": ("$gte", "$lt")}


def translate(wanted: Filter, *, filterable: bool) -> tuple[dict[str, Any] | None, bool]:
    """Chroma's filter, and whether it is as narrow as the one that is wanted, for a collection that is kept
    `filterable` or as earlier. None where Chroma cannot narrow the search at all."""
    condition = _short(_exact(wanted, filterable))
    return (condition, True) if condition is not None else (_short(_wider(wanted, filterable)), False)


def _short(condition: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if condition is None or _size(condition) > MOST_CONDITIONS else condition


def _size(condition: dict[str, Any]) -> int:
    return sum(sum(map(_size, parts)) if name in ("$and", "$or") else 1 for name, parts in condition.items())


def _wider(wanted: Filter, filterable: bool) -> dict[str, Any] | None:
    """What all points have that pass, and some others may."""
    if (condition := _short(_exact(wanted, filterable))) is not None:
        return condition
    match wanted:
        case HasValue(path) if filterable:
            return _term(terms.named(path), True)
        case Every(several):
            parts = [part for one in several if (part := _wider(one, filterable)) is not None]
            return _joined("$and", parts) if parts else None
        case Some(several):
            parts = [part for one in several if (part := _wider(one, filterable)) is not None]
            return _joined("$or", parts) if len(parts) == len(several) else None
    return None


def _exact(wanted: Filter, filterable: bool, positive: bool = True) -> dict[str, Any] | None:
    """Translate the tree, or its negation, which Chroma lacks. None for what Chroma has no words for: ids and texts,
    the order of strings and of what is in lists, and prefixes."""
    match wanted:
        case Compare("ordinal" | "page" | "uri" as field, sign, value) if field != "uri" or sign == "=":
            condition: dict[str, Any] = {field: {_SIGNS[sign][not positive]: value}}
            if field == "page" and sign in ("<", "<="):  # ABSENT is less than any page
                absent = {field: {"$ne" if positive else "$eq": ABSENT}}
                return {"$and" if positive else "$or": [condition, absent]}
            return condition
        case Among("ordinal" | "page" | "uri" as field, values) if len(values) <= MOST:
            return {field: {"$in" if positive else "$nin": list(values)}} if values else NEVER if positive else ALWAYS
        case Absent("page"):
            return {"page": {"$eq" if positive else "$ne": ABSENT}}
        case Absent("image"):
            return _term(terms.IMAGE, not positive) if filterable else None
        case Absent():
            return NEVER if positive else ALWAYS
        case HasValue(path, "exists"):
            return _term(terms.named(path), positive)
        case HasValue(path, "=", value) if value is not None and not isinstance(value, tuple):
            return _term(terms.term(path, value), positive)
        case HasValue(path, "in", tuple(values)):
            return _joined("$or" if positive else "$and", [_term(terms.term(path, one), positive) for one in values])
        case Not(term):
            return _exact(term, filterable, not positive)
        case Every(several) | Some(several):
            every = isinstance(wanted, Every) is positive
            parts = [part for term in several if (part := _exact(term, filterable, positive)) is not None]
            return _joined("$and" if every else "$or", parts) if len(parts) == len(several) else None
    return None


def _term(text: str, positive: bool) -> dict[str, Any]:
    return {terms.TERMS: {"$contains" if positive else "$not_contains": text}}


def _joined(operator: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The parts as one filter: Chroma takes no list of fewer than two."""
    if len(parts) < 2:
        return parts[0] if parts else ALWAYS if operator == "$and" else NEVER
    return {operator: parts}


def keys(wanted: Filter | None) -> list[str] | None:
    """The keys of the points that can pass the filter, if it names ids."""
    match wanted:
        case Compare("id", "=", str(id)):
            return [key(id)]
        case Among("id", ids):
            return [key(id) for id in dict.fromkeys(ids) if isinstance(id, str)]
        case Every(terms):
            return next((found for term in terms if (found := keys(term)) is not None), None)
    return None
