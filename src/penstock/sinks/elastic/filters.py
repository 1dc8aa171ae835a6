"""Filters in the query language of both products."""

from __future__ import annotations

from typing import Any

from penstock.core import filters
from penstock.core.errors import UsageError
from penstock.core.schema import IndexSchema
from penstock.sinks import manifests
from penstock.sinks.elastic.terms import FIELD, LONGEST_TEXT, digest, name_of, span, term_of
from penstock.sinks.facets import type_of

TERMS = 10_000
"""The most values of one `terms` query."""
_SIGNS = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}


def to_query(wanted: filters.Filter | None, schema: IndexSchema, url: str) -> dict[str, Any]:
    """The filter as a query of an index of that schema. Raises UsageError for what no query can ask."""
    match wanted:
        case None:
            return {"match_all": {}}
        case filters.Compare("text", "=", value):
            return {"term": {"digest": digest(str(value))}}
        case filters.Compare("text", _, _):
            raise UsageError(f"{url} finds texts that equal one, not those before or after it")
        case filters.Compare(field, "=", value):
            return {"term": {field: value}}
        case filters.Compare(field, sign, value):
            return {"range": {field: {_SIGNS[sign]: value}}}
        case filters.Among("text", values):
            return _terms("digest", [digest(str(value)) for value in values])
        case filters.Among(field, values):
            return _terms(field, list(values))
        case filters.Absent("image"):
            manifests.check_fields(schema, url)
            return {"term": {"type": type_of(True)}}
        case filters.Absent(field):
            return {"bool": {"must_not": [{"exists": {"field": "digest" if field == "text" else field}}]}}
        case filters.HasValue():
            return _has_value(wanted, url)
        case filters.Every((term,)) | filters.Not(filters.Not(term)):  # both products limit the depth
            return to_query(term, schema, url)
        case filters.Every(terms):
            return {"bool": {"filter": [to_query(term, schema, url) for term in terms]}} if terms else {"match_all": {}}
        case filters.Some(terms):
            return _any([to_query(term, schema, url) for term in terms])
        case filters.Not(term):
            return {"bool": {"must_not": [to_query(term, schema, url)]}}


def _has_value(wanted: filters.HasValue, url: str) -> dict[str, Any]:
    name, asked, sign = name_of(wanted.path), wanted.value, wanted.operator
    if sign == "exists":
        return {"term": {FIELD: name}}
    if isinstance(asked, tuple):
        return _terms(FIELD, [term_of(name, value) for value in asked])
    assert asked is not None
    if sign == "=":
        return {"term": {FIELD: term_of(name, asked)}}
    if isinstance(asked, str) and len(asked) > LONGEST_TEXT:
        raise UsageError(
            f"{url} orders texts by their first {LONGEST_TEXT:,} characters, and finds prefixes of as many;"
            f" {wanted.name} is compared with a text of {len(asked):,}"
        )
    if sign == "prefix":
        return {"prefix": {FIELD: {"value": term_of(name, asked)}}}
    first, end = span(name, asked)
    same_type = {"lt": end} if sign in (">", ">=") else {"gte": first}
    return {"range": {FIELD: {_SIGNS[sign]: term_of(name, asked), **same_type}}}


def _terms(field: str, values: list[Any]) -> dict[str, Any]:
    parts = [{"terms": {field: values[i : i + TERMS]}} for i in range(0, len(values), TERMS)]
    return _any(parts) if parts else {"match_none": {}}


def _any(parts: list[dict[str, Any]]) -> dict[str, Any]:
    return parts[0] if len(parts) == 1 else {"bool": {"should": parts, "minimum_should_match": 1}}
