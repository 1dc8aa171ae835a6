"""A lock file: one process at a time, whatever becomes of it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class Held(Exception):
    """Another process holds the lock; the message says which."""


class Lockfile:
    """Locked from construction to `release`. The operating system releases it when the process dies, however it dies:
    no lock is ever stale. Raises Held."""

    def __init__(self, path: Path) -> None:
        file = open(path, "a+", encoding="ascii")  # noqa: SIM115 - open until release
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            file.close()
            raise Held(f"process {holder}") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        self._file = file

    def release(self) -> None:
        self._file.close()
