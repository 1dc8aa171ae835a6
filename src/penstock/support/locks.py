"""A lock file: one process at a time, whatever becomes of it."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path

_LONGEST = 20
"""Bytes of a process's number, at most."""


class Held(Exception):
    """Another process holds the lock; the message says which."""


class Lockfile:
    """Locked from construction to `release`. The operating system releases it when the process dies, however it dies:
    no lock is ever stale. Raises Held; and OSError where there can be no lock file, or something else is there."""

    def __init__(self, path: Path) -> None:
        self._file = open_lock(path)
        try:
            _check_content(self._file, path)
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Held(f"process {_content(self._file).decode() or 'unknown'}") from None
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, str(os.getpid()).encode(), 0)
        except BaseException:
            os.close(self._file)
            raise

    def release(self) -> None:
        os.close(self._file)


def open_lock(path: Path) -> int:
    """Open a file to lock, new or not. Raises OSError for what somebody may have put there to have another file
    locked or overwritten: a symbolic link, a second name of a file, a pipe."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):
            raise OSError(error.errno, "it is a symbolic link, not a lock file: remove it", str(path)) from None
        raise
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise OSError(errno.EINVAL, "it is a file of something else, not a lock file: remove it", str(path))
    except BaseException:
        os.close(file)
        raise
    return file


def _content(file: int) -> bytes:
    return os.pread(file, _LONGEST + 1, 0).strip()


def _check_content(file: int, path: Path) -> None:
    """Raise OSError where the file holds anything but a process's number: it is not to be overwritten."""
    content = _content(file)
    if content and not (content.isdigit() and len(content) <= _LONGEST):
        raise OSError(errno.EEXIST, "it has the content of something else, not of a lock file: remove it", str(path))
