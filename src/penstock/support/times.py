"""Spans of time, as people write them."""

from __future__ import annotations

import re

from penstock.core.errors import UsageError

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def parse_time(text: str) -> float:
    """Seconds: "90", "30s", "10m", "2h"."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|h|d|)", text)
    if match and float(match[1]) > 0:
        return float(match[1]) * UNITS[match[2] or "s"]
    raise UsageError(f"invalid time {text!r}: expected one such as 30s, 10m or 2h")
