"""Aggregations of the emulator of Elasticsearch and OpenSearch: the most frequent terms of a field."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from penstock.testing.emulators.elastic_index import Document, Index, only, refuse
from penstock.testing.emulators.elastic_query import held, searched

MOST_BUCKETS = 65_535
"""search.max_buckets of OpenSearch, one less than that of Elasticsearch."""
LONGEST_REGEX = 1000
"""index.max_regex_length."""
_RESERVED = frozenset('.?+*|{}[]()"\\#@&<>~^$-')


def aggregated(index: Index, asked: Mapping[str, Any], documents: Iterable[Document]) -> dict[str, Any]:
    """The answers of aggregations over those documents."""
    several = list(documents)
    return {name: _terms(index, aggregation, several) for name, aggregation in asked.items()}


def _terms(index: Index, aggregation: Mapping[str, Any], documents: Iterable[Document]) -> dict[str, Any]:
    only(aggregation, {"terms"}, "aggs")
    body = aggregation["terms"]
    only(body, {"field", "size", "shard_size", "include"}, "terms")
    size, name = body.get("size", 10), body["field"]
    if not isinstance(size, int) or size <= 0:
        raise refuse("illegal_argument_exception", f"[size] must be greater than 0. Found [{size}] in [terms]")
    field = searched(index, name)
    if field["type"] != "keyword" or not field.get("doc_values", True):
        raise refuse("illegal_argument_exception", f"[{name}] is not aggregated: no keyword with doc values")
    accepts = _matcher(body.get("include", ".*"))
    # A document has each term once, however often it was written.
    counts = Counter(value for document in documents for value in set(held(document, name)) if accepts(value))
    best = sorted(counts.items(), key=lambda one: (-one[1], one[0].encode()))[:size]
    if len(best) > MOST_BUCKETS:
        raise refuse("too_many_buckets_exception", f"Trying to create too many buckets [{len(best)}]")
    return {
        "doc_count_error_upper_bound": 0,
        "sum_other_doc_count": sum(counts.values()) - sum(number for _, number in best),
        "buckets": [{"key": key, "doc_count": number} for key, number in best],
    }


def _matcher(expression: Any) -> Callable[[str], bool]:
    """What a regular expression of Lucene accepts: characters, each escaped where it has to be, and `.*` at the end."""
    if not isinstance(expression, str) or len(expression.encode("utf-16-le")) // 2 > LONGEST_REGEX:
        raise refuse("illegal_argument_exception", "The length of regex used in the request has exceeded the maximum")
    written = expression.removesuffix(".*")
    literal = re.sub(r"\\([^0-9A-Za-z])", r"\1", written)
    plain = re.sub(r"\\[^0-9A-Za-z]", "", written)
    if written == expression or _RESERVED & set(plain):
        raise refuse("illegal_argument_exception", f"the emulator does not know the regular expression {expression}")
    return lambda value: value.startswith(literal)
