"""A lock file: one process at a time, whatever becomes of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO

if os.name == "nt":  # pragma: no cover
    import msvcrt

    def _lock(file: IO[str]) -> None:
        file.seek(1 << 20)  # beyond the text, so that it can be read by others
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]

else:
    import fcntl

    def _lock(file: IO[str]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


class Held(Exception):
    """Somebody else has it. Says which process."""


class Lockfile:
    """Held from its making until `release`. The operating system lets go of it when the process dies, however it
    dies: no lock is ever stale."""

    def __init__(self, path: Path) -> None:
        file = open(path, "a+", encoding="ascii")  # noqa: SIM115 - held until release
        try:
            _lock(file)
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
