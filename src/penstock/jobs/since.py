"""Searches in windows of time: a moment, and the filter that it stands for."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

from penstock.core.errors import UsageError
from penstock.core.metadata import moment
from penstock.support.times import UNITS

Since = str | timedelta | date
"""A time such as 2h (before now) or 2026-11-30T08:00, in UTC unless it says a zone."""
_AGO = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)([smhdw])")


def since_text(since: Since) -> str:
    """As a request has it. Raises UsageError for what is no time."""
    if isinstance(since, timedelta):
        since = f"{since.total_seconds():f}s"
    elif isinstance(since, date):
        since = since.isoformat()
    _seconds(since)
    return since


def within(where: Mapping[str, Any] | None, since: str | None) -> Mapping[str, Any] | None:
    """The filter, narrowed to what is of that time or later: by the field `time` where a chunk has one, else by
    `modified`."""
    if since is None:
        return where
    start = {"$gte": moment(_seconds(since))}
    window = {"$or": [{"time": start}, {"time": {"$exists": False}, "modified": start}]}
    return {"$and": [where, window]} if where else window


def _seconds(since: str) -> float:
    if ago := _AGO.fullmatch(since):
        return max(0.0, time.time() - float(ago[1]) * UNITS[ago[2]])
    try:
        when = datetime.fromisoformat(since)
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise UsageError(f"invalid since {since[:40]!r}: expected a time such as 2h, 7d or 2026-11-30T08:00") from None
