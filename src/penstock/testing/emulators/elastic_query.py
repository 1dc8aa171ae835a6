"""Queries of the emulator of Elasticsearch and OpenSearch, as tests of documents and as their scores."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from penstock.testing.emulators import bm25
from penstock.testing.emulators.elastic_index import (
    SIMILARITIES,
    VECTORS,
    Document,
    Index,
    dims,
    only,
    refuse,
    similarity,
)

LARGEST_PAGE = 10_000
DEEPEST_BOOL = 30
MOST_CLAUSES = 1024
SCRIPTS = {
    re.compile(r"cosineSimilarity\(params\.(\w+), '(\w+)'\) \+ 1\.0"): "cosine",
    re.compile(r"double d = dotProduct\(params\.(\w+), '(\w+)'\); return d < 0 \? 1 / \(1 - d\) : d \+ 1;"): "dot",
    re.compile(r"1 / \(1 \+ l2norm\(params\.(\w+), '(\w+)'\)\)"): "l2",
    re.compile(
        r"double d = maxSimDotProduct\(params\.(\w+), '(\w+)'\); return d < 0 \? 1 / \(1 - d\) : d \+ 1;"
    ): "max_sim",
}
Test = Callable[[Document], bool]


def searched(index: Index, name: str) -> Mapping[str, Any]:
    if (field := index.fields.get(name)) is None:
        raise refuse("query_shard_exception", f"no field [{name}] (a real server would find nothing)")
    if field["type"] not in ("keyword", "long", "integer") or not field.get("index", True):
        raise refuse("query_shard_exception", f"Cannot search on field [{name}] since it is not indexed.")
    return field


def _typed(index: Index, name: str, value: Any) -> Any:
    field = searched(index, name)
    wanted = str if field["type"] == "keyword" else int
    if isinstance(value, bool) or not isinstance(value, wanted):
        raise refuse("query_shard_exception", f"failed to create query: For input string: {value!r}")
    return value


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def held(document: Document, name: str) -> list[Any]:
    """The values that a document has in a field."""
    value = document.get(name)
    return [] if value is None else _listed(value)


def compile_query(query: Any, index: Index, depth: int = 0) -> Test:
    """A query as a test of a document."""
    if not isinstance(query, dict) or len(query) != 1:
        raise refuse("parsing_exception", "[bool] malformed query, expected a single query name")
    [(kind, body)] = query.items()
    match kind:
        case "match_all" | "match_none" if body == {}:
            return lambda document: kind == "match_all"
        case "bool":
            return _bool(body, index, depth + 1)
        case "term" | "terms" if len(body) == 1:
            [(name, value)] = body.items()
            if (kind == "terms") != isinstance(value, list) or (kind == "terms" and len(value) > 65_536):
                raise refuse("parsing_exception", f"[{kind}] query does not support this value")
            values = {_typed(index, name, one) for one in _listed(value)}
            return lambda document: not values.isdisjoint(held(document, name))
        case "range" if len(body) == 1:
            [(name, bounds)] = body.items()
            only(bounds, {"gt", "gte", "lt", "lte"}, "range")
            return _range(name, {sign: _typed(index, name, value) for sign, value in bounds.items()})
        case "exists":
            only(body, {"field"}, "exists")
            searched(index, body["field"])
            return lambda document: bool(held(document, body["field"]))
        case "prefix" if len(body) == 1:
            [(name, asked)] = body.items()
            only(asked, {"value"}, "prefix")
            if searched(index, name)["type"] != "keyword":
                raise refuse("query_shard_exception", "Can only use prefix queries on keyword and text fields")
            start = _typed(index, name, asked["value"])
            return lambda document: any(value.startswith(start) for value in held(document, name))
    raise refuse("parsing_exception", f"unknown query [{kind}]")


def _bool(body: Mapping[str, Any], index: Index, depth: int) -> Test:
    only(body, {"filter", "must", "should", "must_not", "minimum_should_match"}, "bool")
    if depth > DEEPEST_BOOL:
        reason = f"The query contains a nested bool query with a depth greater than [{DEEPEST_BOOL}]"
        raise refuse("illegal_argument_exception", reason)
    tests = {
        name: [compile_query(part, index, depth) for part in _listed(body.get(name, []))]
        for name in ("filter", "must", "should", "must_not")
    }
    all_of, none_of, some_of = tests["filter"] + tests["must"], tests["must_not"], tests["should"]
    least = body.get("minimum_should_match", 0 if all_of or not some_of else 1)
    return lambda document: (
        all(test(document) for test in all_of)
        and not any(test(document) for test in none_of)
        and sum(test(document) for test in some_of) >= least
    )


def _range(name: str, bounds: Mapping[str, Any]) -> Test:
    def bytewise(value: Any) -> Any:
        return value.encode() if isinstance(value, str) else value

    limits = [(sign, bytewise(value)) for sign, value in bounds.items()]

    def within(found: Any) -> bool:
        compare = {"gt": found.__gt__, "gte": found.__ge__, "lt": found.__lt__, "lte": found.__le__}
        return all(compare[sign](value) for sign, value in limits)

    return lambda document: any(within(bytewise(value)) for value in held(document, name))


def scored(
    index: Index, name: Any, query: Any, metric: str | None, documents: Mapping[str, Document]
) -> dict[str, float]:
    """The similarity of each document with the query, as scores of the server: never negative, and float32."""
    field = index.fields.get(name)
    if metric == "max_sim":
        return _max_sim(field or {}, name, query, documents)
    if field is None or field["type"] not in VECTORS:
        raise refuse("illegal_argument_exception", f"field [{name}] does not hold vectors")
    if not isinstance(query, list) or len(query) != dims(field):
        reason = f"The query vector has a different number of dimensions than the document vectors [{dims(field)}]."
        raise refuse("illegal_argument_exception", reason)
    wanted = np.array(query, dtype=np.float32)
    measure = metric or SIMILARITIES[similarity(field)]
    if measure == "cosine" and not wanted.any():
        reason = "The [cosine] similarity does not support vectors with zero magnitude."
        raise refuse("illegal_argument_exception", reason)
    ids = [id for id, document in documents.items() if document.get(name) is not None]
    if not ids:
        return {}
    matrix = np.stack([documents[id][name] for id in ids])
    if measure == "cosine":
        lengths = np.linalg.norm(matrix, axis=1) * np.linalg.norm(wanted)
        scores = (1 + (matrix @ wanted) / lengths) / 2
    elif measure == "dot":
        products = matrix @ wanted
        scores = np.where(products < 0, 1 / (1 - np.minimum(products, 0)), products + 1)
    else:
        scores = 1 / (1 + ((matrix - wanted) ** 2).sum(axis=1))
    return dict(zip(ids, np.maximum(scores, 0).astype(np.float32).tolist(), strict=True))


def _max_sim(field: Mapping[str, Any], name: str, query: Any, documents: Mapping[str, Document]) -> dict[str, float]:
    if field.get("type") != "rank_vectors":
        raise refuse("illegal_argument_exception", f"field [{name}] does not hold rank vectors")
    if not isinstance(query, list) or not query or {len(row) for row in query} != {dims(field)}:
        raise refuse("illegal_argument_exception", f"The query vectors have other dimensions than [{dims(field)}].")
    wanted = np.array(query, dtype=np.float32)
    scores = {}
    for id, document in documents.items():
        product = float((wanted @ document[name].T).max(axis=1).sum())
        scores[id] = float(np.float32(1 / (1 - product) if product < 0 else product + 1))
    return scores


def weighed(index: Index, body: Any, documents: Mapping[str, Document]) -> dict[str, float]:
    """The products of those that share a feature with the query."""
    only(body, {"field", "query_vector", "prune"}, "sparse_vector")
    name, query = body["field"], body["query_vector"]
    if index.fields.get(name, {}).get("type") != "sparse_vector":
        raise refuse("illegal_argument_exception", f"field [{name}] must be of type [sparse_vector]")
    if body.get("prune") is not False:
        raise refuse("illegal_argument_exception", "without [prune: false] newer servers leave out tokens")
    if not query or any(not isinstance(weight, float) or weight <= 0 for weight in query.values()):
        raise refuse("illegal_argument_exception", "boost must be a positive float")
    scores = {}
    for id, document in documents.items():
        kept = document.get(name) or {}
        if shared := query.keys() & kept.keys():
            scores[id] = float(np.float32(sum(query[feature] * kept[feature] for feature in shared)))
    return scores


def matched(index: Index, body: Any, documents: Mapping[str, Document]) -> dict[str, float]:
    """The scores of those that have a word of the query in a text field."""
    [(name, asked)] = body.items()
    only(asked, {"query"}, "match")
    field = index.fields.get(name, {})
    if field.get("type") != "text" or not field.get("index", True):
        raise refuse("query_shard_exception", f"Cannot search on field [{name}] since it is not indexed.")
    if len(words := bm25.tokens(asked["query"])) > MOST_CLAUSES:
        reason = f"Query contains too many nested clauses; maxClauseCount is set to {MOST_CLAUSES}"
        raise refuse("too_many_nested_clauses", reason)
    texts = {id: bm25.tokens(document.get(name) or "") for id, document in index.shown.items()}
    return bm25.scores(words, texts, documents)
