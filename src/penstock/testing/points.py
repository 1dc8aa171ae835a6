"""Points for tests of sinks: made in series, read back, compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from penstock.core.contracts import Index, Sink
from penstock.core.records import VECTOR, Chunk, Dense, MultiVector, Point, Sparse, Vector
from penstock.core.schema import IndexSchema

MakeSink = Callable[[], Sink]
MakeIndex = Callable[[], Index]

DIM = 8
URI = 'file:///docs/it\'s "quoted" \\ and 100%25 naïve.md'


def point(n: int, *, kind: type[Vector] = Dense, dim: int = DIM, version: int = 0, **fields: Any) -> Point:
    """The nth of a series of points; another version of it has the same id, and other text and vector."""
    rng = np.random.default_rng([n, version])
    defaults: dict[str, Any] = {"text": f"text {n}, version {version}", "uri": f"file:///docs/{n // 50}.md"}
    chunk = Chunk(id=f"{n:032x}", ordinal=n, span=(10 * n, 10 * n + 9), **(defaults | fields))
    return Point(chunk, {VECTOR: _vector(rng, kind, dim)})


def _vector(rng: np.random.Generator, kind: type[Vector], dim: int) -> Vector:
    if kind is Sparse:
        values = rng.random(3, dtype=np.float32)
        return Sparse(np.sort(rng.choice(dim, 3, replace=False)).astype(np.int32), values / np.linalg.norm(values))
    matrix = rng.standard_normal((int(rng.integers(2, 5)) if kind is MultiVector else 1, dim), dtype=np.float32)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    return MultiVector(matrix) if kind is MultiVector else Dense(matrix[0])


def everything(sink: Sink) -> dict[str, Point]:
    """All points that a sink returns, by id."""
    found: dict[str, Point] = {}
    for page in sink.ids():
        points = sink.fetch(page)
        assert sorted(p.id for p in points) == sorted(page), "ids and fetch disagree"
        twice = [p.id for p in points if p.id in found]
        assert not twice, f"ids are listed twice: {twice[:3]}"
        found.update((p.id, p) for p in points)
    return found


def same(found: Point, wanted: Point) -> None:
    """The point came back as it was written, to the bit."""
    assert found.chunk == wanted.chunk
    assert dict(found.chunk.metadata) == dict(wanted.chunk.metadata)
    assert found.vectors.keys() == wanted.vectors.keys()
    for name, b in wanted.vectors.items():
        a = found.vectors[name]
        assert type(a) is type(b)
        assert a.values.dtype == b.values.dtype
        assert a.values.shape == b.values.shape
        assert a.values.tobytes() == b.values.tobytes(), f"the vector {name!r} came back changed"
        if isinstance(a, Sparse) and isinstance(b, Sparse):
            assert a.indices.tolist() == b.indices.tolist()


def holds(sink: Sink, wanted: Sequence[Point]) -> None:
    """The sink holds these points and no other."""
    sink.flush()
    assert sink.count() == len(wanted)
    if not sink.readable:
        return
    found = everything(sink)
    assert found.keys() == {p.id for p in wanted}
    for p in wanted:
        same(found[p.id], p)


def similarity(query: Vector, found: Vector) -> float:
    """The score of a hit: the cosine, for many vectors the sum of each one's best, for sparse ones the product."""
    if isinstance(query, Sparse) and isinstance(found, Sparse):
        other = dict(zip(found.indices.tolist(), found.values.tolist(), strict=True))
        pairs = zip(query.indices.tolist(), query.values.tolist(), strict=True)
        return math.fsum(value * other.get(index, 0.0) for index, value in pairs)
    a, b = (np.atleast_2d(v.values).astype(np.float64) for v in (query, found))
    a, b = (m / np.linalg.norm(m, axis=1, keepdims=True) for m in (a, b))
    return float((a @ b.T).max(axis=1).sum())


def respec(schema: IndexSchema, **changes: Any) -> IndexSchema:
    """The schema of an index with one vector, that vector's spec changed."""
    return replace(schema, vectors={schema.only_name: replace(schema.only, **changes)})
