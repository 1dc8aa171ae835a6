"""The schema of an emulated Weaviate server: valid names and types, defaults, and valid values of a property."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

import grpc

Json = dict[str, Any]

_BLOB = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{4})")
_PROPERTY = {
    "name",
    "dataType",
    "indexFilterable",
    "indexSearchable",
    "indexRangeFilters",
    "tokenization",
    "skip_vectorization",
    "vectorize_property_name",
}
_CLASS = {
    "class",
    "description",
    "properties",
    "vectorConfig",
    "invertedIndexConfig",
    "multiTenancyConfig",
    "replicationConfig",
    "shardingConfig",
}
_INDEX = {
    "skip": False,
    "cleanupIntervalSeconds": 300,
    "maxConnections": 32,
    "efConstruction": 128,
    "ef": -1,
    "dynamicEfMin": 100,
    "dynamicEfMax": 500,
    "dynamicEfFactor": 8,
    "vectorCacheMaxObjects": 1000000000000,
    "flatSearchCutoff": 40000,
    "distance": "cosine",
    "filterStrategy": "sweeping",
    "pq": {
        "enabled": False,
        "bitCompression": False,
        "segments": 0,
        "centroids": 256,
        "trainingLimit": 100000,
        "encoder": {"type": "kmeans", "distribution": "log-normal"},
    },
    "bq": {"enabled": False},
    "sq": {"enabled": False, "trainingLimit": 100000, "rescoreLimit": 20},
    "multivector": {
        "enabled": False,
        "aggregation": "maxSim",
        "muvera": {"enabled": False, "ksim": 4, "dprojections": 16, "repetitions": 10},
    },
}
_REST = {
    "invertedIndexConfig": {
        "bm25": {"b": 0.75, "k1": 1.2},
        "cleanupIntervalSeconds": 60,
        "stopwords": {"preset": "en", "additions": None, "removals": None},
        "usingBlockMaxWAND": True,
    },
    "multiTenancyConfig": {"enabled": False, "autoTenantCreation": False, "autoTenantActivation": False},
    "replicationConfig": {"factor": 1, "asyncEnabled": False, "deletionStrategy": "NoAutomatedResolution"},
    "shardingConfig": {
        "virtualPerPhysical": 128,
        "desiredCount": 1,
        "actualCount": 1,
        "desiredVirtualCount": 128,
        "actualVirtualCount": 128,
        "key": "_id",
        "strategy": "hash",
        "function": "murmur3",
    },
}


class Refusal(Exception):
    def __init__(self, status: int | grpc.StatusCode, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def _merged(config: Json, defaults: Mapping[str, Any]) -> Json:
    """The configured values, and the defaults of all others."""
    merged = copy.deepcopy(dict(defaults))
    for name, value in config.items():
        inner = merged.get(name)
        merged[name] = _merged(value, inner) if isinstance(value, dict) and isinstance(inner, dict) else value
    return merged


def typed(name: str, kind: str, value: Any) -> Any:
    match kind, value:
        case ("text", str()) | ("boolean", bool()):
            return value
        case "text[]", list() if value and all(isinstance(one, str) for one in value):
            return value
        case "int", float() if value.is_integer():
            return int(value)
        case "blob", str() if _BLOB.fullmatch(value):
            return value
    raise ValueError(f"invalid {kind} property '{name}' on class: not a {kind}, but {type(value).__name__}")


def completed(config: Json) -> Json:
    """The schema of a class as the server returns it, with its defaults."""
    if unknown := config.keys() - _CLASS:
        raise Refusal(422, f"unknown field {min(unknown)!r}")
    name = config["class"][:1].upper() + config["class"][1:]
    if not re.fullmatch("[A-Z][_0-9A-Za-z]{0,254}", name):
        raise Refusal(422, f"'{name}' is not a valid class name")
    schema = _merged({**config, "class": name}, _REST)
    schema["properties"] = [_property(one) for one in config.get("properties", [])]
    for vector in schema.get("vectorConfig", {}).values():
        if set(vector) - {"vectorizer", "vectorIndexType", "vectorIndexConfig"} or vector["vectorizer"] != {"none": {}}:
            raise Refusal(422, "a vector is of vectorizer none here")
        vector["vectorIndexConfig"] = _merged(vector.get("vectorIndexConfig", {}), _INDEX)
        if vector["vectorIndexConfig"]["distance"] not in ("cosine", "dot", "l2-squared"):
            raise Refusal(422, "unrecognized distance metric")
    return schema


def _property(config: Json) -> Json:
    if unknown := config.keys() - _PROPERTY:
        raise Refusal(422, f"unknown field {min(unknown)!r} of a property")
    name, kind = config["name"], config["dataType"][0]
    if name in ("id", "vector", "_id", "additional") or not re.fullmatch("[_A-Za-z][_0-9A-Za-z]{0,230}", name):
        raise Refusal(422, f"'{name}' is a reserved or invalid property name")
    text = kind in ("text", "text[]")
    if kind not in ("text", "text[]", "int", "boolean", "blob"):
        raise Refusal(422, f"the emulator knows no data type {kind}")
    if config.get("indexRangeFilters") and kind != "int":
        raise Refusal(422, "`indexRangeFilters` is allowed only for numbers and dates")
    if (config.get("tokenization") or config.get("indexSearchable")) and not text:
        raise Refusal(422, "tokenization and `indexSearchable` are allowed only for text")
    defaults = {"indexFilterable": kind != "blob", "indexSearchable": text, "indexRangeFilters": False}
    return {**defaults, **({"tokenization": "word"} if text else {}), **config}
