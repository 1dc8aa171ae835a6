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
