"""How long changes take to become searchable: from when they were heard of, and from when they were made."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from penstock.core.records import Item

LATEST, HOUR = 1000, 3600.0
"""Percentiles are of the latest documents: so many at most, and no older than that."""
STEP = 1.0
"""Seconds by which the wall clock may differ from the monotonic one before it was set."""
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}


class Fresh(NamedTuple):
    """When a document became searchable, and how many seconds that was after two moments."""

    searchable: float
    """In seconds since 1970."""
    heard: float
    """Since its source named it, or something was heard of it."""
    changed: float | None
    """Since it was changed. None where nobody knows, it was changed before the run began, or a clock was set since."""


class Freshness:
    """Thread-safe. `wall` and `monotonic` are the clocks."""

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._wall, self._monotonic = wall, monotonic
        self._lock = threading.Lock()
        self._since = monotonic()
        """When the run began, or the wall clock was last set: times from before are not compared with it."""
        self._offset = wall() - self._since
        self._latest: deque[tuple[float, Fresh]] = deque(maxlen=LATEST)
        self._described: dict[str, Any] | None = None

    def of(self, item: Item, heard: float, *, new: bool) -> Fresh:
        """Count a document that is searchable from now on, and was heard of then, by the monotonic clock. `new`: there
        was none, so it was changed when it was made."""
        with self._lock:
            self._look()
            now, wall = self._monotonic(), self._wall()
            changed = None
            made = item.modified if item.modified is not None else item.created if new else None
            if made is not None and -STEP <= wall - made <= now - self._since:
                changed = max(0.0, wall - made)  # file systems' clocks are a little behind, other machines' ahead
            fresh = Fresh(wall, max(0.0, now - heard), changed)
            self._latest.append((now, fresh))
            self._described = None
            return fresh

    def describe(self) -> dict[str, Any]:
        """Percentiles of the latest documents, by what they are counted from."""
        with self._lock:
            self._look()
            oldest = self._monotonic() - HOUR
            while self._latest and self._latest[0][0] < oldest:
                self._latest.popleft()
                self._described = None
            if self._described is None:
                latest = [fresh for _, fresh in self._latest]
                self._described = {
                    "heard": _percentiles([fresh.heard for fresh in latest]),
                    "changed": _percentiles([fresh.changed for fresh in latest if fresh.changed is not None]),
                }
            return self._described

    def _look(self) -> None:
        """Notice that the wall clock was set."""
        now = self._monotonic()
        offset = self._wall() - now
        if abs(offset - self._offset) > STEP:
            self._since = now
        self._offset = offset  # a clock that is slewed is followed


def _percentiles(seconds: list[float]) -> dict[str, Any]:
    found = sorted(seconds)
    most = len(found) - 1
    return {
        "documents": len(found),
        **{name: round(found[round(most * share)], 4) if found else None for name, share in QUANTILES.items()},
    }
