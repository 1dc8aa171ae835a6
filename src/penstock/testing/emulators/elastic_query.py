"""What the emulator of Elasticsearch and OpenSearch knows of mappings, documents and queries."""

from __future__ import annotations

import base64
import re
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

LARGEST_TERM = 32_766
LARGEST_PAGE = 10_000
DEEPEST_BOOL = 30
_OPTIONS: dict[str, set[str]] = {
    "keyword": {"index", "doc_values", "ignore_above"},
    "text": {"index"},
    "long": {"index", "doc_values"},
    "integer": {"index", "doc_values"},
    "binary": {"doc_values"},
    "dense_vector": {"dims", "similarity", "index", "index_options"},
    "knn_vector": {"dimension", "method"},
    "rank_vectors": {"dims", "element_type"},
    "sparse_vector": {"store", "index_options"},
}
OWN = {"dense_vector": ("dense_vector", "rank_vectors", "sparse_vector"), "knn_vector": ("knn_vector",)}
"""The vectors of each of both, by its name for dense ones."""
SIMILARITIES = {
    "cosine": "cosine",
    "max_inner_product": "dot",
    "l2_norm": "l2",
    "cosinesimil": "cosine",
    "innerproduct": "dot",
    "l2": "l2",
}
SCRIPTS = {
    re.compile(r"cosineSimilarity\(params\.(\w+), '(\w+)'\) \+ 1\.0"): "cosine",
    re.compile(r"double d = dotProduct\(params\.(\w+), '(\w+)'\); return d < 0 \? 1 / \(1 - d\) : d \+ 1;"): "dot",
    re.compile(r"1 / \(1 \+ l2norm\(params\.(\w+), '(\w+)'\)\)"): "l2",
    re.compile(
        r"double d = maxSimDotProduct\(params\.(\w+), '(\w+)'\); return d < 0 \? 1 / \(1 - d\) : d \+ 1;"
    ): "max_sim",
}
Document = dict[str, Any]


class Refusal(Exception):
    def __init__(self, status: int, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.status, self.kind, self.reason = status, kind, reason

    def body(self) -> dict[str, Any]:
        cause = {"type": self.kind, "reason": self.reason}
        return {"error": {"root_cause": [cause], **cause}, "status": self.status}


def refuse(kind: str, reason: str) -> Refusal:
    return Refusal(400, kind, reason)


class Index:
    def __init__(self, mappings: dict[str, Any], vectors: str) -> None:
        if unknown := mappings.keys() - {"dynamic", "_meta", "properties"}:
            raise refuse("mapper_parsing_exception", f"unsupported parameters: {sorted(unknown)}")
        self.meta = mappings.get("_meta", {})
        self.dynamic = mappings.get("dynamic", "true")
        self.fields: dict[str, dict[str, Any]] = mappings.get("properties", {})
        for name, field in self.fields.items():
            check_field(name, field, vectors)
        self.written: dict[str, Document] = {}
        self.shown: dict[str, Document] = {}
        self.pending: set[str] = set()
        self.lock = threading.Lock()

    def mapping(self) -> dict[str, Any]:
        return {"dynamic": self.dynamic, "_meta": self.meta, "properties": self.fields}

    def refresh(self) -> None:
        with self.lock:
            shown = dict(self.shown)
            for id in self.pending:
                if (document := self.written.get(id)) is None:
                    shown.pop(id, None)
                else:
                    shown[id] = document
            self.shown, self.pending = shown, set()

    def put(self, id: str, document: Document | None) -> bool:
        """Whether it was there before."""
        with self.lock:
            self.pending.add(id)
            if document is None:
                return self.written.pop(id, None) is not None
            there = id in self.written
            self.written[id] = document
            return there

    def check(self, id: object, source: object) -> Document:
        if not isinstance(id, str) or not id:
            raise refuse("illegal_argument_exception", "if _id is specified it must not be empty")
        if len(id.encode()) > 512:
            raise refuse("illegal_argument_exception", "id is too long, must be no longer than 512 bytes")
        if not isinstance(source, dict):
            raise refuse("mapper_parsing_exception", "failed to parse: not an object")
        checked = dict(source)
        for name, value in source.items():
            if (field := self.fields.get(name)) is None:
                if self.dynamic == "strict":
                    reason = f"[1:1] mapping set to strict, dynamic introduction of [{name}] is not allowed"
                    raise refuse("strict_dynamic_mapping_exception", reason)
                continue
            if value is not None:
                checked[name] = _value(name, field, value)
        return checked


def check_field(name: str, field: dict[str, Any], vectors: str) -> None:
    kind = field.get("type")
    if kind not in _OPTIONS or (kind in ALL_VECTORS and kind not in OWN[vectors]):
        raise refuse("mapper_parsing_exception", f"No handler for type [{kind}] declared on field [{name}]")
    if unknown := field.keys() - _OPTIONS[kind] - {"type"}:
        raise refuse(
            "mapper_parsing_exception", f"unknown parameter {sorted(unknown)} on mapper [{name}] of type [{kind}]"
        )
    if kind in (vectors, "rank_vectors"):
        dims, most = _dims(field), 16_000 if kind == "knn_vector" else 4096
        if not isinstance(dims, int) or not 1 <= dims <= most:
            reason = f"The number of dimensions should be in the range [1, {most}] but was [{dims}]"
            raise refuse("mapper_parsing_exception", reason)
        if _similarity(field) not in SIMILARITIES:
            raise refuse("mapper_parsing_exception", f"Unknown value [{_similarity(field)}] for field [similarity]")


def _dims(field: Mapping[str, Any]) -> Any:
    return field.get("dims", field.get("dimension"))


def _similarity(field: Mapping[str, Any]) -> str:
    return str(field.get("similarity") or field.get("method", {}).get("space_type") or "cosine")


def _value(name: str, field: Mapping[str, Any], value: Any) -> Any:
    kind = field["type"]
    failed = f"failed to parse field [{name}] of type [{kind}]"
    if kind in ("long", "integer"):
        bits = 63 if kind == "long" else 31
        if isinstance(value, bool) or not isinstance(value, int) or not -(1 << bits) <= value < 1 << bits:
            raise refuse("document_parsing_exception", f"{failed}: {str(value)[:50]} is out of range")
    elif kind == "sparse_vector":
        return _features(value, failed)
    elif kind == "rank_vectors":
        if not isinstance(value, list) or not value:
            raise refuse("document_parsing_exception", f"{failed}: no vectors")
        return np.stack(
            [_value(name, {**field, "type": "dense_vector", "similarity": "l2_norm"}, one) for one in value]
        )
    elif kind in VECTORS:
        if not isinstance(value, list) or len(value) != _dims(field):
            length = len(value) if isinstance(value, list) else type(value).__name__
            reason = f"The [{kind}] field [{name}] has [{length}] dimensions, other than defined [{_dims(field)}]"
            raise refuse("document_parsing_exception", reason)
        if not set(map(type, value)) <= {float, int}:
            raise refuse("document_parsing_exception", f"{failed}: not a number")
        vector = np.array(value, dtype=np.float32)
        if SIMILARITIES[_similarity(field)] == "cosine" and not vector.any():
            reason = "The [cosine] similarity does not support vectors with zero magnitude."
            raise refuse("document_parsing_exception", reason)
        return vector
    elif not isinstance(value, str):
        raise refuse("document_parsing_exception", f"{failed}: not a string")
    elif kind == "binary":
        try:
            base64.b64decode(value, validate=True)
        except ValueError as error:
            raise refuse("document_parsing_exception", f"{failed}: {error}") from None
    elif kind == "keyword" and len(value.encode()) > LARGEST_TERM:
        reason = f'Document contains at least one immense term in field="{name}" (longer than 32766 as UTF8)'
        raise refuse("illegal_argument_exception", reason)
    return value


def _features(value: Any, failed: str) -> dict[str, float]:
    """As the store keeps them: nine bits of each weight."""
    if not isinstance(value, dict):
        raise refuse("document_parsing_exception", f"{failed}: expected a START_OBJECT")
    kept = {}
    for feature, weight in value.items():
        if isinstance(weight, bool) or not isinstance(weight, float | int):
            raise refuse("document_parsing_exception", f"{failed}: a strictly positive float is expected")
        short = np.array([weight], np.float32)
        if not np.finfo(np.float32).smallest_normal <= short[0] < np.inf:
            reason = f"featureValue must be a positive normal float, got: {weight} for feature {feature}"
            raise refuse("document_parsing_exception", f"{failed}: {reason}")
        kept[feature] = float((short.view(np.int32) >> 15 << 15).view(np.float32)[0])
    return kept


VECTORS = ("dense_vector", "knn_vector")
ALL_VECTORS = (*VECTORS, "rank_vectors", "sparse_vector")
Test = Callable[[Document], bool]


def only(body: Mapping[str, Any], known: set[str], what: str) -> None:
    if unknown := sorted(body.keys() - known):
        raise refuse("parsing_exception", f"[{what}] unknown key [{unknown[0]}]")


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
            return lambda document: document.get(name) in values
        case "range" if len(body) == 1:
            [(name, bounds)] = body.items()
            only(bounds, {"gt", "gte", "lt", "lte"}, "range")
            return _range(name, {sign: _typed(index, name, value) for sign, value in bounds.items()})
        case "exists":
            only(body, {"field"}, "exists")
            searched(index, body["field"])
            return lambda document: document.get(body["field"]) is not None
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

    def test(document: Document) -> bool:
        if (found := bytewise(document.get(name))) is None:
            return False
        compare = {"gt": found.__gt__, "gte": found.__ge__, "lt": found.__lt__, "lte": found.__le__}
        return all(compare[sign](value) for sign, value in limits)

    return test


def scored(
    index: Index, name: Any, query: Any, metric: str | None, documents: Mapping[str, Document]
) -> dict[str, float]:
    """The similarity of each document with the query, as scores of the server: never negative, and float32."""
    field = index.fields.get(name)
    if metric == "max_sim":
        return _max_sim(field or {}, name, query, documents)
    if field is None or field["type"] not in VECTORS:
        raise refuse("illegal_argument_exception", f"field [{name}] does not hold vectors")
    if not isinstance(query, list) or len(query) != _dims(field):
        reason = f"The query vector has a different number of dimensions than the document vectors [{_dims(field)}]."
        raise refuse("illegal_argument_exception", reason)
    given = np.array(query, dtype=np.float32)
    measure = metric or SIMILARITIES[_similarity(field)]
    if measure == "cosine" and not given.any():
        reason = "The [cosine] similarity does not support vectors with zero magnitude."
        raise refuse("illegal_argument_exception", reason)
    ids = [id for id, document in documents.items() if document.get(name) is not None]
    if not ids:
        return {}
    matrix = np.stack([documents[id][name] for id in ids])
    if measure == "cosine":
        lengths = np.linalg.norm(matrix, axis=1) * np.linalg.norm(given)
        scores = (1 + (matrix @ given) / lengths) / 2
    elif measure == "dot":
        products = matrix @ given
        scores = np.where(products < 0, 1 / (1 - np.minimum(products, 0)), products + 1)
    else:
        scores = 1 / (1 + ((matrix - given) ** 2).sum(axis=1))
    return dict(zip(ids, np.maximum(scores, 0).astype(np.float32).tolist(), strict=True))


def _max_sim(field: Mapping[str, Any], name: str, query: Any, documents: Mapping[str, Document]) -> dict[str, float]:
    if field.get("type") != "rank_vectors":
        raise refuse("illegal_argument_exception", f"field [{name}] does not hold rank vectors")
    if not isinstance(query, list) or not query or {len(row) for row in query} != {_dims(field)}:
        raise refuse("illegal_argument_exception", f"The query vectors have other dimensions than [{_dims(field)}].")
    given = np.array(query, dtype=np.float32)
    scores = {}
    for id, document in documents.items():
        product = float((given @ document[name].T).max(axis=1).sum())
        scores[id] = float(np.float32(1 / (1 - product) if product < 0 else product + 1))
    return scores


def weighed(index: Index, body: Any, documents: Mapping[str, Document]) -> dict[str, float]:
    """Of those that share a feature with the query."""
    only(body, {"field", "query_vector", "prune"}, "sparse_vector")
    name, asked = body["field"], body["query_vector"]
    if index.fields.get(name, {}).get("type") != "sparse_vector":
        raise refuse("illegal_argument_exception", f"field [{name}] must be of type [sparse_vector]")
    if body.get("prune") is not False:
        raise refuse("illegal_argument_exception", "without [prune: false] newer servers leave out tokens")
    if not asked or any(not isinstance(weight, float) or weight <= 0 for weight in asked.values()):
        raise refuse("illegal_argument_exception", "boost must be a positive float")
    scores = {}
    for id, document in documents.items():
        kept = document.get(name) or {}
        if shared := asked.keys() & kept.keys():
            scores[id] = float(np.float32(sum(asked[feature] * kept[feature] for feature in shared)))
    return scores
