"""The number of cores that this process may use."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Those that the process may run on, where the system says so; otherwise all of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
