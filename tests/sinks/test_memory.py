"""`memory://` keeps the promises of a sink, for all three kinds of vectors."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from penstock.core.contracts import Index
from penstock.core.records import Dense, MultiVector, Sparse
from penstock.sinks.memory import MemoryIndex, MemorySink, forget
from penstock.testing.sink_suite import MakeIndex, MakeSink, SinkSuite
from tests.sinks.counted import equal_counts, too_many_values

URL = "memory://suite"


class TestMemory(SinkSuite):
    shared = False
    has_words = True

    @pytest.fixture
    def make_sink(self) -> Iterator[MakeSink]:
        yield lambda: MemorySink(URL)
        forget(URL)

    @pytest.fixture
    def make_index(self) -> MakeIndex:
        def make() -> Index:
            return MemoryIndex(URL)

        return make


class TestMemoryMultiVector(TestMemory):
    kind = MultiVector


class TestMemorySparse(TestMemory):
    kind = Sparse


def test_a_copy_is_kept() -> None:
    """An embedder may fill its arrays anew: what was written stays."""
    import numpy as np

    from penstock.core.records import VECTOR
    from penstock.testing.sink_suite import point

    array = np.ones(8, dtype=np.float32)
    written = point(1)
    sink = MemorySink(URL)
    sink.open(TestMemory().manifest)
    sink.write([type(written)(written.chunk, {VECTOR: Dense(array)})])
    array[:] = 0
    assert sink.fetch([written.id])[0].vectors[VECTOR].values.sum() == 8
    forget(URL)


def test_counts_of_values(monkeypatch: pytest.MonkeyPatch) -> None:
    with MemorySink("memory://equal") as sink, MemoryIndex("memory://equal") as index:
        sink.open(SinkSuite().manifest)
        equal_counts(sink, index)
    with MemorySink("memory://many") as sink, MemoryIndex("memory://many") as index:
        sink.open(SinkSuite().manifest)
        too_many_values(sink, index, monkeypatch)
    forget("memory://equal")
    forget("memory://many")


def test_vectors_are_stacked_once_until_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at each search; and what is too large to be kept is not."""
    import numpy as np

    from penstock.core.records import VECTOR
    from penstock.sinks import memory
    from penstock.testing.sink_suite import point

    stacked: list[int] = []
    stack = np.stack

    def counted(arrays: list[np.ndarray]) -> np.ndarray:
        stacked.append(len(arrays))
        return stack(arrays)

    monkeypatch.setattr(memory.np, "stack", counted)
    with MemorySink("memory://stacked") as sink, MemoryIndex("memory://stacked") as index:
        sink.open(SinkSuite().manifest)
        points = [point(n) for n in range(4)]
        sink.write(points[:3])

        def found(**where: int) -> set[str]:
            asked = points[0].vectors[VECTOR]
            return {hit.chunk.id for hit in index.search(asked, where=where or None)}

        assert found() == found() == {p.id for p in points[:3]}
        assert found(nothing=1) == set()
        assert stacked == [3]
        sink.write(points[3:])
        sink.delete([points[0].id])
        assert found() == found() == {p.id for p in points[1:]}
        assert stacked == [3, 3]
        monkeypatch.setattr(memory, "MAX_KEPT", 1)
        sink.delete([points[1].id])
        assert found() == found() == {p.id for p in points[2:]}
        assert stacked == [3, 3, 2, 2]
    forget("memory://stacked")
