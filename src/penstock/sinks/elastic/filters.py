"""Filters in the query language of both products."""

from __future__ import annotations

from typing import Any

from penstock.core import filters
from penstock.core.errors import UsageError
from penstock.sinks.elastic.documents import digest

TERMS = 10_000
"""The most values of one `terms` query."""
_SIGNS = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}


def to_query(wanted: filters.Filter, url: str) -> dict[str, Any]:
    match wanted:
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
        case filters.Absent(field):
            return {"bool": {"must_not": [{"exists": {"field": "digest" if field == "text" else field}}]}}
        case filters.Every((term,)) | filters.Not(filters.Not(term)):  # both products limit the depth
            return to_query(term, url)
        case filters.Every(terms):
            return {"bool": {"filter": [to_query(term, url) for term in terms]}} if terms else {"match_all": {}}
        case filters.Some(terms):
            return _any([to_query(term, url) for term in terms])
        case filters.Not(term):
            return {"bool": {"must_not": [to_query(term, url)]}}


def _terms(field: str, values: list[Any]) -> dict[str, Any]:
    parts = [{"terms": {field: values[i : i + TERMS]}} for i in range(0, len(values), TERMS)]
    return _any(parts) if parts else {"match_none": {}}


def _any(parts: list[dict[str, Any]]) -> dict[str, Any]:
    return parts[0] if len(parts) == 1 else {"bool": {"should": parts, "minimum_should_match": 1}}
