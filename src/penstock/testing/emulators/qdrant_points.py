"""Points of an emulated collection of Qdrant: which requests are valid, what is kept, what a filter lets pass."""

from __future__ import annotations

import json
import math
import operator
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Json = dict[str, Any]

DISTANCES = ("Cosine", "Dot", "Euclid")
_FIELDS = {
    "create": {"vectors", "sparse_vectors", "metadata"},
    "update": {"metadata", "vectors"},
    "aliases": {"actions"},
    "alias action": {"create_alias", "delete_alias"},
    "create_alias": {"alias_name", "collection_name"},
    "delete_alias": {"alias_name"},
    "index": {"field_name", "field_schema"},
    "upsert": {"points"},
    "point": {"id", "vector", "payload"},
    "delete": {"points", "filter"},
    "retrieve": {"ids", "with_payload", "with_vector"},
    "scroll": {"limit", "filter", "offset", "with_payload", "with_vector"},
    "count": {"exact", "filter"},
    "query": {"query", "using", "filter", "limit", "params", "with_vector", "with_payload"},
    "nearest": {"nearest"},
    "params": {"exact", "quantization"},
    "quantization params": {"rescore", "oversampling"},
    "vector update": {"quantization_config", "on_disk"},
    "quantization": {"scalar", "binary"},
    "vector": {"size", "distance", "multivector_config", "datatype"},
    "multivector": {"comparator"},
    "sparse": {"modifier"},
    "sparse vector": {"indices", "values"},
    "filter": {"must", "should", "must_not"},
    "nested": {"key", "filter"},
    "match": {"value", "any", "prefix"},
    "payload selector": {"exclude"},
    "index parameters": {"type", "prefix"},
    "range": {"lt", "lte", "gt", "gte"},
}
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "lt": operator.lt,
    "lte": operator.le,
    "gt": operator.gt,
    "gte": operator.ge,
}


class Refusal(Exception):
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def only(value: object, kind: str) -> Json:
    """The object, with no fields but those of its kind."""
    if not isinstance(value, dict):
        raise Refusal(400, f"Format error in JSON body: expected {kind}")
    if unknown := value.keys() - _FIELDS[kind]:
        raise Refusal(400, f"Format error in JSON body: unknown field `{min(unknown)}` in {kind}")
    return value


def point_id(value: object) -> str | int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 64:
        return value
    try:
        return str(uuid.UUID(str(value)))
    except ValueError:
        raise Refusal(400, f"value {value} is not a valid point ID: an unsigned integer or a UUID") from None


def order(id: str | int) -> tuple[bool, str | int]:
    return isinstance(id, str), id


@dataclass(slots=True)
class Collection:
    vectors: dict[str, Json]
    sparse: dict[str, Json]
    metadata: Json | None
    matches_prefixes: bool
    indexes: dict[str, Json] = field(default_factory=dict)
    """By field, with their parameters."""
    points: dict[str | int, tuple[dict[str, Any], Json]] = field(default_factory=dict)

    def info(self) -> Json:
        params = {"vectors": self.vectors, "shard_number": 1, "replication_factor": 1, "write_consistency_factor": 1}
        params |= {"on_disk_payload": True} | ({"sparse_vectors": self.sparse} if self.sparse else {})
        config: Json = {
            "params": params,
            "hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000, "on_disk": False},
            "optimizer_config": {
                "deleted_threshold": 0.2,
                "vacuum_min_vector_number": 1000,
                "default_segment_number": 0,
                "flush_interval_sec": 5,
            },
            "wal_config": {"wal_capacity_mb": 32, "wal_segments_ahead": 0},
        }
        if self.metadata is not None:
            config["metadata"] = self.metadata
        schema = {
            name: {"data_type": params["type"], "params": params, "points": len(self.points)}
            for name, params in self.indexes.items()
        }
        counts = {"indexed_vectors_count": 0, "points_count": len(self.points), "segments_count": 1}
        return {"status": "green", "optimizer_status": "ok", **counts, "config": config, "payload_schema": schema}

    def update(self, metadata: Json, vectors: Json) -> None:
        for name, changes in vectors.items():
            if name not in self.vectors:
                raise Refusal(400, f"Wrong input: Not existing vector name error: {name}")
            only(only(changes, "vector update").get("quantization_config") or {}, "quantization")
        self.metadata = (self.metadata or {}) | metadata
        for name, changes in vectors.items():
            self.vectors[name] = self.vectors[name] | changes

    def index(self, request: Json) -> None:
        given = request["field_schema"]
        params = {"type": given} if isinstance(given, str) else only(given, "index parameters")
        if params["type"] not in ("keyword", "integer", "float") or ("prefix" in params and not self.matches_prefixes):
            raise Refusal(400, "Format error in JSON body: data did not match any variant of PayloadFieldSchema")
        self.indexes[request["field_name"]] = params

    def take(self, name: str, value: Any) -> Any:
        """A vector as it is kept: float32, scaled in a cosine collection."""
        if name in self.sparse:
            sparse = only(value, "sparse vector")
            if len(sparse["indices"]) != len(sparse["values"]) or len(set(sparse["indices"])) != len(sparse["indices"]):
                raise Refusal(422, "Validation error in JSON body: [values: must be the same length, indices unique]")
            pairs = sorted(zip(sparse["indices"], sparse["values"], strict=True))
            return {index: np.float32(value) for index, value in pairs}
        if name not in self.vectors:
            raise Refusal(400, f"Wrong input: Not existing vector name error: {name}")
        config = self.vectors[name]
        try:
            values = np.array(value, dtype=config.get("datatype", "float32")).astype(np.float32)
        except (ValueError, TypeError):
            raise Refusal(400, "Format error in JSON body: data did not match any variant of VectorStruct") from None
        if values.ndim != (2 if "multivector_config" in config else 1) or not values.size:
            raise Refusal(400, "Wrong input: Conversion between multi and regular vectors failed")
        if values.shape[-1] != config["size"]:
            wanted = config["size"]
            raise Refusal(400, f"Wrong input: Vector dimension error: expected dim: {wanted}, got {values.shape[-1]}")
        if config["distance"] == "Cosine":
            length = np.linalg.norm(values, axis=-1, keepdims=True)
            values = (values / np.where(length > 0, length, 1)).astype(np.float32)
        return values

    def weighed(self, name: str, query: Any) -> Any:
        """A query as it is compared: where the modifier is idf, the rarer an index is, the more it weighs."""
        if self.sparse.get(name, {}).get("modifier") != "idf":
            return query
        kept = [vectors[name] for vectors, _ in self.points.values() if name in vectors]
        counts = {index: sum(index in one for one in kept) for index in query}
        return {i: query[i] * math.log(1 + (len(kept) - count + 0.5) / (count + 0.5)) for i, count in counts.items()}

    def score(self, name: str, query: Any, kept: Any) -> float | None:
        if name in self.sparse:
            common = query.keys() & kept.keys()
            return float(sum(query[i] * kept[i] for i in common)) if common else None
        config = self.vectors[name]
        if config["distance"] == "Euclid":
            return float(np.linalg.norm(query - kept))
        return float((query @ kept.T).max(axis=-1).sum())

    def upsert(self, points: list[Any]) -> None:
        if not points:
            raise Refusal(400, "Empty update request")
        accepted: dict[str | int, tuple[dict[str, Any], Json]] = {}
        for point in points:
            only(point, "point")
            if not isinstance(point["vector"], dict):
                raise Refusal(400, "Wrong input: Not existing vector name error: ")
            vectors = {name: self.take(name, vector) for name, vector in point["vector"].items()}
            accepted[point_id(point["id"])] = vectors, point.get("payload") or {}
        self.points.update(accepted)

    def matching(self, wanted: Any) -> Iterator[tuple[str | int, dict[str, Any], Json]]:
        if not self.matches_prefixes and '"prefix":' in json.dumps(wanted):
            raise Refusal(400, UNKNOWN)
        for id, (vectors, payload) in self.points.items():
            if wanted is None or passes(wanted, id, payload):
                yield id, vectors, payload


UNKNOWN = "Format error in JSON body: data did not match any variant of untagged enum Condition"


def passes(condition: Any, id: str | int, payload: Json) -> bool:
    """A filter, or one condition of it."""
    match condition:
        case {"has_id": list(ids), **rest} if not rest:
            return id in map(point_id, ids)
        case {"is_empty": {"key": str(name)}, **rest} if not rest:
            return payload.get(name) in (None, [])
        case {"nested": nested, **rest} if not rest:
            within, elements = only(nested, "nested")["filter"], payload.get(nested["key"])
            several = elements if isinstance(elements, list) else []
            return any(passes(within, id, element) for element in several if isinstance(element, dict))
        case {"key": str(name), "match": match, **rest} if not rest:
            matches = _matching(match)
            return any(map(matches, _values(payload, name)))
        case {"key": str(name), "range": bounds, **rest} if not rest:
            bounds = {sign: bound for sign, bound in only(bounds, "range").items() if bound is not None}
            return any(
                all(_COMPARISONS[sign](value, bound) for sign, bound in bounds.items())
                for value in _values(payload, name)
                if isinstance(value, int | float) and not isinstance(value, bool)
            )
        case {"key": _} | {"has_id": _} | {"is_empty": _} | {"nested": _}:
            pass
        case _:
            parts = {name: part or [] for name, part in only(condition, "filter").items()}
            return (
                all(passes(term, id, payload) for term in parts.get("must", []))
                and not any(passes(term, id, payload) for term in parts.get("must_not", []))
                and (not parts.get("should") or any(passes(term, id, payload) for term in parts["should"]))
            )
    raise Refusal(400, UNKNOWN)


def _values(payload: Json, name: str) -> list[Any]:
    """The values that a condition tries one by one."""
    value = payload.get(name)
    return value if isinstance(value, list) else [value]


def _matching(match: Any) -> Callable[[Any], bool]:
    match only(match, "match"):
        case {"value": bool() | int() | str() as value, **more} if not more:
            return lambda held: type(held) is type(value) and held == value
        case {"any": list(values), **more} if not more:
            return lambda held: any(type(held) is type(value) and held == value for value in values)
        case {"prefix": str(prefix), **more} if not more:
            return lambda held: isinstance(held, str) and held.startswith(prefix)
    raise Refusal(400, UNKNOWN)


def record(id: str | int, vectors: dict[str, Any], payload: Json, request: Json) -> Json:
    found: Json = {"id": id, "payload": None}
    match request.get("with_payload", True):
        case True:
            found["payload"] = payload
        case list(names):
            found["payload"] = {name: payload[name] for name in names if name in payload}
        case dict() as selector:
            without = only(selector, "payload selector")["exclude"]
            found["payload"] = {name: value for name, value in payload.items() if name not in without}
    if wanted := request.get("with_vector"):
        found["vector"] = {name: _json(vector) for name, vector in vectors.items() if wanted is True or name in wanted}
    return found


def _json(vector: Any) -> Any:
    if isinstance(vector, dict):
        return {"indices": list(vector), "values": [float(value) for value in vector.values()]}
    return vector.tolist()
