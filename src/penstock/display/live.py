"""What an operator wants to know of a run that follows its source, in words."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from penstock.display.text import clean, count, duration, moment
from penstock.engine.progress import MINUTE


def live_line(moment_of: Mapping[str, Any], now: float | None = None) -> str:
    """A moment of such a run in one line: the progress as JSON has it."""
    live = moment_of["live"]
    parts = [
        f"in sync as of {in_sync(live, now)}",
        heard(live, now),
        f"last minute: {by_the_minute(moment_of)}",
        lag(moment_of),
        retries(live, now),
        held(live),
        f"waiting for {clean(moment_of['waiting'])}" if moment_of["waiting"] else "",
        *trouble(live),
    ]
    return " · ".join(filter(None, parts))


def live_rows(moment_of: Mapping[str, Any], now: float | None = None) -> list[tuple[str, str]]:
    """The same as names and values."""
    live = moment_of["live"]
    rows = [
        ("in sync", f"as of {in_sync(live, now)}"),
        ("source", heard(live, now)),
        ("last minute", by_the_minute(moment_of)),
        ("queue", lag(moment_of)),
        ("searchable", freshness(moment_of)),
        ("retries", retries(live, now)),
        ("trouble", " · ".join(trouble(live))),
    ]
    return [(name, value) for name, value in rows if value]


def in_sync(live: Mapping[str, Any], now: float | None = None) -> str:
    """Up to when all that the source knew is in the index."""
    if (stamp := live["in_sync"]) is None:
        return "never yet"
    return f"{moment(stamp)}, {ago(stamp, now)}"


def heard(live: Mapping[str, Any], now: float | None = None) -> str:
    """The heartbeat of the source: how changes are heard of, and when that was the last time."""
    if live["feed"]:
        parts = ["a feed"]
    else:
        parts = ["listens" if live["watching"] else "lists from time to time"]
        parts.append(f"listed whole {ago(live['listed'], now)}" if live["listed"] else "not listed whole yet")
        if live["next_listing"] is not None:
            parts.append(f"next {until(live['next_listing'], now)}")
    if live["heard"]:
        parts.append(f"last heard {ago(live['heard'], now)}")
    return ", ".join(parts)


def trouble(live: Mapping[str, Any]) -> list[str]:
    return [clean(text) for text in (live["trouble"], live["away"]) if text]


def by_the_minute(moment_of: Mapping[str, Any]) -> str:
    """What was done in the last minute, by the rates over it."""
    minute, seconds = moment_of["minute"], min(MINUTE, moment_of["seconds"])
    parts = [f"{minute[name] * seconds:,.0f} {name}" for name in ("documents", "deleted", "failed") if minute[name]]
    return " · ".join(parts) if parts else "nothing"


def lag(moment_of: Mapping[str, Any]) -> str:
    """How much waits, and for how long."""
    number = moment_of["queued"] + moment_of["live"]["hints"]
    oldest = moment_of["oldest"]
    return f"{number:,} waiting" + (f", the oldest for {duration(oldest)}" if oldest is not None else "")


def retries(live: Mapping[str, Any], now: float | None = None) -> str:
    if not live["retries"]:
        return ""
    return f"{count(live['retries'], 'document')} to try again, the next {until(live['next_retry'] or 0.0, now)}"


def held(live: Mapping[str, Any]) -> str:
    return f"{count(live['held']['documents'], 'deletion')} held" if live["held"] else ""


def freshness(moment_of: Mapping[str, Any]) -> str:
    """How soon changes became searchable, of the latest documents."""
    found = []
    for name, what in (("heard", "after they were heard of"), ("changed", "after the change")):
        of = moment_of["freshness"][name]
        if of["documents"]:
            found.append(f"{of['p50']:.2f} s {what} (95 % within {of['p95']:.2f} s, 99 % within {of['p99']:.2f} s)")
    return " · ".join(found)


def ago(stamp: float, now: float | None = None) -> str:
    return f"{duration(max(0.0, (time.time() if now is None else now) - stamp))} ago"


def until(stamp: float, now: float | None = None) -> str:
    left = stamp - (time.time() if now is None else now)
    return f"in {duration(left)}" if left > 0 else "now"
