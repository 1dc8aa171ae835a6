"""Indices of the emulator of Elasticsearch and OpenSearch: mappings, and documents checked against them."""

from __future__ import annotations

import base64
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

LARGEST_TERM = 32_766
FILTERS = {"lowercase", "asciifolding", "cjk_width", "cjk_bigram"}
"""Of the analyzers that are built in, those that the emulator knows."""
_OPTIONS: dict[str, set[str]] = {
    "keyword": {"index", "doc_values", "ignore_above"},
    "text": {"index", "analyzer"},
    "long": {"index", "doc_values"},
    "integer": {"index", "doc_values"},
    "binary": {"doc_values"},
    "dense_vector": {"dims", "similarity", "index", "index_options"},
    "knn_vector": {"dimension", "method"},
    "rank_vectors": {"dims", "element_type"},
    "sparse_vector": {"store", "index_options"},
}
VECTORS = ("dense_vector", "knn_vector")
ALL_VECTORS = (*VECTORS, "rank_vectors", "sparse_vector")
OWN = {"dense_vector": ("dense_vector", "rank_vectors", "sparse_vector"), "knn_vector": ("knn_vector",)}
"""The types of vectors of each product, by its type of dense ones."""
GRAPHS = ("hnsw", "int8_hnsw", "bbq_hnsw")
SIMILARITIES = {
    "cosine": "cosine",
    "max_inner_product": "dot",
    "l2_norm": "l2",
    "cosinesimil": "cosine",
    "innerproduct": "dot",
    "l2": "l2",
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


def only(body: Mapping[str, Any], known: set[str], what: str) -> None:
    if unknown := sorted(body.keys() - known):
        raise refuse("parsing_exception", f"[{what}] unknown key [{unknown[0]}]")


class Index:
    def __init__(self, mappings: dict[str, Any], vectors: str, analysis: Mapping[str, Any]) -> None:
        if unknown := mappings.keys() - {"dynamic", "_meta", "properties"}:
            raise refuse("mapper_parsing_exception", f"unsupported parameters: {sorted(unknown)}")
        self.meta = mappings.get("_meta", {})
        self.dynamic = mappings.get("dynamic", "true")
        self.fields: dict[str, dict[str, Any]] = mappings.get("properties", {})
        for name, field in self.fields.items():
            check_field(name, field, vectors)
            if (analyzer := field.get("analyzer", "standard")) not in {"standard", *_analyzers(analysis)}:
                raise refuse("mapper_parsing_exception", f"analyzer [{analyzer}] has not been configured in mappings")
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
        """Write or delete; return whether there was one of that id."""
        with self.lock:
            self.pending.add(id)
            if document is None:
                return self.written.pop(id, None) is not None
            replaced = id in self.written
            self.written[id] = document
            return replaced

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


def _analyzers(analysis: Mapping[str, Any]) -> list[str]:
    """The names of the analyzers that an index defines."""
    only(analysis, {"analyzer"}, "analysis")
    analyzers = analysis.get("analyzer", {})
    for name, one in analyzers.items():
        only(one, {"type", "tokenizer", "filter"}, "analyzer")
        if one["type"] != "custom" or one["tokenizer"] != "standard" or not set(one["filter"]) <= FILTERS:
            raise refuse("illegal_argument_exception", f"Custom Analyzer [{name}] failed to find a part of it")
    return list(analyzers)


def check_field(name: str, field: dict[str, Any], vectors: str) -> None:
    kind = field.get("type")
    if kind not in _OPTIONS or (kind in ALL_VECTORS and kind not in OWN[vectors]):
        raise refuse("mapper_parsing_exception", f"No handler for type [{kind}] declared on field [{name}]")
    if unknown := field.keys() - _OPTIONS[kind] - {"type"}:
        raise refuse(
            "mapper_parsing_exception", f"unknown parameter {sorted(unknown)} on mapper [{name}] of type [{kind}]"
        )
    if kind in (vectors, "rank_vectors"):
        count, most = dims(field), 16_000 if kind == "knn_vector" else 4096
        if not isinstance(count, int) or not 1 <= count <= most:
            reason = f"The number of dimensions should be in the range [1, {most}] but was [{count}]"
            raise refuse("mapper_parsing_exception", reason)
        if similarity(field) not in SIMILARITIES:
            raise refuse("mapper_parsing_exception", f"Unknown value [{similarity(field)}] for field [similarity]")


def by_signs(index: Index, name: str, query: Any, ids: Sequence[str]) -> dict[str, float]:
    """How near documents are by the bits of a graph of those; none where it is of floats, or of bytes."""
    if index.fields[name].get("index_options", {}).get("type") != "bbq_hnsw":
        return {}
    return {id: float(np.sign(index.shown[id][name]) @ np.array(query)) for id in ids}


def requantized(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether a field may become another: the same, or but for its graph, which may get fewer bits."""
    order = [of.get("index_options", {}).get("type", "hnsw") for of in (before, after)]
    rest = [{key: value for key, value in of.items() if key != "index_options"} for of in (before, after)]
    return rest[0] == rest[1] and (order[0] == order[1] or sorted(order, key=GRAPHS.index) == order)


def dims(field: Mapping[str, Any]) -> Any:
    return field.get("dims", field.get("dimension"))


def similarity(field: Mapping[str, Any]) -> str:
    return str(field.get("similarity") or field.get("method", {}).get("space_type") or "cosine")


def _value(name: str, field: Mapping[str, Any], value: Any) -> Any:
    kind = field["type"]
    if kind == "keyword" and isinstance(value, list):
        return [_value(name, field, one) for one in value]
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
        if not isinstance(value, list) or len(value) != dims(field):
            length = len(value) if isinstance(value, list) else type(value).__name__
            reason = f"The [{kind}] field [{name}] has [{length}] dimensions, other than defined [{dims(field)}]"
            raise refuse("document_parsing_exception", reason)
        if not set(map(type, value)) <= {float, int}:
            raise refuse("document_parsing_exception", f"{failed}: not a number")
        vector = np.array(value, dtype=np.float32)
        if SIMILARITIES[similarity(field)] == "cosine" and not vector.any():
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
    """The features as the store keeps them: nine bits of each weight."""
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
