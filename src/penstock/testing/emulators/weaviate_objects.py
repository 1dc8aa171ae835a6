"""Objects of an emulated collection of Weaviate: which messages are valid, what is kept, what a filter lets pass."""

from __future__ import annotations

import operator
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import grpc
import numpy as np
from weaviate.proto.v1 import base_pb2, base_search_pb2, batch_pb2

from penstock.testing.emulators import bm25
from penstock.testing.emulators.weaviate_schema import Json, Refusal, typed

_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "OPERATOR_GREATER_THAN": operator.gt,
    "OPERATOR_GREATER_THAN_EQUAL": operator.ge,
    "OPERATOR_LESS_THAN": operator.lt,
    "OPERATOR_LESS_THAN_EQUAL": operator.le,
}
_REQUESTS = {
    "BatchObjectsRequest": {"objects", "consistency_level"},
    "BatchObject": {"uuid", "properties", "collection", "vectors"},
    "Properties": {"non_ref_properties", "text_array_properties"},
    "BatchDeleteRequest": {"collection", "filters", "consistency_level"},
    "AggregateRequest": {"collection", "objects_count"},
    "SearchRequest": {
        "collection",
        "metadata",
        "properties",
        "limit",
        "after",
        "filters",
        "near_vector",
        "bm25_search",
        "consistency_level",
        "uses_123_api",
        "uses_125_api",
        "uses_127_api",
    },
    "MetadataRequest": {"uuid", "distance", "score", "vectors"},
    "BM25": {"query", "properties"},
    "PropertiesRequest": {"non_ref_properties", "return_all_nonref_properties"},
    "NearVector": {"targets", "vectors"},
}


def only(message: Any) -> Any:
    """The message, if it has no fields but those on record."""
    kind = message.DESCRIPTOR.name
    if unknown := {found.name for found, _ in message.ListFields()} - _REQUESTS[kind]:
        raise Refusal(grpc.StatusCode.UNIMPLEMENTED, f"the emulator knows no {min(unknown)} in {kind}")
    return message


def invalid(reason: str) -> Refusal:
    return Refusal(grpc.StatusCode.UNKNOWN, reason)


@dataclass(slots=True)
class Collection:
    schema: Json
    objects: dict[str, tuple[Json, dict[str, Any]]] = field(default_factory=dict)
    dimensions: dict[str, int] = field(default_factory=dict)
    absent_is_unequal: bool = True

    @property
    def properties(self) -> dict[str, Json]:
        return {one["name"]: one for one in self.schema["properties"]}

    def take(self, sent: batch_pb2.BatchObject) -> None:
        """Keep an object, in place of one of that id. Raises ValueError, which is returned."""
        id = str(uuid.UUID(sent.uuid))
        if id != sent.uuid:
            raise ValueError(f"invalid UUID: {sent.uuid}")
        known, kept = self.properties, {}
        properties = only(sent.properties)
        lists = {one.prop_name: list(one.values) for one in properties.text_array_properties}
        for name, value in [*properties.non_ref_properties.items(), *lists.items()]:
            if name in ("id", "vector"):
                raise ValueError(f"property name '{name}' is reserved")
            if name not in known:
                raise ValueError(f"no such prop with name '{name}' found in class '{self.schema['class']}'")
            kept[name] = typed(name, known[name]["dataType"][0], value)
        vectors = {}
        for vector in sent.vectors:
            if vector.name not in self.schema["vectorConfig"] or vector.type != self.kind(vector.name):
                raise ValueError(f"vector {vector.name!r} is not configured")
            values = _values(vector)
            if self.dimensions.setdefault(vector.name, values.shape[-1]) != values.shape[-1]:
                raise ValueError(f"new node has a vector with length {values.shape[-1]}. Existing nodes have others")
            index = self.schema["vectorConfig"][vector.name]["vectorIndexConfig"]
            if index["distance"] == "cosine":
                values = (values / (np.linalg.norm(values) or 1)).astype(np.float32)
            vectors[vector.name] = values
        self.objects[id] = kept, vectors

    def kind(self, name: str) -> int:
        many = self.schema["vectorConfig"][name]["vectorIndexConfig"]["multivector"]["enabled"]
        kinds = base_pb2.Vectors
        return int(kinds.VECTOR_TYPE_MULTI_FP32 if many else kinds.VECTOR_TYPE_SINGLE_FP32)

    def matching(self, wanted: base_pb2.Filters | None) -> Iterator[str]:
        passes = (lambda id, kept: True) if wanted is None else self._condition(wanted)
        return (id for id, (kept, _) in self.objects.items() if passes(id, kept))

    def _condition(self, wanted: base_pb2.Filters) -> Callable[[str, Json], bool]:
        sign = base_pb2.Filters.Operator.Name(wanted.operator)
        if sign in ("OPERATOR_AND", "OPERATOR_OR"):
            parts = [self._condition(part) for part in wanted.filters]
            if not parts:
                raise invalid("invalid filter: no operands")
            every = all if sign == "OPERATOR_AND" else any
            return lambda id, kept: every(part(id, kept) for part in parts)
        name, value = wanted.target.property, _value(wanted)
        if name == "_id":
            several = value if isinstance(value, list) else [value]
            if not all(isinstance(one, str) for one in several):
                raise invalid("invalid filter: ids are compared with texts")
            ids = {str(uuid.UUID(one)) for one in several}
            if sign in ("OPERATOR_EQUAL", "OPERATOR_CONTAINS_ANY"):
                return lambda id, kept: id in ids
            if sign == "OPERATOR_NOT_EQUAL":
                return lambda id, kept: id not in ids
            raise invalid(f"invalid filter: {sign} of _id")
        config = self.properties.get(name)
        if config is None:
            raise invalid(f"no such prop with name '{name}' found in class '{self.schema['class']}'")
        if not (config["indexFilterable"] or config.get("indexRangeFilters")):
            raise invalid(f"Filtering by property '{name}' requires inverted index")
        if sign == "OPERATOR_CONTAINS_ANY":
            return self._contains_any(name, value)
        kind = {"text": str, "text[]": str, "int": int, "boolean": bool}[config["dataType"][0]]
        if type(value) is not kind:
            raise invalid(f"data type filter cannot use {type(value).__name__} on {config['dataType'][0]}, {name}")
        if isinstance(value, str):
            value = value.strip()
            if config["tokenization"] != "field":
                raise invalid("the emulator knows the tokenization field only")
        return self._comparison(sign, name, value)

    def _contains_any(self, name: str, values: Any) -> Callable[[str, Json], bool]:
        """As any of them is equal."""
        config = self.properties[name]
        if not (isinstance(values, list) and values and all(isinstance(value, str) for value in values)):
            raise invalid(f"value type should be []string for {name}")
        if config["dataType"] != ["text[]"] or config["tokenization"] != "field":
            raise invalid("the emulator knows ContainsAny for ids and lists of texts of the tokenization field only")
        wanted = {value.strip() for value in values}
        return lambda id, kept: not wanted.isdisjoint(_terms(kept.get(name)))

    def _comparison(self, sign: str, name: str, value: Any) -> Callable[[str, Json], bool]:
        if self.properties[name]["dataType"] == ["text[]"] and sign in _COMPARISONS:
            raise invalid(f"the emulator knows no order of lists, {name}")
        if sign == "OPERATOR_EQUAL":
            return lambda id, kept: value in _terms(kept.get(name))
        if sign == "OPERATOR_NOT_EQUAL":
            return lambda id, kept: value not in _terms(kept.get(name)) and (name in kept or self.absent_is_unequal)
        if sign in _COMPARISONS:
            return lambda id, kept: name in kept and _COMPARISONS[sign](_terms(kept[name])[0], value)
        raise invalid(f"unknown operator {sign}")

    def ranked(self, asked: base_search_pb2.BM25, ids: list[str]) -> dict[str, float]:
        """The scores by BM25 of those that have a word of the query in one property."""
        [name] = asked.properties
        config = self.properties.get(name, {})
        if not config.get("indexSearchable"):
            raise invalid(f"property {name!r} is not indexed: searching requires an inverted index")
        if config["tokenization"] != "word":
            raise invalid("the emulator searches the tokenization word only")
        if not asked.query:
            raise invalid("invalid query: keyword search (bm25) must have query set")
        texts = {id: _words(str(kept.get(name, ""))) for id, (kept, _) in self.objects.items()}
        return bm25.scores(_words(asked.query), texts, ids)

    def distances(self, name: str, near: base_pb2.Vectors, ids: list[str]) -> Any:
        if near.type != self.kind(name):
            raise invalid("vector search: a multivector is searched with one, and no other is")
        if not ids:
            return np.empty(0)
        query = _values(near)
        if query.ndim == 2:
            return self._late(name, query, ids)
        matrix = np.stack([self.objects[id][1][name] for id in ids])
        if matrix.shape[1] != len(query):
            raise invalid(f"vector lengths don't match: {matrix.shape[1]} vs {len(query)}")
        match self.schema["vectorConfig"][name]["vectorIndexConfig"]["distance"]:
            case "dot":
                return -(matrix @ query)
            case "l2-squared":
                return ((matrix - query) ** 2).sum(axis=1)
            case _:
                return 1 - matrix @ (query / (np.linalg.norm(query) or 1))

    def _late(self, name: str, query: Any, ids: list[str]) -> Any:
        """For each row of the query the least distance to a row of the object, all together."""
        if self.schema["vectorConfig"][name]["vectorIndexConfig"]["distance"] != "dot":
            raise invalid("the emulator compares multivectors by dot products only")
        found = [self.objects[id][1][name] for id in ids]
        if found[0].shape[1] != query.shape[1]:
            raise invalid(f"vector lengths don't match: {found[0].shape[1]} vs {query.shape[1]}")
        return np.array([(-(query @ matrix.T)).min(axis=1).sum() for matrix in found])


@lru_cache(1024)
def _words(text: str) -> Sequence[str]:
    """The tokenization word."""
    return re.findall(r"[^\W_]+", text.lower())


def _terms(held: Any) -> list[Any]:
    """What the index of a property has for an object."""
    several = held if isinstance(held, list) else [] if held is None else [held]
    return [one.strip() if isinstance(one, str) else one for one in several]


def _values(vector: base_pb2.Vectors) -> Any:
    """Of many, the first two bytes are the dimensions."""
    data = vector.vector_bytes
    if vector.type != base_pb2.Vectors.VECTOR_TYPE_MULTI_FP32:
        return np.frombuffer(data, "<f4").copy()
    dims = int.from_bytes(data[:2], "little")
    return np.frombuffer(data[2:], "<f4").reshape(-1, dims).copy()


def _value(wanted: base_pb2.Filters) -> Any:
    which = wanted.WhichOneof("test_value")
    if which is None:
        raise invalid("invalid filter: no value")
    value = getattr(wanted, which)
    return list(value.values) if which.endswith("_array") else value
