"""Settings of the interpreter, for a program to make before it starts threads; a library must not, as they are for the
whole process."""

from __future__ import annotations

import gc


def configure(long: bool, serves: bool = False) -> None:
    """Set the collector's thresholds, and the allocator of a process that goes on for `long`: a run, or a server.

    A run makes millions of small records, and hardly a cycle among them. A connection that has ended is a cycle: a
    server that collects as seldom holds thousands of them.
    """
    if not serves:
        gc.set_threshold(50_000, 20, 50)
    if long:
        from penstock.support.heap import tighten

        tighten()
