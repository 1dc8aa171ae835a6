"""Files that are replaced as a whole and are on disk afterwards: a reader, and a crash at any time, leave it the old
content or the new one."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
"""Flags of `os.open` for a file that is not there yet: nothing that somebody put in its place is written to."""


@contextmanager
def draft(path: Path, data: bytes, mode: int | None = None) -> Iterator[Path]:
    """Yield a file beside the path that has the data on disk, to be moved or linked to the path: the folder is synced
    afterwards. A draft that was not moved is removed.

    Nobody can foresee its name, to have something else written over. `mode`: its rights, if not those of the process.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    number = os.open(temporary, NEW, 0o666 if mode is None else mode)
    try:
        with open(number, "wb") as file:
            if mode is not None:
                os.chmod(temporary, mode)  # whatever the process's mask is
            file.write(data)
            file.flush()
            os.fsync(number)
        yield temporary
    finally:
        with suppress(OSError):  # it was moved; and else the first error is the one to raise
            temporary.unlink()
    sync(path.parent)


def replace(path: Path, data: bytes, mode: int | None = None) -> None:
    with draft(path, data, mode) as temporary:
        os.replace(temporary, path)


def sync(path: Path | str) -> None:
    """fsync a file or a folder."""
    if os.name == "nt" and os.path.isdir(path):  # Windows has no fsync of folders
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
