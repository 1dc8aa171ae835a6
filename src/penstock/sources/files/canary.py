"""A proof that the system still tells what changes."""

from __future__ import annotations

import errno
import os
import tempfile
import time
from contextlib import suppress

from penstock.support.inotify import MODIFY, Inotify

PROVE, HEARD = 60.0, 10.0
"""Seconds between two proofs, and by which the system has to tell of what was done for it."""
NEVER = float("inf")


class Canary:
    """A file of our own that is watched along with the folders, by the same queue. It has no name, so that nobody
    clears it away."""

    def __init__(self, inotify: Inotify) -> None:
        self.number = 0
        """The number of its watch; 0 where there is none, as no file can be made."""
        self._file: int | None = None
        self._at, self._by = time.monotonic() + PROVE, NEVER
        with suppress(OSError), tempfile.TemporaryFile(buffering=0) as file:
            self.number = inotify.add(b"/proc/self/fd/%d" % file.fileno(), MODIFY)
            self._file = os.dup(file.fileno())

    def next(self) -> float:
        return self._at if self._by == NEVER else self._by

    def heard(self) -> None:
        self._by = NEVER

    def prove(self) -> bool:
        """Begin a proof where it is time to; gives whether it was. To be called when nothing is left to be read. Raises
        OSError where what was done was not heard."""
        now = time.monotonic()
        if now >= self._by:
            raise OSError(errno.EIO, "the system no longer tells what changes in folders")
        if now < self._at or self._by != NEVER:
            return False
        self._at = now + PROVE
        if self._file is not None:
            with suppress(OSError):  # a full disk is no reason to doubt the watch
                os.pwrite(self._file, b".", 0)
                self._by = now + HEARD
        return True

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
