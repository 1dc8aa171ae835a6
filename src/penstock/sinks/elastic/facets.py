"""Counts of the values of a field of metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from penstock.core import fields
from penstock.core.fields import Path, Scalar, kind
from penstock.sinks.elastic.documents import Documents
from penstock.sinks.elastic.terms import FIELD, name_of, pattern, term_of, value_of
from penstock.sinks.facets import Facet, most


def metadata_facet(server: Documents, path: Path, within: Mapping[str, Any], limit: int) -> Facet:
    """The most frequent values at a path, and how many of the documents that a query leaves have each."""
    name = name_of(path)
    counts: dict[tuple[type, Scalar], int] = {}
    for term, number in server.values(FIELD, within, limit, pattern(name)):
        if (value := value_of(term, name)) is None:
            value = _long_text(server, path, within, term)
        if value is not None:
            counts[kind(value), value] = number
    return most(counts, limit)


def _long_text(server: Documents, path: Path, within: Mapping[str, Any], term: str) -> Scalar | None:
    """The text that its term has only the beginning of, from a document; None where there is none any more."""
    query = {"bool": {"filter": [within, {"term": {FIELD: term}}]}}
    for hit in server.search({"size": 1, "query": query, "_source": {"includes": ["metadata"]}}):
        values = fields.scalars(fields.value_at(json.loads(hit["_source"]["metadata"]), path))
        return next((value for value in values if term_of(name_of(path), value) == term), None)
    return None
