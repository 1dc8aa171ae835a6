"""Counts of a run, while it goes on and at its end."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from penstock.engine.channel import ChannelStats

COUNTERS = (
    "listed",  # items the source named
    "unchanged",  # ... which the ledger knows as they are
    "parked",  # ... which failed as they are, and wait for a change or for `retry`
    "barred",  # ... which were taken out for good, and are passed over
    "documents",  # documents read to their end and committed
    "added",  # ... for the first time
    "leaving",  # documents that a complete listing did not name
    "deleted",  # documents taken out
    "failed",  # documents that failed in this run
    "skipped",  # documents of a type that nothing reads
    "gaps",  # parts of documents that could not be read, embedded or written
    "embedded",  # chunks that went through the model
    "kept",  # chunks that were in the index already
    "moved",  # chunks whose vector was read back from the index
    "written",  # points acknowledged by the sink
    "removed",  # stale points taken out
    "tokens",  # embedded
    "bytes",  # of documents read
    "retries",  # calls repeated because something was away for a while
)
SOON, MINUTE = 5.0, 60.0
"""Seconds over which rates are shown."""
BY_THE_MINUTE = ("documents", "deleted", "failed", "embedded", "tokens", "bytes")
"""Counts of which the rate over the last minute is of interest."""


class Counters:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values = dict.fromkeys(COUNTERS, 0)

    def add(self, **amounts: int) -> None:
        with self._lock:
            for name, amount in amounts.items():
                self._values[name] += amount

    def values(self) -> dict[str, int]:
        with self._lock:
            return dict(self._values)


class Rates:
    """Amounts a second over the last so many seconds."""

    def __init__(self, window: float = SOON) -> None:
        self._window = window
        self._seen: deque[tuple[float, dict[str, int]]] = deque()

    def add(self, progress: Progress) -> None:
        if self._seen and progress.seconds < self._seen[-1][0]:
            self._seen.clear()  # another run has begun
        self._seen.append((progress.seconds, progress.counts))
        while len(self._seen) > 2 and self._seen[1][0] <= progress.seconds - self._window:
            self._seen.popleft()

    def of(self, name: str) -> float:
        (began, before), (ended, after) = self._seen[0], self._seen[-1]
        if ended <= began:
            return after[name] / ended if ended > 0 else 0.0
        return (after[name] - before[name]) / (ended - began)


@dataclass(frozen=True, slots=True)
class Progress:
    """A moment of a run. Every event a callback gets is one of these."""

    seconds: float
    counts: dict[str, int]
    channels: tuple[ChannelStats, ...]
    budget: int
    listing: bool
    """The source has not told everything yet, so `queued` may grow."""
    queued_bytes: int
    """Bytes of the items found and not read to their end."""
    waiting: str = ""
    """What the run waits for, if something is away: `write: connection refused (retry in 4 s)`."""
    queued_tokens: int = 0
    """Tokens of the chunks cut and not embedded yet."""
    loading: float = 0.0
    """Of the seconds, those before model and store were open."""
    queued: int = 0
    """Documents and deletions that the source has named and that have not been committed."""
    oldest: float | None = None
    """Seconds since something was heard of the one among them that is worked on for longest."""
    minute: Mapping[str, float] = field(default_factory=dict)
    """Counts a second, over the last minute."""
    freshness: Mapping[str, Any] = field(default_factory=dict)
    """See `engine.freshness`."""
    workers: int | None = None
    """How many work on documents, where that is done elsewhere."""
    live: Mapping[str, Any] | None = None
    """How a run that follows its source stands."""

    @property
    def in_flight(self) -> int:
        return sum(channel.bytes for channel in self.channels)

    @property
    def peak(self) -> int:
        """The most that can have been in flight at once."""
        return sum(channel.peak for channel in self.channels)

    @property
    def bottleneck(self) -> str:
        """The stage behind the last full channel: everything above waits for it. None full: behind the fullest."""
        if full := self._last_full:
            return full
        fullest = max(self._consumed, key=lambda channel: channel.bytes / channel.capacity, default=None)
        return _CONSUMERS[fullest.name] if fullest else "scan"

    @property
    def _consumed(self) -> list[ChannelStats]:
        return [channel for channel in self.channels if channel.name in _CONSUMERS and channel.bytes]

    @property
    def _last_full(self) -> str:
        """The stage behind the last full channel, if one is full."""
        full = [channel for channel in self._consumed if channel.bytes >= 0.8 * channel.capacity]
        return _CONSUMERS[full[-1].name] if full else ""

    def rate(self, name: str) -> float:
        return self.counts[name] / self.seconds if self.seconds > 0 else 0.0

    @property
    def eta(self) -> float | None:
        """Seconds to go, once the source has named everything: as long as the slowest stage takes for what is left, at
        its pace since model and store are open. What is not read yet is taken to have as many tokens a byte as what is.
        """
        worked, counts = self.seconds - self.loading, self.counts
        read, embedded = counts["bytes"], counts["tokens"]
        cut = embedded + self.queued_tokens
        if self.listing or worked <= 0 or read <= 0 or (cut and not embedded):
            return None
        growth = 1 + self.queued_bytes / read  # of what has come so far, until all has
        to_go = [growth - 1]
        if embedded:
            to_go.append(cut * growth / embedded - 1)
        made, written = counts["embedded"] + counts["moved"], counts["written"]
        if written and self._last_full in ("write", "commit"):
            to_go.append(made * (1 + max(to_go)) / written - 1)
        return worked * max(to_go)

    def to_json(self) -> dict[str, Any]:
        return {
            "seconds": round(self.seconds, 3),
            **self.counts,
            "in_flight": self.in_flight,
            "budget": self.budget,
            "bottleneck": self.bottleneck,
            "eta": self.eta,
            "waiting": self.waiting,
            "queued": self.queued,
            "oldest": self.oldest,
            "minute": dict(self.minute),
            "freshness": dict(self.freshness),
            "live": self.live,
            "channels": {c.name: {"pieces": c.pieces, "bytes": c.bytes, "capacity": c.capacity} for c in self.channels},
        }


_CONSUMERS = {"items": "prepare", "reads": "read back", "chunks": "embed", "points": "write", "commits": "commit"}


class Counted:
    """Each count as an attribute: `report.embedded`."""

    counts: dict[str, int]

    @property
    def listed(self) -> int:
        return self.counts["listed"]

    @property
    def unchanged(self) -> int:
        return self.counts["unchanged"]

    @property
    def parked(self) -> int:
        return self.counts["parked"]

    @property
    def documents(self) -> int:
        return self.counts["documents"]

    @property
    def added(self) -> int:
        return self.counts["added"]

    @property
    def deleted(self) -> int:
        return self.counts["deleted"]

    @property
    def failed(self) -> int:
        return self.counts["failed"]

    @property
    def skipped(self) -> int:
        return self.counts["skipped"]

    @property
    def gaps(self) -> int:
        return self.counts["gaps"]

    @property
    def embedded(self) -> int:
        return self.counts["embedded"]

    @property
    def kept(self) -> int:
        return self.counts["kept"]

    @property
    def moved(self) -> int:
        return self.counts["moved"]

    @property
    def written(self) -> int:
        return self.counts["written"]

    @property
    def removed(self) -> int:
        return self.counts["removed"]

    @property
    def tokens(self) -> int:
        return self.counts["tokens"]

    @property
    def bytes(self) -> int:
        return self.counts["bytes"]

    @property
    def retries(self) -> int:
        return self.counts["retries"]


@dataclass(frozen=True)
class Report(Counted):
    """What a run did."""

    run: int
    status: str
    """`done`, or `stopped` (Ctrl-C); a run that ends in an error raises it instead."""
    seconds: float
    counts: dict[str, int]
    failing: int
    """Documents that are not in the index as they are in the source, from this run or before: `penstock failures`."""
    complete: bool
    """The source was listed whole, so what is gone from it is gone from the index."""
    peak_bytes: int
    """The most that was in flight; at most the budget, but for one oversized piece."""
    budget: int
    passed_over: dict[str, int] = field(default_factory=dict)
    """What the source left alone on purpose, by reason: hidden, excluded, link, ..."""
    notices: tuple[str, ...] = ()
    behind: tuple[str, ...] = ()
    """Of several sinks those that were away, and lack something: they catch up in a later run."""
    accepted: int = 0
    """Of `failing`, those whose failures are all accepted."""
    unaccepted: int = 0
    """Failures that this run noted and nobody has accepted, but for those of skipped documents."""

    @property
    def ok(self) -> bool:
        return self.status == "done" and self.failing == self.accepted and not self.unaccepted and not self.behind

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
