"""Small pictures of what is indexed: from the point itself, from a file beneath one of the roots, from an archive or a
table there, or from its url, where the server may fetch; nothing else."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO
from urllib.parse import unquote_to_bytes, urlsplit

from penstock.core.errors import SourceError
from penstock.core.records import Chunk
from penstock.engine.identity import shows
from penstock.server.fetching import Fetcher
from penstock.server.made import Made, Sizes
from penstock.server.problems import Problem
from penstock.server.settings import Settings
from penstock.server.tables import Tables, row_of
from penstock.sources.files.archives import Archive
from penstock.sources.files.local import archive_of, uri_of, within
from penstock.support.fetching import good

SIZES = (128, 256, 512)
ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".png", ".webp", ".gif", ".bmp"),
    *(".tif", ".tiff", ".avif", ".heic", ".heif"),
)
LARGEST = 128 << 20
"""Bytes of a file."""
FETCHING = 8
"""Urls at once."""
FINDING = 2
"""Rows of tables at once."""

_FLAGS = os.O_RDONLY
for _name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"):  # as far as the system has them
    _FLAGS |= getattr(os, _name, 0)

Work = Callable[[Callable[[], Sizes]], Awaitable[Sizes]]
"""Has a thread do it."""


@dataclass(frozen=True, slots=True)
class Picture:
    """`stamp` changes when the picture may have changed."""

    stamp: str
    read: Callable[[], bytes]
    made: Made | None = None
    """Of one that is dear to read."""

    def etag(self, size: int) -> str:
        return f'"{hashlib.blake2b(f"{self.stamp}|{size}".encode(), digest_size=12).hexdigest()}"'


class Thumbs:
    def __init__(self, settings: Settings, fetcher: Fetcher) -> None:
        self._roots = [os.path.realpath(root) for root in settings.roots]
        self._pixels, self._fetches, self._fetcher = settings.pixels, settings.fetch_urls, fetcher
        self._tables = Tables()
        self._fetched, self._found = Made("fetched", FETCHING), Made("found", FINDING)

    def may_show(self, chunk: Chunk) -> bool:
        """By its name alone: the file is looked at, and the url fetched, when the picture is asked for."""
        if chunk.image or self._at_url(chunk):
            return True
        path = _path(chunk)
        return path is not None and self._inside(os.path.normpath(path))

    def picture(self, chunk: Chunk) -> Picture:
        """Where the chunk's picture is. Raises Problem where there is none, or none that may be shown."""
        if image := chunk.image:
            return Picture(hashlib.blake2b(image, digest_size=16).hexdigest(), lambda: image)
        if self._at_url(chunk):
            # Another image there gives the chunk another id, as soon as it is in the index.
            return Picture(f"{chunk.id}|{chunk.uri}", lambda: self._fetch(chunk), self._fetched)
        if (path := _path(chunk)) is None:
            raise _hidden(chunk)
        if (row := row_of(urlsplit(chunk.uri).path)) is not None:
            return self._in_table(chunk, *row)
        # What the links in it lead to counts; the file itself is opened by a name that has none.
        real = os.path.realpath(path)
        if not self._inside(real):
            raise _hidden(chunk)
        file, member = within(real)
        try:
            told = _regular(file, chunk)
            if member:
                return _packed(archive_of(uri_of(file), file, told, _FLAGS), member, chunk)
        except (OSError, ValueError, SourceError):
            raise _hidden(chunk) from None
        return Picture(f"{chunk.id}|{_stamp(told)}", lambda: _read(real, chunk))

    async def small(self, picture: Picture, size: int, work: Work) -> bytes:
        """As JPEG, upright, no side longer than `size`. Raises ParseError where it cannot be decoded."""
        if picture.made is None:
            return (await work(lambda: self._drawn(picture, [size])))[size]
        return (await picture.made.of(picture.stamp, lambda: self._drawn(picture, SIZES)))[size]

    def _drawn(self, picture: Picture, sizes: Sequence[int]) -> Sizes:
        from penstock.support.images import decoded

        drawn = {}
        with decoded(picture.read(), edge=max(sizes), pixels=self._pixels) as image:
            for size in sorted(sizes, reverse=True):
                image.thumbnail((size, size))
                out = io.BytesIO()
                image.save(out, "JPEG", quality=85)
                drawn[size] = out.getvalue()
        return drawn

    def _at_url(self, chunk: Chunk) -> bool:
        return self._fetches and good(chunk.uri) and _shows(chunk, urlsplit(chunk.uri).path)

    def _fetch(self, chunk: Chunk) -> bytes:
        try:
            return self._fetcher(chunk.uri)
        except Problem as error:
            if error.status not in (413, 504):
                raise _hidden(chunk) from None
            told = error.message.replace("image_url", f"the picture of {chunk.id}", 1)
            raise Problem(error.status, error.kind, told) from None

    def _in_table(self, chunk: Chunk, path: str, name: str) -> Picture:
        real = os.path.realpath(path)
        if not self._inside(real):
            raise _hidden(chunk)
        try:
            stamp = _stamp(_regular(real, chunk))
        except OSError:
            raise _hidden(chunk) from None

        def read() -> bytes:
            try:
                image = self._tables.image(f"{real}|{stamp}", lambda: _open(real, stamp), name, partial(shows, chunk))
            except Exception:  # pyarrow raises what it likes
                raise _hidden(chunk) from None
            if len(image) > LARGEST:
                raise _large(chunk)
            return image

        return Picture(f"{chunk.id}|{stamp}", read, self._found)

    def _inside(self, path: str) -> bool:
        return any(path.startswith(os.path.join(root, "")) for root in self._roots)


def _path(chunk: Chunk) -> str | None:
    """The path of a picture's file:// uri; None where the uri is another, names a part of a file, or has no picture."""
    try:
        parts = urlsplit(chunk.uri)
    except ValueError:
        return None
    if parts.scheme != "file" or parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        return None
    path = os.fsdecode(unquote_to_bytes(parts.path))
    return path if _shows(chunk, path) and path.startswith("/") and "\0" not in path else None


def _shows(chunk: Chunk, path: str) -> bool:
    """Whether it is of a picture: one whose image is in the index no more has one of no bytes."""
    return chunk.image is not None or path.lower().endswith(ENDINGS)


def _regular(path: str, chunk: Chunk) -> os.stat_result:
    told = os.stat(path, follow_symlinks=False)
    if not stat.S_ISREG(told.st_mode):
        raise _hidden(chunk)
    return told


def _stamp(told: os.stat_result) -> str:
    return f"{told.st_mtime_ns}|{told.st_size}|{told.st_ino}"


def _packed(archive: Archive, member: str, chunk: Chunk) -> Picture:
    if (item := archive.find(os.fsencode(member))) is None:
        raise _hidden(chunk)
    if (item.size or 0) > LARGEST:
        raise _large(chunk)

    def read() -> bytes:
        try:
            with item.open() as stream:
                return stream.read(LARGEST)
        except OSError:
            raise _hidden(chunk) from None

    return Picture(f"{chunk.id}|{archive.fingerprint}|{item.fingerprint}", read)


def _read(path: str, chunk: Chunk) -> bytes:
    try:
        stream = _open(path)
    except OSError:
        raise _hidden(chunk) from None
    with stream:
        if os.fstat(stream.fileno()).st_size > LARGEST:
            raise _large(chunk)
        return stream.read(LARGEST)


def _open(path: str, stamp: str | None = None) -> BinaryIO:
    # Neither a link nor a pipe that took the file's place since it was looked at.
    file = os.open(path, _FLAGS)
    told = os.fstat(file)
    if not stat.S_ISREG(told.st_mode) or stamp not in (None, _stamp(told)):
        os.close(file)
        raise OSError(errno.ESTALE, "another file has taken its place", path)
    return open(file, "rb")


def _large(chunk: Chunk) -> Problem:
    return Problem(413, "too_large", f"the picture of {chunk.id} has more than {LARGEST >> 20} MiB")


def _hidden(chunk: Chunk) -> Problem:
    """One answer to all: it does not tell which files there are."""
    return Problem(404, "not_found", f"there is no picture of {chunk.id}")
