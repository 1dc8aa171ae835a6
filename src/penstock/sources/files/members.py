"""Common to tars and zips: bytes that are read from anywhere, and members that are opened by their offset."""

from __future__ import annotations

import errno
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Protocol, cast

from penstock.core.records import NOTHING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

SMALL = 4 << 20
"""A member of up to this many bytes is read at once: from a bucket by one request."""


class Reader(Protocol):
    """An archive's bytes, from anywhere. It pickles, and opens the archive for each read."""

    @property
    def ahead(self) -> int:
        """The number of bytes that are best read at once."""

    def __call__(self, start: int, size: int) -> bytes:
        """The bytes there, fewer only at the end. OSError if the archive has changed, where that can be known."""


class Opener(Protocol):
    @property
    def beside(self) -> Mapping[str, Opener]:
        """For a member of a sample (see `archives`): the others that matter to it, by the end of their names."""

    def __call__(self) -> BinaryIO: ...


ALONE = cast(Mapping[str, Opener], NOTHING)


class Damaged(Exception):
    """The archive is damaged from here on."""


class Entry(NamedTuple):
    """A member as its archive lists it."""

    at: int
    """The offset at which reading the archive may begin, to meet this one first."""
    name: bytes
    size: int
    stamp: str
    """The member's part of its fingerprint."""
    opener: Opener
    left: str = ""
    """Why it is left alone: `link` or `special`."""
    fault: str = ""
    """Why it cannot be read."""


class Ahead:
    """Small reads, one after the other, out of few large ones."""

    def __init__(self, read: Reader) -> None:
        self._read, self._size = read, read.ahead
        self._at, self._held = 0, b""

    def __call__(self, at: int, size: int) -> bytes:
        start = at - self._at
        if start < 0 or start + size > len(self._held):
            self._held = self._read(at, max(size, self._size))
            self._at, start = at, 0
        return self._held[start : start + size]


class _Window(io.RawIOBase):
    """A stretch of an archive as a file of its own."""

    def __init__(self, read: Reader, start: int, size: int) -> None:
        self._read, self._start, self._size = read, start, size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        at = offset + (0, self._at, self._size)[whence]
        if at < 0:
            raise OSError(errno.EINVAL, "before the beginning")
        self._at = at
        return at

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        wanted = max(0, min(len(view), self._size - self._at))
        data = self._read(self._start + self._at, wanted) if wanted else b""
        if len(data) < wanted:
            raise OSError(errno.EIO, "the archive ends within this member")
        view[:wanted] = data
        self._at += wanted
        return wanted


def window(read: Reader, start: int, size: int) -> BinaryIO:
    return io.BufferedReader(_Window(read, start, size), max(read.ahead, io.DEFAULT_BUFFER_SIZE))


def moved() -> OSError:
    """Tried again by the next run, whose listing knows better."""
    return OSError(errno.ESTALE, "it is not where its archive said it is: damaged, or rewritten meanwhile")
