"""Turns of processes at something that takes a moment: the next one waits, and no file is left behind."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from penstock.support.locks import open_lock

PAUSE = 0.005


@contextmanager
def turn(path: Path, seconds: float) -> Iterator[None]:
    """Hold a lock file, and remove it afterwards. The operating system unlocks it when the process dies.

    Raises TimeoutError where others have it for so many seconds.
    """
    deadline = time.monotonic() + seconds
    while (file := _locked(path)) is None:
        if time.monotonic() >= deadline:
            raise TimeoutError(f"other processes hold {path} for more than {seconds:.0f} s")
        time.sleep(PAUSE)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(file)


def _locked(path: Path) -> int | None:
    """The open and locked file; None where another process has it, or removed it meanwhile."""
    file = open_lock(path)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(file), os.stat(path)):
            return file
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(file)
        raise
    os.close(file)
    return None
