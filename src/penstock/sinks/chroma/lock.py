"""A lock on Chroma's folders."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import IO

from penstock.core.errors import SinkError, SinkInUse


class Lock:
    """A lock on a folder against other processes. Within this one all share the index in memory."""

    _held: dict[Path, tuple[IO[bytes], int]] = {}  # noqa: RUF012 - one for the process
    _guard = threading.Lock()

    def __init__(self, folder: Path, url: str, *, write: bool) -> None:
        self._folder = folder
        with self._guard:
            known, users = self._held.get(folder, (None, 0))
            try:
                file = known or open(folder / "penstock.lock", "ab")  # noqa: SIM115 - kept
            except OSError as error:
                raise SinkError(f"{url} cannot be locked: {error.strerror}") from error
            try:
                if known is None or (write and os.name != "nt"):
                    _take(file, write)
            except OSError as error:
                if known is None:
                    file.close()
                else:
                    _take(file, False)  # a failed attempt at the exclusive lock has given up the shared one
                raise SinkInUse(
                    f"{url} is in use by another process, and a folder of Chroma serves one writer; "
                    f"wait, or serve it: chroma run --path {folder}"
                ) from error
            self._held[folder] = file, users + 1

    def close(self) -> None:
        with self._guard:
            file, users = self._held.pop(self._folder)
            if users > 1:
                self._held[self._folder] = file, users - 1
            else:
                file.close()


def _take(file: IO[bytes], write: bool) -> None:
    if os.name == "nt":  # where a lock can only be exclusive
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    else:
        import fcntl

        fcntl.flock(file, (fcntl.LOCK_EX if write else fcntl.LOCK_SH) | fcntl.LOCK_NB)
