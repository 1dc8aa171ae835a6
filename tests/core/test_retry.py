"""Retry: by time, as a service asks, and until it is told to stop."""

from __future__ import annotations

import pickle
import threading
import time

import pytest

from penstock.core import retry as retries
from penstock.core.errors import PenstockError, SinkError, SinkUnavailable, StageError, Transient
from penstock.core.retry import Retry


class Clock:
    """Time that passes only when a call or a pause takes some."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.pauses: list[float] = []
        monkeypatch.setattr(retries.time, "monotonic", lambda: self.now)
        self.stop = threading.Event()
        monkeypatch.setattr(self.stop, "wait", self.pause)

    def pause(self, seconds: float) -> bool:
        self.pauses.append(seconds)
        self.now += seconds
        return False


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.mark.parametrize("seconds", [0.0, 30.0, 60.0])
def test_time_counts_and_not_pauses(clock: Clock, seconds: float) -> None:
    """Calls that take half a minute to fail are given up after the same time as others: one call over it at most."""

    def fails() -> None:
        clock.now += seconds
        raise Transient("away")

    with pytest.raises(Transient):
        Retry(600.0, clock.stop).call("write", fails)
    assert 600.0 <= clock.now <= 600.0 + 2 * seconds + 0.1
    assert max(clock.pauses) <= 15.0


def test_a_service_is_asked_when_it_says(clock: Clock) -> None:
    """Not earlier; but never later than the deadline."""
    calls: list[float] = []

    def busy() -> str:
        calls.append(clock.now)
        if len(calls) < 3:
            raise Transient("429", retry_after=40.0)
        return "done"

    said: list[str] = []
    assert Retry(600.0, clock.stop, said.append).call("embed", busy) == "done"
    assert calls == [0.0, 40.0, 80.0]
    assert [message.partition(":")[0] for message in said] == ["embed", "embed", ""]
    calls.clear()
    with pytest.raises(Transient):
        Retry(10.0, clock.stop).call("embed", lambda: busy() if len(calls) < 2 else calls.clear() or busy())
    assert clock.pauses[-1] <= 10.0


def test_a_stop_ends_a_pause_at_once() -> None:
    stop = threading.Event()
    threading.Timer(0.05, stop.set).start()

    def fails() -> None:
        raise Transient("away", retry_after=60.0)

    began = time.monotonic()
    with pytest.raises(Transient):
        Retry(600.0, stop).call("write", fails)
    assert time.monotonic() - began < 10


def test_what_is_not_transient_is_raised_at_once(clock: Clock) -> None:
    def fails() -> None:
        raise SinkError("no such table")

    with pytest.raises(SinkError):
        Retry(600.0, clock.stop).call("write", fails)
    assert clock.pauses == []


def test_a_store_that_is_away_is_both_and_a_busy_model_is_no_store() -> None:
    assert issubclass(SinkUnavailable, Transient)
    assert issubclass(SinkUnavailable, SinkError)
    assert not issubclass(Transient, SinkError)
    assert issubclass(Transient, PenstockError)
    again = pickle.loads(pickle.dumps(SinkUnavailable("away", retry_after=3.0)))
    assert (str(again), again.retry_after) == ("away", 3.0)


def test_the_error_that_ends_a_worker_reaches_who_started_it() -> None:
    again = pickle.loads(pickle.dumps(StageError("embed", "doc:a", ValueError("boom"))))
    assert (str(again), again.stage, again.item) == ("embed at doc:a: ValueError: boom", "embed", "doc:a")
