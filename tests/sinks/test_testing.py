"""The sinks of `penstock.testing.sinks` fail as planned and keep their other promises."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import pytest

from penstock.core.contracts import Sink
from penstock.core.errors import Rejected, SinkError, TooLarge, Transient
from penstock.sinks.memory import MemorySink, forget
from penstock.testing.sink_suite import MakeSink, SinkSuite, holds, point
from penstock.testing.sinks import Died, Faults, FaultySink, NothingSink

URL = "memory://faulty"


class TestFaultySinkWithoutFaults(SinkSuite):
    """With no fault planned it is the real sink."""

    shared = False

    @pytest.fixture
    def make_sink(self) -> Iterator[MakeSink]:
        yield lambda: FaultySink(MemorySink(URL), Faults())
        forget(URL)


@pytest.fixture
def real() -> Iterator[Sink]:
    sink = MemorySink(URL)
    sink.open(TestFaultySinkWithoutFaults().manifest)
    yield sink
    forget(URL)


POINTS = [point(n) for n in range(10)]


@pytest.mark.parametrize(
    ("faults", "error", "written"),
    [
        (Faults(transient=frozenset({0})), Transient, 0),
        (Faults(half=frozenset({0})), Transient, 5),
        (Faults(after=frozenset({0})), Transient, 10),
        (Faults(dies=frozenset({0})), Died, 10),
        (Faults(broken=frozenset({0})), SinkError, 0),
        (Faults(max_rows=9), TooLarge, 0),
        (Faults(away=(0, 0.05)), Transient, 0),
        (Faults(refuses={POINTS[3].id: "poison"}), Rejected, 9),
    ],
)
def test_a_fault_befalls_its_call(real: Sink, faults: Faults, error: type[BaseException], written: int) -> None:
    """The first call fails, with so many points written; the planned call is the only one."""
    sink = FaultySink(real, faults)
    with pytest.raises(error):
        sink.write(POINTS)
    holds(sink, [p for p in POINTS if p.id not in faults.refuses][:written])
    assert sink.failures == 1


def test_all_is_there_when_tried_again(real: Sink) -> None:
    """Whatever was half done before, another try is enough."""
    sink = FaultySink(real, Faults(transient=frozenset({0}), half=frozenset({1}), after=frozenset({2}), away=(3, 0.05)))
    for _ in range(1000):
        try:
            sink.write(POINTS)
        except Transient:
            continue
        break
    holds(sink, POINTS)
    assert sink.failures >= 4


def test_a_flush_may_fail(real: Sink) -> None:
    """The planned flush fails, the next one passes."""
    sink = FaultySink(real, Faults(flush=frozenset({0})))
    with pytest.raises(Transient):
        sink.flush()
    sink.flush()


def test_it_pickles(real: Sink) -> None:
    """With its plan, before or after it was used."""
    sink = pickle.loads(pickle.dumps(FaultySink(MemorySink(URL), Faults(max_rows=1))))
    assert sink.faults.max_rows == 1
    with pytest.raises(TooLarge):
        sink.write(POINTS)


def test_nothing_is_kept() -> None:
    """It counts the points and keeps none."""
    sink = NothingSink()
    sink.open(TestFaultySinkWithoutFaults().manifest)
    sink.write(POINTS)
    sink.delete([POINTS[0].id])
    assert (sink.written, sink.count()) == (10, 9)
