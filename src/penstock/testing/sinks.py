"""Sinks for tests: one that keeps nothing, and one that makes another fail as planned."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from penstock.core.contracts import Sink
from penstock.core.errors import Rejected, SinkError, SinkUnavailable, TooLarge
from penstock.core.precision import PRECISIONS
from penstock.core.records import Dense, MultiVector, Point, Sparse
from penstock.core.schema import Manifest


class NothingSink(Sink):
    """Takes anything, counts it and keeps nothing: benchmarks with it measure everything but the store."""

    accepts = frozenset({Dense, MultiVector, Sparse})
    precisions = frozenset(PRECISIONS)
    named = True
    max_rows = 4096
    readable = False

    def __init__(self, url: str = "nothing://") -> None:
        self._url = url
        self._manifest: Manifest | None = None
        self.written = self.deleted = self.writes = self.flushes = 0

    @property
    def url(self) -> str:
        return self._url

    def manifest(self) -> Manifest | None:
        return self._manifest

    def open(self, manifest: Manifest) -> None:
        self._manifest = manifest

    def replace_manifest(self, manifest: Manifest) -> None:
        self._manifest = manifest

    def write(self, points: Sequence[Point]) -> None:
        self.writes += 1
        self.written += len(points)

    def delete(self, ids: Sequence[str]) -> None:
        self.deleted += len(ids)

    def flush(self) -> None:
        self.flushes += 1

    def count(self) -> int:
        return self.written - self.deleted


class Died(BaseException):
    """Stands for the end of the process: no engine catches it by mistake."""


@dataclass(frozen=True, slots=True)
class Faults:
    """Planned failures, by the calls of `write`, counted from 0."""

    transient: frozenset[int] = frozenset()
    """Fails before it writes anything, for now."""
    half: frozenset[int] = frozenset()
    """Writes the first half of the batch, then fails, for now."""
    after: frozenset[int] = frozenset()
    """Writes all of it, then fails, for now: the acknowledgement is lost."""
    dies: frozenset[int] = frozenset()
    """Writes all of it, then raises Died."""
    broken: frozenset[int] = frozenset()
    """Fails for good."""
    refuses: Mapping[str, str] = field(default_factory=dict)
    """Ids that can never be written, and why."""
    max_rows: int | None = None
    """Batches of more are TooLarge."""
    seconds: float = 0.0
    """The least time that a call takes."""
    away: tuple[int, float] | None = None
    """From this call on, the store cannot be reached for so many seconds."""
    flush: frozenset[int] = frozenset()
    """The calls of `flush` that fail, for now."""


class FaultySink(Sink):
    """Wraps a sink and fails as planned; other calls reach the real one. `calls` counts those of `write`."""

    def __init__(self, real: Sink, faults: Faults) -> None:
        self.real, self.faults = real, faults
        self.accepts, self.precisions, self.named = real.accepts, real.precisions, real.named
        self.writers, self.readable = real.writers, real.readable
        self.max_rows, self.max_bytes, self.max_text = real.max_rows, real.max_bytes, real.max_text
        self.calls = self.flushes = self.failures = 0
        self._lock = threading.Lock()
        self._back: float | None = None

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def write(self, points: Sequence[Point]) -> None:
        faults = self.faults
        with self._lock:
            call, self.calls = self.calls, self.calls + 1
        time.sleep(faults.seconds)
        self._reach(call)
        if faults.max_rows is not None and len(points) > faults.max_rows:
            self._fail(TooLarge(f"{len(points)} points in one batch, {faults.max_rows} at most"))
        if call in faults.broken:
            self._fail(SinkError("the store is broken"))
        if call in faults.transient:
            self._fail(SinkUnavailable("the store is busy"))
        if call in faults.half:
            self.real.write(points[: len(points) // 2])
            self._fail(SinkUnavailable("the store failed in the middle of a batch"))
        refused = {point.id: faults.refuses[point.id] for point in points if point.id in faults.refuses}
        self.real.write([point for point in points if point.id not in refused])
        if call in faults.dies:
            self._fail(Died("died after writing"))
        if call in faults.after:
            self._fail(SinkUnavailable("the acknowledgement is lost"))
        if refused:
            self._fail(Rejected(refused))

    def _reach(self, call: int) -> None:
        if self.faults.away is None or call < self.faults.away[0]:
            return
        with self._lock:
            if self._back is None:
                self._back = time.monotonic() + self.faults.away[1]
        if time.monotonic() < self._back:
            self._fail(SinkUnavailable("the store is away"))

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self.failures += 1
        raise error

    def flush(self) -> None:
        with self._lock:
            call, self.flushes = self.flushes, self.flushes + 1
        if call in self.faults.flush:
            self._fail(SinkUnavailable("the store could not flush"))
        self.real.flush()

    @property
    def url(self) -> str:
        return self.real.url

    def generation(self, number: int) -> Self:
        return type(self)(self.real.generation(number), self.faults)

    def manifest(self) -> Manifest | None:
        return self.real.manifest()

    def drop(self) -> None:
        self.real.drop()

    def alias(self, number: int) -> str:
        return self.real.alias(number)

    def open(self, manifest: Manifest) -> None:
        self.real.open(manifest)

    def replace_manifest(self, manifest: Manifest) -> None:
        self.real.replace_manifest(manifest)

    def delete(self, ids: Sequence[str]) -> None:
        self.real.delete(ids)

    def count(self) -> int:
        return self.real.count()

    def ids(self) -> Iterator[Sequence[str]]:
        return self.real.ids()

    def fetch(self, ids: Sequence[str]) -> Sequence[Point]:
        return self.real.fetch(ids)

    def maintain(self) -> None:
        self.real.maintain()

    def maintain_beside(self) -> bool:
        return self.real.maintain_beside()

    def close(self) -> None:
        self.real.close()
