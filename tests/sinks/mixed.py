"""Vectors of several kinds side by side, for the stores that hold them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from penstock.core.contracts import Index, Sink
from penstock.core.records import VECTOR, Dense, MultiVector, Point, Sparse, Vector
from penstock.core.schema import IndexSchema, Manifest, VectorSpec
from penstock.sinks.memory import scores
from penstock.testing.sink_suite import DIM, holds, point

SPECS = {
    VECTOR: VectorSpec("a model", DIM, "a" * 32),
    "dense": VectorSpec("another model", 4, "b" * 32, metric="dot"),
    "vector_dense": VectorSpec("a third model", 4, "c" * 32, metric="l2"),
    "pages": VectorSpec("a late model", DIM, "d" * 32, kind="MultiVector"),
    "terms": VectorSpec("a sparse model", DIM, "e" * 32, kind="Sparse", metric="dot"),
}
"""The names are such that a store's own names for them could collide."""
KINDS: dict[str, type[Vector]] = {"Dense": Dense, "MultiVector": MultiVector, "Sparse": Sparse}


def schema(kinds: Iterable[type[Vector]]) -> IndexSchema:
    """The schema of all vectors of these kinds."""
    return IndexSchema({name: spec for name, spec in SPECS.items() if KINDS[spec.kind] in kinds}, "256 tokens")


def mixed(n: int, of: IndexSchema, version: int = 0) -> Point:
    """The nth point, with vectors of other lengths than 1, sparse ones excepted."""
    vectors: dict[str, Vector] = {}
    for position, (name, spec) in enumerate(of.vectors.items()):
        found = point(n + 100 * position, kind=KINDS[spec.kind], dim=spec.dim, version=version).vectors[VECTOR]
        long = np.float32(1 + (n + position) % 3)
        vectors[name] = found if isinstance(found, Sparse) else type(found)(found.values * long)
    return Point(point(n, version=version).chunk, vectors)


def keeps_and_finds(sink: Sink, index: Index, of: IndexSchema) -> None:
    """Written, replaced and read back to the bit, and found by each name in its own metric."""
    points = [mixed(n, of) for n in range(30)]
    with sink, index:
        sink.open(Manifest(of))
        sink.write([mixed(n, of, version=1) for n in range(30)])
        sink.write(points)
        holds(sink, points)
        index.open()
        for name, spec in of.vectors.items():
            query = mixed(40, of).vectors[name]
            exact = scores(query, [p.vectors[name] for p in points], spec.metric)
            order = [i for i in np.argsort(-exact, kind="stable") if exact[i] or spec.kind != "Sparse"][:5]
            hits = index.search(query, k=5, using=name)
            assert [hit.chunk.ordinal for hit in hits] == order, name
            if spec.metric != "l2":
                assert [hit.score for hit in hits] == pytest.approx(exact[order], rel=1e-4, abs=1e-4), name
