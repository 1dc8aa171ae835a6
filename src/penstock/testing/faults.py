"""Fault injectors: an embedder and a source that fail as planned, and a fuse that ends everything at a chosen moment.

    FaultyEmbedder(real, EmbedFaults(transient=frozenset({0, 3}), poison="DROP TABLE"))
    FaultySource(real, SourceFaults(abort=10))
    wire(sink, Fuse("after sink.write", nth=2), SINK_MOMENTS)

The faults of a sink are in `penstock.testing.sinks`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import wraps
from itertools import islice
from typing import Any

from penstock.core.contracts import Embedder, Source, Tokenizer
from penstock.core.errors import EmbedError, ModelError, SourceError, Transient
from penstock.core.records import Change, Chunk, Item, Unreadable, Upsert, Vector
from penstock.core.schema import VectorSpec

# ---------------------------------------------------------------- an embedder


@dataclass(frozen=True, slots=True)
class EmbedFaults:
    """Faults by the calls of `embed`, counted from 0."""

    transient: frozenset[int] = frozenset()
    """HTTP 429 and the like."""
    broken: frozenset[int] = frozenset()
    """Fails with an error that no contract names."""
    fatal: frozenset[int] = frozenset()
    """Fails with an error that ends the run."""
    short: frozenset[int] = frozenset()
    """Returns one vector too few."""
    poison: str | None = None
    """A batch with a chunk that holds these characters is refused."""
    seconds: float = 0.0
    """The least seconds of each call."""


class FaultyEmbedder(Embedder):
    """Another embedder, failing as planned. `embedded` is every id that was given a vector, in order."""

    def __init__(self, real: Embedder, faults: EmbedFaults) -> None:
        self.real, self.faults = real, faults
        self.workers = real.workers
        self.batch_tokens, self.batch_rows = real.batch_tokens, real.batch_rows
        self.calls = 0
        self.embedded: list[str] = []
        self._lock = threading.Lock()

    @property
    def tokenizer(self) -> Tokenizer | None:
        return self.real.tokenizer

    def describe(self) -> VectorSpec:
        return self.real.describe()

    def open(self) -> None:
        self.real.open()

    def close(self) -> None:
        self.real.close()

    def interrupt(self) -> None:
        self.real.interrupt()

    def embed(self, chunks: Sequence[Chunk]) -> Sequence[Vector]:
        faults = self.faults
        with self._lock:
            call, self.calls = self.calls, self.calls + 1
        time.sleep(faults.seconds)
        if call in faults.transient:
            raise Transient("429 Too Many Requests")
        if call in faults.fatal:
            raise ModelError("the model is gone")
        if call in faults.broken:
            raise RuntimeError("the model fell over")
        if faults.poison is not None and any(faults.poison in chunk.text for chunk in chunks):
            raise EmbedError(f"cannot embed {faults.poison!r}")
        vectors = self.real.embed(chunks)
        if call in faults.short:
            return vectors[:-1]
        with self._lock:
            self.embedded += [chunk.id for chunk in chunks]
        return vectors

    def query(self, texts: Sequence[str]) -> Sequence[Vector]:
        return self.real.query(texts)


# ---------------------------------------------------------------- a source


@dataclass(frozen=True, slots=True)
class SourceFaults:
    """Faults of a listing. Numbers count changes, from 0."""

    abort: int | None = None
    """SourceError instead of this change."""
    cut: int | None = None
    """The listing ends before this change, without a ListingEnd: it is not complete."""
    unreadable: frozenset[str] = frozenset()
    """These uris are listed as Unreadable."""
    unopenable: frozenset[str] = frozenset()
    """These are listed, and cannot be opened."""
    unsure: frozenset[str] = frozenset()
    """`lookup` raises SourceError for these."""


class FaultySource(Source):
    """Another source, failing as planned. Change `faults` between runs: the ledger knows both by one name."""

    def __init__(self, real: Source, faults: SourceFaults | None = None) -> None:
        self.real, self.faults = real, faults or SourceFaults()
        self.feed = real.feed

    @property
    def name(self) -> str:
        return self.real.name

    def open(self) -> None:
        self.real.open()

    def close(self) -> None:
        self.real.close()

    def changes(self, cursor: str | None = None) -> Iterator[Change]:
        faults = self.faults
        stop = faults.cut if faults.abort is None else faults.abort
        for change in islice(self.real.changes(cursor), stop):
            if isinstance(change, Upsert) and change.item.uri in faults.unreadable:
                yield Unreadable(change.item.uri, "permission denied")
            elif isinstance(change, Upsert) and change.item.uri in faults.unopenable:
                yield Upsert(_unopenable(change.item))
            else:
                yield change
        if faults.abort is not None:
            raise SourceError("the connection was lost in the middle of the listing")

    def lookup(self, uri: str) -> Item | None:
        if uri in self.faults.unsure:
            raise SourceError(f"cannot tell whether {uri} exists")
        item = self.real.lookup(uri)
        return _unopenable(item) if item is not None and uri in self.faults.unopenable else item


def _unopenable(item: Item) -> Item:
    def denied() -> Any:
        raise PermissionError(13, "Permission denied", item.uri)

    return Item(item.uri, item.fingerprint, denied, item.size, item.media_type, None, item.metadata)


# ---------------------------------------------------------------- crashes


class Crash(BaseException):
    """Ends a run as a power cut would: no `except Exception` on the way takes it for an error of its own."""


def crash(moment: str) -> None:
    raise Crash(moment)


class Fuse:
    """Called at moments; blows at the nth of a name, or the nth of all, and at each that follows: nothing goes on
    after a crash. `counts` has how often each came."""

    def __init__(self, moment: str | None = None, nth: int = 0, blow: Callable[[str], object] = crash) -> None:
        self._moment, self._nth, self._blow = moment, nth, blow
        self.blown = False
        self.counts: dict[str, int] = {}
        self._lock = threading.Lock()

    def __call__(self, moment: str) -> None:
        with self._lock:
            self.counts[moment] = self.counts.get(moment, 0) + 1
            count = sum(self.counts.values()) if self._moment is None else self.counts[moment]
            self.blown |= self._moment in (None, moment) and count == self._nth
            blown = self.blown
        if blown:
            self._blow(moment)


SINK_MOMENTS = ("write", "flush", "delete")
LEDGER_MOMENTS = (
    "begin",
    "intend",
    "acknowledge",
    "keep",
    "stale",
    "retract",
    "outdate",
    "forget",
    "finish",
    "remove",
    "record",
    "save_cursor",
    "reset",
)
_BATCHED = ("write", "delete")


def wire(component: Any, fuse: Fuse, moments: Sequence[str], label: str) -> None:
    """Call the fuse before and after each call of these methods; for a batch also when half of it is done."""
    for name in moments:
        setattr(component, name, _wired(getattr(component, name), fuse, f"{label}.{name}", name in _BATCHED))


def _wired(method: Callable[..., Any], fuse: Fuse, what: str, batched: bool) -> Callable[..., Any]:
    @wraps(method)
    def call(*arguments: Any, **named: Any) -> Any:
        fuse(f"before {what}")
        if batched and len(arguments[0]) > 1:
            half = len(arguments[0]) // 2
            method(arguments[0][:half])
            fuse(f"half {what}")
            arguments = (arguments[0][half:],)
        result = method(*arguments, **named)
        fuse(f"after {what}")
        return result

    return call


__all__ = [
    "LEDGER_MOMENTS",
    "SINK_MOMENTS",
    "Crash",
    "EmbedFaults",
    "FaultyEmbedder",
    "FaultySource",
    "Fuse",
    "SourceFaults",
    "wire",
]
