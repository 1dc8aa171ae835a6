"""Small pictures of what is indexed: from the point itself, or from a file beneath one of the roots, or from an archive
there; nothing else."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes, urlsplit

from penstock.errors import SourceError
from penstock.records import Chunk
from penstock.serve.problems import Problem
from penstock.serve.settings import Settings
from penstock.sources.files.archives import Archive
from penstock.sources.files.local import archive_of, uri_of, within

SIZES = (128, 256, 512)
ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".png", ".webp", ".gif", ".bmp"),
    *(".tif", ".tiff", ".avif", ".heic", ".heif"),
)
LARGEST = 128 << 20
"""Bytes of a file."""

_FLAGS = os.O_RDONLY
for _name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"):  # as far as the system has them
    _FLAGS |= getattr(os, _name, 0)


@dataclass(frozen=True, slots=True)
class Picture:
    """`stamp` changes when the picture may have changed."""

    stamp: str
    read: Callable[[], bytes]

    def etag(self, size: int) -> str:
        return f'"{hashlib.blake2b(f"{self.stamp}|{size}".encode(), digest_size=12).hexdigest()}"'


class Thumbs:
    def __init__(self, settings: Settings) -> None:
        self._roots = [os.path.realpath(root) for root in settings.roots]
        self._pixels = settings.pixels

    def may_show(self, chunk: Chunk) -> bool:
        """By its name alone: the file is looked at when the picture is asked for."""
        path = _path(chunk)
        return bool(chunk.image) or (path is not None and self._inside(os.path.normpath(path)))

    def picture(self, chunk: Chunk) -> Picture:
        """Where the chunk's picture is. Raises Problem where there is none, or none that may be shown."""
        if image := chunk.image:
            return Picture(hashlib.blake2b(image, digest_size=16).hexdigest(), lambda: image)
        if (path := _path(chunk)) is None:
            raise _hidden(chunk)
        # What the links in it lead to counts; the file itself is opened by a name that has none.
        real = os.path.realpath(path)
        if not self._inside(real):
            raise _hidden(chunk)
        file, member = within(real)
        try:
            told = os.stat(file, follow_symlinks=False)
            if not stat.S_ISREG(told.st_mode):
                raise _hidden(chunk)
            if member:
                return _packed(archive_of(uri_of(file), file, told, _FLAGS), member, chunk)
        except (OSError, ValueError, SourceError):
            raise _hidden(chunk) from None
        return Picture(f"{chunk.id}|{told.st_mtime_ns}|{told.st_size}|{told.st_ino}", lambda: _read(real, chunk))

    def small(self, picture: Picture, size: int) -> bytes:
        """As JPEG, upright, no side longer than `size`. Raises ParseError where it cannot be decoded."""
        from penstock.images import decode

        image = decode(picture.read(), edge=size, pixels=self._pixels)
        image.thumbnail((size, size))
        out = io.BytesIO()
        image.save(out, "JPEG", quality=85)
        return out.getvalue()

    def _inside(self, path: str) -> bool:
        return any(path.startswith(os.path.join(root, "")) for root in self._roots)


def _path(chunk: Chunk) -> str | None:
    """The path of a picture's file:// uri; None where the uri is another, names a part of a file, or is of no picture.
    A chunk whose image is in the index no more has one of no bytes."""
    try:
        parts = urlsplit(chunk.uri)
    except ValueError:
        return None
    if parts.scheme != "file" or parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        return None
    path = os.fsdecode(unquote_to_bytes(parts.path))
    if chunk.image is None and not path.lower().endswith(ENDINGS):
        return None
    return path if path.startswith("/") and "\0" not in path else None


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
        # Neither a link nor a pipe that took the file's place since it was looked at.
        file = os.open(path, _FLAGS)
    except OSError:
        raise _hidden(chunk) from None
    with open(file, "rb") as stream:
        told = os.fstat(file)
        if not stat.S_ISREG(told.st_mode):
            raise _hidden(chunk)
        if told.st_size > LARGEST:
            raise _large(chunk)
        return stream.read(LARGEST)


def _large(chunk: Chunk) -> Problem:
    return Problem(413, "too_large", f"the picture of {chunk.id} has more than {LARGEST >> 20} MiB")


def _hidden(chunk: Chunk) -> Problem:
    """One answer to all: it does not tell which files there are."""
    return Problem(404, "not_found", f"there is no picture of {chunk.id}")
