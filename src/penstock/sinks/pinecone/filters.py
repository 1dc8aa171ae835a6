"""Filters in the language of Pinecone, which has no `not`: negations go down to the comparisons.

What is asked of metadata is looked up in the list `terms`, and the order of numbers and of times in fields of their
own, see penstock.sinks.pinecone.records.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from penstock.core import filters
from penstock.core.errors import UsageError
from penstock.core.fields import kind
from penstock.sinks import hashed_terms as terms
from penstock.sinks.pinecone.records import GREATEST, LARGEST_NUMBER, LEAST, ordered

TERMS = 10_000
"""The most values of one `$in`."""

_PAGED: dict[str, Any] = {"has_page": {"$eq": True}}
_PAGELESS: dict[str, Any] = {"has_page": {"$eq": False}}
_ALL: dict[str, Any] = {"$or": [_PAGED, _PAGELESS]}
_NONE: dict[str, Any] = {"$and": [_PAGED, _PAGELESS]}
_SIGNS = {"<": "$lt", "<=": "$lte", ">": "$gt", ">=": "$gte"}
_OPPOSITE = {"<": "$gte", "<=": "$gt", ">": "$lte", ">=": "$lt"}


def translate(wanted: filters.Filter, *, negated: bool = False) -> dict[str, Any]:
    match wanted:
        case filters.Not(term):
            return translate(term, negated=not negated)
        case filters.Every(terms):
            return _several(terms, negated, every=not negated)
        case filters.Some(terms):
            return _several(terms, negated, every=negated)
        case filters.Absent("image"):
            return {"image": {"$exists": negated}}
        case filters.Absent(field):
            if field == "page":
                return _PAGED if negated else _PAGELESS
            return _ALL if negated else _NONE
        case filters.Compare(field, sign, str()) if sign != "=":
            raise UsageError(f"{field}: Pinecone does not order texts: {sign} is for numbers")
        case filters.Compare(field, "=", value):
            return _among(field, (value,), negated)
        case filters.Compare(field, sign, value):
            test = {field: {(_OPPOSITE if negated else _SIGNS)[sign]: _comparable(field, value)}}
            return _or_pageless(field, test) if negated else test
        case filters.Among(field, values):
            return _among(field, values, negated)
        case filters.HasValue():
            return _has_value(wanted, negated)


def _has_value(wanted: filters.HasValue, negated: bool) -> dict[str, Any]:
    path, asked, sign = wanted.path, wanted.value, wanted.operator
    if asked is None:
        return _among("terms", (terms.present(path),), negated)
    if isinstance(asked, tuple) or sign == "=":
        several = asked if isinstance(asked, tuple) else (asked,)
        return _among("terms", [terms.equal(path, value) for value in several], negated)
    if sign == "prefix" or (number := ordered(asked)) is None:
        raise UsageError(
            f"{wanted.name}: Pinecone does not order texts: {'$prefix' if sign == 'prefix' else sign} is for numbers,"
            " dates and times"
        )
    field = terms.bound(path, kind(asked)) + (GREATEST if sign in (">", ">=") else LEAST)
    if negated:
        return {"$or": [{field: {"$exists": False}}, {field: {_OPPOSITE[sign]: number}}]}
    return {field: {_SIGNS[sign]: number}}


def _several(terms: Sequence[filters.Filter], negated: bool, *, every: bool) -> dict[str, Any]:
    parts = [translate(term, negated=negated) for term in terms]
    if len(parts) < 2:
        return parts[0] if parts else (_ALL if every else _NONE)
    return {"$and" if every else "$or": parts}


def _among(field: str, values: Sequence[filters.Value], negated: bool) -> dict[str, Any]:
    known = [value for value in (_comparable(field, value) for value in values) if value is not None]
    if not known:
        return _ALL if negated else _NONE
    if len(known) == 1 and field != "terms":  # which is a list
        test: dict[str, Any] = {field: {"$ne" if negated else "$eq": known[0]}}
    else:
        sign = "$nin" if negated else "$in"
        tests = [{field: {sign: known[i : i + TERMS]}} for i in range(0, len(known), TERMS)]
        test = tests[0] if len(tests) == 1 else {"$and" if negated else "$or": tests}
    return _or_pageless(field, test) if negated else test


def _or_pageless(field: str, test: dict[str, Any]) -> dict[str, Any]:
    return {"$or": [_PAGELESS, test]} if field == "page" else test


def _comparable(field: str, value: filters.Value) -> filters.Value | None:
    """The value; None for a text with a lone surrogate, which has no UTF-8 and equals nothing that is stored."""
    if isinstance(value, str):
        return None if re.search("[\ud800-\udfff]", value) else value
    if abs(value) > LARGEST_NUMBER:
        raise UsageError(f"{field}: Pinecone compares numbers up to 2^53, not {value}")
    return value
