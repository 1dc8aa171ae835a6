"""`memory://name`: points in this process, searched exactly. For tests, small corpora and trying things out."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from penstock.core import filters
from penstock.core.contracts import Index, Sink
from penstock.core.errors import SinkError, UsageError
from penstock.core.fields import Scalar
from penstock.core.filter_parser import facet_path, parse_filter
from penstock.core.precision import DTYPES, PRECISIONS, floats
from penstock.core.records import Dense, Hit, MultiVector, Point, Sparse, Vector
from penstock.core.schema import Manifest, VectorSpec
from penstock.sinks import facets, manifests, maxsim, rows, words
from penstock.sinks.base import Located

PAGE = 1024
MAX_KEPT = 64 << 20
"""Bytes of the matrix of a vector of all points that is kept from one search to the next; a larger one is not."""


@dataclass(slots=True)
class _Store:
    manifest: Manifest | None = None
    points: dict[str, Point] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    changes: int = 0
    stacked: dict[tuple[str, str], tuple[list[Point], Any]] = field(default_factory=dict)
    """By vector and metric, the points and their matrix, until the next change."""

    def changed(self) -> None:
        """To be called with the lock."""
        self.changes += 1
        self.stacked.clear()


_stores: dict[str, _Store] = {}


def forget(url: str) -> None:
    """Drop a store with all its points."""
    _stores.pop(_name(url), None)


def _name(url: str) -> str:
    scheme, separator, name = url.partition("://")
    if not separator or scheme.lower() != "memory":
        raise UsageError(f"invalid url {url!r}: expected memory://NAME")
    return name


class MemorySink(Located, Sink):
    """A store of this process: all that open the same name in it share the points."""

    accepts = frozenset({Dense, MultiVector, Sparse})
    precisions = frozenset(PRECISIONS)
    named = True
    max_rows = 4096
    writers = 8

    def __init__(self, url: str = "memory://") -> None:
        super().__init__(url)
        self._name = _name(url)

    @property
    def _store(self) -> _Store:
        return _stores.setdefault(self._name, _Store())

    @property
    def _manifest(self) -> Manifest:
        if (manifest := self._store.manifest) is None:
            raise SinkError(f"{self._url} is not open")
        return manifest

    def manifest(self) -> Manifest | None:
        return self._store.manifest

    def drop(self) -> None:
        forget(self._url)

    def open(self, manifest: Manifest) -> None:
        store = self._store
        with store.lock:
            manifests.admit(self, store.manifest, manifest)
            if store.manifest is None:
                store.manifest = manifest

    def replace_manifest(self, manifest: Manifest) -> None:
        store = self._store
        with store.lock:
            store.manifest = manifest

    def exchange_manifest(self, old: Manifest, new: Manifest) -> bool:
        store = self._store
        with store.lock:
            if store.manifest != old:
                return False
            store.manifest = new
            return True

    def write(self, points: Sequence[Point]) -> None:
        schema = self._manifest.schema
        kept = {}
        for point in points:
            rows.check_point(point, schema, self._url)
            # An array may be a slice of a batch, or be filled anew by the embedder: keep a copy, and no tokens.
            vectors = {name: _copy(vector, schema.vectors[name]) for name, vector in point.vectors.items()}
            kept[point.id] = Point(replace(point.chunk, tokens=None), vectors)
        store = self._store
        with store.lock:
            store.points.update(kept)
            store.changed()

    def delete(self, ids: Sequence[str]) -> None:
        store = self._store
        with store.lock:
            for id in ids:
                store.points.pop(id, None)
            store.changed()

    def flush(self) -> None:
        """Writes are visible at once, and memory is not durable."""

    def count(self) -> int:
        return len(self._store.points)

    def ids(self) -> Iterator[Sequence[str]]:
        with self._store.lock:
            all_ids = list(self._store.points)
        for start in range(0, len(all_ids), PAGE):
            yield all_ids[start : start + PAGE]

    def fetch(self, ids: Sequence[str]) -> Sequence[Point]:
        points = self._store.points
        return [point for id in dict.fromkeys(ids) if (point := points.get(id)) is not None]


def _copy(vector: Vector, space: VectorSpec) -> Vector:
    if isinstance(vector, Sparse):
        return Sparse(vector.indices.copy(), vector.values.copy())
    return type(vector)(np.array(vector.values, dtype=DTYPES[space.precision]))


class MemoryIndex(Located, Index):
    """Exact search: every vector is compared."""

    def __init__(self, url: str = "memory://") -> None:
        super().__init__(url)
        self._sink = MemorySink(url)

    def open(self) -> None:
        if self._sink.manifest() is None:
            raise SinkError(f"there is no index at {self._url}")

    def manifest(self) -> Manifest:
        self.open()
        return self._sink._manifest

    def fetch(self, ids: Sequence[str]) -> Sequence[Point]:
        return self._sink.fetch(ids)

    def count(self) -> int:
        return self._sink.count()

    def search(
        self, vector: Vector, k: int = 10, where: Mapping[str, Any] | None = None, *, using: str | None = None
    ) -> list[Hit]:
        name, space = rows.target(vector, self.manifest().schema, using, self._url)
        if isinstance(vector, Dense):
            wanted = parse_filter(where)
            points, ranked = self._compared(vector, name, space.metric)
            if wanted is not None:
                ranked[[not filters.passes(point.chunk, wanted) for point in points]] = -np.inf
        elif points := self._passing(where):
            ranked = scores(vector, [p.vectors[name] for p in points], space.metric, self._url)
        else:
            return []
        best = np.argsort(-ranked, kind="stable")[: max(k, 0)]
        return [Hit(float(ranked[i]), points[i].chunk) for i in best if ranked[i] > -np.inf]

    def _compared(self, query: Dense, name: str, metric: str) -> tuple[list[Point], Any]:
        """All points, and how near each is to the query: larger is nearer."""
        store = self._sink._store
        with store.lock:
            kept, changes = store.stacked.get((name, metric)), store.changes
            points = list(store.points.values()) if kept is None else []
        if kept is None:
            if not points:
                return [], np.empty(0)
            matrix = np.stack([p.vectors[name].values for p in points])
            kept = points, _unit(matrix) if metric == "cosine" else matrix
            with store.lock:
                if store.changes == changes and matrix.nbytes <= MAX_KEPT:
                    store.stacked[name, metric] = kept
        points, matrix = kept
        asked = query.values[None, :]
        if metric == "l2":
            return points, similarity(matrix, asked, metric)[:, 0]
        # Not a product by BLAS: its threads wait for each other, for long where the cores are busy.
        return points, np.einsum("ij,j->i", matrix, (_unit(asked) if metric == "cosine" else asked)[0])

    @property
    def finds_words(self) -> bool:
        return True

    def search_words(self, text: str, k: int = 10, where: Mapping[str, Any] | None = None) -> list[Hit]:
        asked, wanted = words.asked(text), parse_filter(where)
        points = self._passing(None)
        found = [
            (score, point.chunk)
            for score, point in zip(words.bm25([p.text for p in points], asked), points, strict=True)
            if score and (wanted is None or filters.passes(point.chunk, wanted))
        ]
        found.sort(key=lambda pair: -pair[0])
        return [Hit(score, chunk) for score, chunk in found[: max(k, 0)]]

    def facets(
        self, names: Sequence[str], where: Mapping[str, Any] | None = None, *, limit: int = 20
    ) -> Mapping[str, Sequence[tuple[Scalar, int]]]:
        paths = {name: facet_path(name) for name in names}
        chunks = (point.chunk for point in self._passing(where))
        counts = facets.count(chunks, list(paths.values()), limit, self._url)
        return dict(zip(paths, counts, strict=True))

    def _passing(self, where: Mapping[str, Any] | None) -> list[Point]:
        wanted = parse_filter(where)
        with self._sink._store.lock:
            points = list(self._sink._store.points.values())
        return [point for point in points if wanted is None or filters.passes(point.chunk, wanted)]


def scores(query: Vector, vectors: Sequence[Any], metric: str, url: str = "memory://") -> Any:
    """Compare the query with each vector: larger is nearer. Where a point has no vectors at all, it is -inf."""
    if isinstance(query, Dense):
        return similarity(np.stack([v.values for v in vectors]), query.values[None, :], metric)[:, 0]
    if isinstance(query, MultiVector):
        asked = maxsim.Query(query, metric, url)
        if metric != "l2":  # each by itself: together they would be a copy of the index
            return np.concatenate([asked.scores(v.values, [len(v.values)]) for v in vectors])
        nearest = (similarity(floats(v.values), query.values, metric).max(axis=0, initial=-np.inf) for v in vectors)
        return np.array([each.sum() for each in nearest])
    return np.array([_overlap(query, v) for v in vectors])


def similarity(left: Any, right: Any, metric: str) -> Any:
    """Compare each row of the one with each row of the other: larger is nearer."""
    if metric == "l2":
        return -((left[:, None, :] - right[None, :, :]) ** 2).sum(axis=2)
    if metric == "cosine":
        left, right = _unit(left), _unit(right)
    return left @ right.T


def _unit(matrix: Any) -> Any:
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    return matrix / np.where(norms == 0, 1, norms)


def _overlap(left: Sparse, right: Sparse) -> float:
    _, i, j = np.intersect1d(left.indices, right.indices, assume_unique=True, return_indices=True)
    return float(left.values[i] @ right.values[j])
