"""Many vectors a point in stores that have no MaxSim of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from penstock.core.contracts import Index, Sink
from penstock.core.errors import SinkError
from penstock.core.records import VECTOR, MultiVector, Point
from penstock.core.schema import Manifest, VectorSpec, single
from penstock.sinks import maxsim
from penstock.testing.sink_suite import holds, point

COUNTS = (3, 1, 0, 4097, 2, 0, 250, 1)
DIM = 24
MANIFEST = Manifest(single(VectorSpec("a late model", DIM, "f" * 32, kind="MultiVector")))


def matrix(rows: int, seed: int, dim: int = DIM) -> Any:
    return np.random.default_rng(seed).standard_normal((rows, dim), np.float32)


def unit(values: Any) -> Any:
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), np.float32(1e-30))


def plain(query: Any, flat: Any, metric: str) -> list[float]:
    """MaxSim as it is defined, in float64; of no vectors, -inf."""
    rows, asked = flat.astype(np.float64), query.astype(np.float64)
    if metric == "cosine":
        rows, asked = (m / np.maximum(np.linalg.norm(m, axis=1, keepdims=True), 1e-30) for m in (rows, asked))
    parts = np.split(asked @ rows.T, np.cumsum(COUNTS)[:-1], axis=1)
    return [float(part.max(axis=1).sum()) if part.size else -np.inf for part in parts]


def late(n: int, values: Any) -> Point:
    return Point(point(n).chunk, {VECTOR: MultiVector(values.astype(np.float32))})


def keeps_pages_of_any_length(sink: Sink, index: Index) -> None:
    """All come back as they were, one that had vectors before and has none now as well; that one is not found."""
    flat = matrix(sum(COUNTS), 1)
    points = [late(n, part) for n, part in enumerate(np.split(flat, np.cumsum(COUNTS)[:-1]))]
    sink.write([late(2, flat[:9])])
    sink.write(points)
    holds(sink, points)
    query = matrix(5, 2)
    exact = plain(query, flat, "cosine")
    order = [i for i in np.argsort([-score for score in exact]).tolist() if COUNTS[i]]
    hits = index.search(MultiVector(query), k=100)
    assert [hit.chunk.ordinal for hit in hits] == order
    assert [hit.score for hit in hits] == pytest.approx([exact[i] for i in order], abs=1e-4)
    with pytest.raises(SinkError, match="no vectors"):
        index.search(MultiVector(query[:0]))


def finds_the_best_of_a_shortlist(sink: Sink, index: Index, exact: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """More points than are all compared: the nearest are found, filtered as well, a few points at a time."""
    monkeypatch.setattr(maxsim, "ALL", 20)
    monkeypatch.setattr(maxsim, "READ", 3000)
    centres = matrix(40, 3)
    points = [late(n, centres[n % 40] + 0.5 * matrix(2 + n % 4, 100 + n)) for n in range(160)]
    sink.write(points)
    query = centres[7] + 0.5 * matrix(3, 4)
    ask = maxsim.Query(MultiVector(query), "cosine", "x://")
    scores = [float(ask.scores(p.vectors[VECTOR].values, [len(p.vectors[VECTOR].values)])[0]) for p in points]
    hits = index.search(MultiVector(query), k=4)
    assert {hit.chunk.ordinal for hit in hits} == {7, 47, 87, 127}
    assert [hit.score for hit in hits] == pytest.approx(sorted(scores, reverse=True)[:4], abs=1e-4)
    hits = index.search(MultiVector(query), k=4, where={"ordinal": {"$gte": 50}})
    assert {hit.chunk.ordinal for hit in hits[:2]} == {87, 127}
    assert all(hit.chunk.ordinal >= 50 for hit in hits)
    monkeypatch.setattr(maxsim, "shortlist", lambda *_: pytest.fail("a shortlist"))
    hits = exact.search(MultiVector(query), k=100)
    assert [hit.score for hit in hits] == pytest.approx(sorted(scores, reverse=True)[:100], abs=1e-4)
    hits = exact.search(MultiVector(query), k=100, where={"ordinal": {"$gte": 120}})
    assert sorted(hit.chunk.ordinal for hit in hits) == list(range(120, 160))
