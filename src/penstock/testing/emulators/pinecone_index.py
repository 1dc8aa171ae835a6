"""Indexes of the emulator of Pinecone: namespaces, records checked against the service's limits, and their search."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from penstock.testing.emulators.listener import Listener, to_json
from penstock.testing.emulators.pinecone_filter import Refusal

METRICS = ("cosine", "dotproduct", "euclidean")
METADATA = 40_960
"""Bytes of a record's metadata."""
MOST_VALUES = 1000
"""Of a sparse vector, by the strictest limit that was documented."""

Record = tuple[Any, dict[str, Any]]
"""The vector and the metadata."""


def only(body: Mapping[str, Any], known: set[str], what: str) -> None:
    if unknown := sorted(body.keys() - known):
        raise Refusal(400, f'{what}: Cannot find field: "{unknown[0]}"')


@dataclass
class View:
    """The records as one way of reading sees them: those of the log up to a position."""

    lag: float
    records: dict[str, Record] = field(default_factory=dict)
    at: int = 0


class Namespace:
    """A log of writes and deletions, and two views that follow it."""

    def __init__(self, lag: float) -> None:
        self.log: list[tuple[float, dict[str, Record | None]]] = []
        self.searched, self.read = View(lag), View(2 * lag)

    def append(self, changes: dict[str, Record | None]) -> int:
        self.log.append((time.monotonic(), changes))
        return len(self.log)

    def see(self, view: View) -> dict[str, Record]:
        while view.at < len(self.log) and self.log[view.at][0] + view.lag <= time.monotonic():
            for id, record in self.log[view.at][1].items():
                if record is None:
                    view.records.pop(id, None)
                else:
                    view.records[id] = record
            view.at += 1
        return view.records


@dataclass
class Index:
    name: str
    dimension: int | None
    """None for sparse vectors, which are dictionaries."""
    metric: str
    place: dict[str, str]
    """Its cloud and region."""
    tags: dict[str, str] | None
    namespaces: dict[str, Namespace] = field(default_factory=dict)
    ready: float = 0.0
    listener: Listener = field(init=False)

    @property
    def kind(self) -> str:
        return "sparse" if self.dimension is None else "dense"


def check_id(id: Any) -> None:
    if not isinstance(id, str) or not re.fullmatch(r"[\x01-\x7f]{1,512}", id):
        raise Refusal(400, f"Vector ID must be ASCII and of 1 to 512 characters, but got {id!r}")


def check_metadata(metadata: dict[str, Any]) -> None:
    for name, value in metadata.items():
        listed = isinstance(value, list) and all(isinstance(part, str) for part in value)
        if name.startswith("$") or not (listed or isinstance(value, str | int | float | bool)):
            wanted = "Metadata value must be a string, number, boolean or list of strings"
            raise Refusal(400, f"{wanted}, got {value!r} for field '{name}'")
        if isinstance(value, int) and not isinstance(value, bool):
            metadata[name] = float(value)
    if (size := len(to_json(metadata))) > METADATA:
        raise Refusal(400, f"Metadata size is {size} bytes, which exceeds the limit of {METADATA} bytes per vector")


def checked(vector: Any, index: Index) -> Any:
    """A vector of the index's kind, as it is kept."""
    return sparse_values(vector) if index.kind == "sparse" else dense_values(vector, index)


def dense_values(vector: Any, index: Index) -> Any:
    values = np.array(vector, np.float32)
    if values.shape != (index.dimension,):
        raise Refusal(
            400, f"Vector dimension {len(values)} does not match the dimension of the index {index.dimension}"
        )
    if not np.isfinite(values).all() or not values.any():
        raise Refusal(400, "Dense vectors must contain at least one non-zero value")
    return values


def sparse_values(vector: dict[str, Any]) -> dict[int, float]:
    only(vector, {"indices", "values"}, "sparse vector")
    indices, values = vector["indices"], np.array(vector["values"], np.float32)
    if not 1 <= len(indices) <= MOST_VALUES or len(set(indices)) != len(indices) or len(indices) != len(values):
        raise Refusal(400, f"Sparse vectors have 1 to {MOST_VALUES} values, each with an index of its own")
    if any(not isinstance(index, int) or not 0 <= index < 1 << 32 for index in indices):
        raise Refusal(400, "an index of a sparse vector is a number of 32 bits")
    if not np.isfinite(values).all() or not values.all():
        raise Refusal(400, "Sparse vectors have no zeros")
    return dict(zip(indices, values.tolist(), strict=True))


def vector_fields(vector: Any) -> dict[str, Any]:
    if isinstance(vector, dict):
        sparse = {"indices": list(vector), "values": list(vector.values())}
        return {"values": [], "sparseValues": sparse}  # client 8 fails where there are no values
    return {"values": vector}


def overlapping(query: dict[int, float], found: dict[str, Record]) -> list[tuple[str, float]]:
    """Ids and products, the largest first; without those whose product is zero."""
    scores = {
        id: sum(query[index] * values[index] for index in query.keys() & values.keys())
        for id, (values, _) in found.items()
    }
    return sorted(((id, score) for id, score in scores.items() if score), key=lambda pair: -pair[1])


def nearest(query: Any, found: dict[str, Record], metric: str) -> list[tuple[str, float]]:
    if not found:
        return []
    query = query.astype(np.float64)
    matrix = np.stack([values for values, _ in found.values()]).astype(np.float64)
    if metric == "euclidean":
        scores = ((matrix - query) ** 2).sum(axis=1)
        order = np.argsort(scores, kind="stable")
    else:
        scores = matrix @ query
        if metric == "cosine":
            scores /= np.linalg.norm(matrix, axis=1) * np.linalg.norm(query)
        order = np.argsort(-scores, kind="stable")
    ids = list(found)
    return [(ids[i], float(scores[i])) for i in order.tolist()]
