"""Linux's notifications of changes in folders, without a library: they tell when a file was closed after writing, and
when the system could not keep up, which the portable libraries do not pass on."""

from __future__ import annotations

import ctypes
import os
import select
import struct
import sys
from collections.abc import Iterator
from typing import NamedTuple

MODIFY, ATTRIB, CLOSE_WRITE = 0x2, 0x4, 0x8
MOVED_FROM, MOVED_TO, CREATE, DELETE, DELETE_SELF, MOVE_SELF = 0x40, 0x80, 0x100, 0x200, 0x400, 0x800
UNMOUNT, OVERFLOW, IGNORED = 0x2000, 0x4000, 0x8000
ONLYDIR, EXCL_UNLINK, ISDIR = 0x1000000, 0x4000000, 0x40000000
_WITHIN = MODIFY | ATTRIB | CLOSE_WRITE | MOVED_FROM | MOVED_TO | CREATE | DELETE
MASK = _WITHIN | DELETE_SELF | MOVE_SELF | ONLYDIR | EXCL_UNLINK
_HEAD = struct.Struct("iIII")
_NONBLOCK, _CLOEXEC = os.O_NONBLOCK, getattr(os, "O_CLOEXEC", 0)


class Event(NamedTuple):
    folder: int
    """The number of the watch, as `add` gave it; -1 of an overflow."""
    mask: int
    name: bytes


def available() -> bool:
    return sys.platform.startswith("linux")


class Inotify:
    """Raises OSError as the system does: ENOSPC where the user has as many watches as the system allows."""

    def __init__(self) -> None:
        if not available():
            raise OSError("there is no inotify on this system")
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._file = self._checked(self._libc.inotify_init1(_NONBLOCK | _CLOEXEC))

    def add(self, path: bytes, mask: int = MASK) -> int:
        """Watch a folder; gives the number of the watch: the same one for the same folder by another name, or again."""
        return self._checked(self._libc.inotify_add_watch(self._file, path, mask))

    def remove(self, number: int) -> None:
        self._libc.inotify_rm_watch(self._file, number)  # one that is gone already is no error

    def wait(self, seconds: float | None) -> bool:
        """Whether there are events to be read, by then."""
        ready, _, _ = select.select([self._file], [], [], seconds)
        return bool(ready)

    def read(self) -> Iterator[Event]:
        """What there is."""
        try:
            data = os.read(self._file, 1 << 16)
        except BlockingIOError:
            return
        at = 0
        while at < len(data):
            folder, mask, _, length = _HEAD.unpack_from(data, at)
            at += _HEAD.size
            yield Event(folder, mask, data[at : at + length].rstrip(b"\0"))
            at += length

    def close(self) -> None:
        os.close(self._file)

    def _checked(self, result: int) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result
