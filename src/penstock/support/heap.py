"""Has the C library give back what was freed, so that resident memory follows the account.

By itself glibc makes up to eight arenas a core and moves the limit above which a piece gets pages of its own: what one
thread allocates and another one frees is then kept in fragments, more and more of them in a long run. As many arenas as
there are cores cost no speed (a single one halves that of tokenizers); a fixed limit costs none either.

Arrow has an allocator of its own, which keeps what it had for each thread that ever asked: told to, it takes the C
library's.
"""

from __future__ import annotations

import ctypes
import os
import sys

M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8
LARGE = 64 << 10
"""Bytes from which on a piece has pages of its own, and gives them back."""


def tighten(arenas: int) -> None:
    """For the whole process, and for good. Other C libraries than glibc are left as they are."""
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, max(2, arenas))
        mallopt(M_MMAP_THRESHOLD, LARGE)
        os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # read when Arrow first allocates
