"""Counts of the values of a field of metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from penstock.core import fields
from penstock.core.fields import Path, Scalar, kind
from penstock.sinks.elastic.documents import Documents
from penstock.sinks.elastic.terms import FIELD, name_of, pattern, term_of, value_of
from penstock.sinks.facets import Facet, most

MOST_TERMS = 10_000
"""Terms that are counted to put values of equal counts in their order."""


def metadata_facet(server: Documents, path: Path, within: Mapping[str, Any], limit: int) -> Facet:
    """The most frequent values at a path, and how many of the documents that a query leaves have each."""
    name = name_of(path)
    counts: dict[tuple[type, Scalar], int] = {}
    terms = server.values(FIELD, within, limit + 1, pattern(name))
    if _is_cut(terms, name, limit):
        terms = server.values(FIELD, within, MOST_TERMS, pattern(name))
    texts = 0
    for term, number in terms:
        texts += _is_text(term, name)
        if texts > limit:
            break
        if (value := value_of(term, name)) is None:
            value = _long_text(server, path, within, term)
        if value is not None:
            counts[kind(value), value] = number
    return most(counts, limit)


def _is_cut(terms: Sequence[tuple[str, int]], name: str, limit: int) -> bool:
    """Whether the limit may leave out other values than `facets.most` does. Of equal counts the store has flags first,
    then numbers by their size, and then texts."""
    if len(terms) <= limit or terms[limit][1] < terms[limit - 1][1]:
        return False
    return any(number == terms[limit][1] and not _is_text(term, name) for term, number in terms)


def _is_text(term: str, name: str) -> bool:
    return term[len(name) + 1] == "s"


def _long_text(server: Documents, path: Path, within: Mapping[str, Any], term: str) -> Scalar | None:
    """The text that its term has only the beginning of, from a document; None where there is none any more."""
    query = {"bool": {"filter": [within, {"term": {FIELD: term}}]}}
    for hit in server.search({"size": 1, "query": query, "_source": {"includes": ["metadata"]}}):
        values = fields.scalars(fields.value_at(json.loads(hit["_source"]["metadata"]), path))
        return next((value for value in values if term_of(name_of(path), value) == term), None)
    return None
