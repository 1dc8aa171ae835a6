"""Filters in Chroma's language, which says less than ours: what is left is tested point by point."""

from __future__ import annotations

from typing import Any

from penstock.core.filters import Absent, Among, Compare, Every, Filter, Not, Some
from penstock.sinks.chroma.points import ABSENT, key

ALWAYS = {"ordinal": {"$gt": ABSENT}}
NEVER = {"ordinal": {"$lte": ABSENT}}
MOST = 5000
"""Values that Chroma compares a field with; its database takes some thirty thousand in all."""

_SIGNS = {"=": ("$eq", "$ne"), "<": ("$lt", "$gte"), "<=": ("$lte", "$gt"), ">": ("$gt", "$lte"), ">=": ("$gte", "$lt")}


def translate(wanted: Filter, positive: bool = True) -> dict[str, Any] | None:
    """Translate the tree, or its negation, which Chroma lacks. None for what Chroma has no words for: ids and texts,
    and the order of strings."""
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
        case Absent():
            return NEVER if positive else ALWAYS
        case Not(term):
            return translate(term, not positive)
        case Every(terms) | Some(terms):
            every = isinstance(wanted, Every) is positive
            parts = [part for term in terms if (part := translate(term, positive)) is not None]
            if len(parts) < len(terms):
                return None
            if len(parts) < 2:
                return parts[0] if parts else ALWAYS if every else NEVER
            return {"$and" if every else "$or": parts}
    return None


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
