"""Settings of the C library's allocator, for resident memory that follows the account of bytes in flight.

By itself glibc keeps what one thread allocates and another frees in fragments of up to eight arenas a core, and moves
the size from which a piece has pages of its own. Arrow keeps what it had for each thread that ever asked.
"""

from __future__ import annotations

import ctypes
import os
import sys

from penstock.support.cores import usable_cores

M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8
LARGE = 64 << 10
"""Bytes from which on a piece has pages of its own, and gives them back. A fixed size costs no speed."""


def tighten(arenas: int | None = None) -> None:
    """Have freed memory given back, in the whole process, for good, and in those that it starts.

    For a program to call, once and before it starts threads; a library must not, since it slows down whatever else
    allocates large arrays in the process. `arenas`: by default as many as there are cores, which costs no speed (a
    single one halves that of tokenizers). Other C libraries than glibc are left as they are.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, max(2, arenas if arenas is not None else usable_cores()))
        mallopt(M_MMAP_THRESHOLD, LARGE)
        os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # read when Arrow first allocates
