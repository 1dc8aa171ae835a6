"""Gives the free room of a SQLite file back, where it is much."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

FREE_PAGES = 1024
"""So few free pages, or a fifth of all, are left for later writes."""


def vacuum(execute: Callable[[str], Iterable[Any]]) -> None:
    """`execute` runs a statement in a connection that is in no transaction. A copy of the file is made meanwhile."""
    ((pages, free),) = execute("SELECT page_count, freelist_count FROM pragma_page_count, pragma_freelist_count")
    if free > FREE_PAGES and free * 5 > pages:
        execute("VACUUM")
