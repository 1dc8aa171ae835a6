"""Sizes of memory, as people write them."""

from __future__ import annotations

import re

from penstock.core.errors import UsageError

LEAST_BUDGET = 8 << 20
"""Bytes in flight without which a run would crawl."""
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}


def parse_size(size: str | int) -> int:
    """Bytes: 268435456, "256MiB", "1.5 GB"."""
    if isinstance(size, int):
        return size
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]i?)?b?\s*", size.lower())
    if match is None:
        raise UsageError(f"invalid memory {size!r}: expected a size such as 512MiB")
    return int(float(match[1]) * _UNITS[match[2] or ""])


def parse_budget(size: str | int) -> int:
    """The bytes in flight that a run may have."""
    budget = parse_size(size)
    if budget < LEAST_BUDGET:
        raise UsageError(f"invalid memory {size!r}: expected at least {LEAST_BUDGET >> 20}MiB")
    return budget
