"""Thumbnails of indexed images, and of nothing else on the machine.

An image comes from the point itself, from a file beneath one of the roots (or an archive or Parquet file there), or
from its url, where the server may fetch urls.
"""

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

from penstock.core.errors import LimitExceeded, ParseError, SourceError, Unsupported
from penstock.core.records import Chunk
from penstock.engine.identity import shows
from penstock.server.image_fetcher import ImageFetcher
from penstock.server.parquet_images import ParquetImages, row_of
from penstock.server.problems import Problem, not_found
from penstock.server.settings import Settings
from penstock.server.thumbnail_cache import Sizes, ThumbnailCache
from penstock.sources.files.archives import Archive
from penstock.sources.files.local import archive_of, uri_of, within
from penstock.support.fair import Neighbours
from penstock.support.fetching import good as fetchable

SIZES = (128, 256, 512)
IMAGE_ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".png", ".webp", ".gif", ".bmp"),
    *(".tif", ".tiff", ".avif", ".heic", ".heif"),
)
MAX_BYTES = 128 << 20
"""Bytes of a file."""
FETCH_THREADS = 8
"""Urls fetched at once."""
PARQUET_THREADS = 2
"""Rows of Parquet files read at once."""

_FLAGS = os.O_RDONLY
for _name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"):  # those that the system has
    _FLAGS |= getattr(os, _name, 0)

RunInThread = Callable[[Callable[[], Sizes], str], Awaitable[Sizes]]


@dataclass(frozen=True, slots=True)
class Picture:
    """An image to render; `version` changes when the image may have changed."""

    version: str
    read: Callable[[], bytes]
    cache: ThumbnailCache | None = None
    """Of images that are expensive to read."""

    def etag(self, size: int) -> str:
        return f'"{hashlib.blake2b(f"{self.version}|{size}".encode(), digest_size=12).hexdigest()}"'


class Thumbnails:
    def __init__(self, settings: Settings, fetcher: ImageFetcher, neighbours: Neighbours | None = None) -> None:
        self._roots = [os.path.realpath(root) for root in settings.roots]
        self._pixels, self._may_fetch, self._fetcher = settings.pixels, settings.fetch_urls, fetcher
        self._parquet = ParquetImages()
        self._fetched = ThumbnailCache("fetched", FETCH_THREADS, neighbours)
        self._from_parquet = ThumbnailCache("parquet", PARQUET_THREADS, neighbours)

    def may_show(self, chunk: Chunk) -> bool:
        """Decide by the chunk's uri alone: files are opened, and urls fetched, when the thumbnail is requested."""
        if chunk.image or self._at_url(chunk):
            return True
        path = _path(chunk)
        return path is not None and self._inside(os.path.normpath(path))

    def picture(self, chunk: Chunk) -> Picture:
        """Find the chunk's picture. Raises Problem where it has none, or none that may be shown."""
        if image := chunk.image:
            return Picture(hashlib.blake2b(image, digest_size=16).hexdigest(), lambda: image)
        if self._at_url(chunk):
            # When the image at the url changes, the chunk gets another id with the next run.
            return Picture(f"{chunk.id}|{chunk.uri}", lambda: self._fetch(chunk), self._fetched)
        if (path := _path(chunk)) is None:
            raise _no_picture(chunk)
        if (row := row_of(urlsplit(chunk.uri).path)) is not None:
            return self._in_parquet(chunk, *row)
        # The roots are compared with the path that links lead to, and that path is opened: it has no links in it.
        real = os.path.realpath(path)
        if not self._inside(real):
            raise _no_picture(chunk)
        file, member = within(real)
        try:
            status = _regular(file, chunk)
            if member:
                return _archived(archive_of(uri_of(file), file, status, _FLAGS), member, chunk)
        except (OSError, ValueError, SourceError):
            raise _no_picture(chunk) from None
        return Picture(f"{chunk.id}|{_version(status)}", lambda: _read(real, chunk))

    async def render(self, picture: Picture, size: int, run_in_thread: RunInThread, client: str) -> bytes:
        """Render a JPEG, upright, no side longer than `size`. Raises ParseError where it cannot be decoded."""
        if picture.cache is None:
            return (await run_in_thread(lambda: self._rendered(picture, [size]), client))[size]
        return (await picture.cache.get(picture.version, lambda: self._rendered(picture, SIZES), client))[size]

    def _rendered(self, picture: Picture, sizes: Sequence[int]) -> Sizes:
        from penstock.support.images import decoded

        rendered = {}
        try:
            with decoded(picture.read(), edge=max(sizes), pixels=self._pixels) as image:
                for size in sorted(sizes, reverse=True):
                    image.thumbnail((size, size))
                    out = io.BytesIO()
                    image.save(out, "JPEG", quality=85)
                    rendered[size] = out.getvalue()
        except (Unsupported, LimitExceeded):
            raise
        except ParseError:  # what a decoder says may quote the file, which not everybody may read who may search
            raise ParseError("the picture cannot be decoded") from None
        return rendered

    def _at_url(self, chunk: Chunk) -> bool:
        return self._may_fetch and fetchable(chunk.uri) and _is_picture(chunk, urlsplit(chunk.uri).path)

    def _fetch(self, chunk: Chunk) -> bytes:
        try:
            return self._fetcher(chunk.uri)
        except Problem as error:
            if error.status not in (413, 504):
                raise _no_picture(chunk) from None
            message = error.message.replace("image_url", f"the picture of {chunk.id}", 1)
            raise Problem(error.status, error.kind, message) from None

    def _in_parquet(self, chunk: Chunk, path: str, name: str) -> Picture:
        real = os.path.realpath(path)
        if not self._inside(real):
            raise _no_picture(chunk)
        try:
            version = _version(_regular(real, chunk))
        except OSError:
            raise _no_picture(chunk) from None

        def read() -> bytes:
            try:
                image = self._parquet.image(
                    f"{real}|{version}", lambda: _open(real, version), name, partial(shows, chunk)
                )
            except Exception:  # pyarrow raises what it likes
                raise _no_picture(chunk) from None
            if len(image) > MAX_BYTES:
                raise _too_large(chunk)
            return image

        return Picture(f"{chunk.id}|{version}", read, self._from_parquet)

    def _inside(self, path: str) -> bool:
        return any(path.startswith(os.path.join(root, "")) for root in self._roots)


def _path(chunk: Chunk) -> str | None:
    """The path of a picture's file:// uri; None where it is another uri, names a part of a file, or is no picture."""
    try:
        parts = urlsplit(chunk.uri)
        path = os.fsdecode(unquote_to_bytes(parts.path))
    except ValueError:  # a UnicodeEncodeError is one: a store may give half a surrogate pair
        return None
    if parts.scheme != "file" or parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        return None
    return path if _is_picture(chunk, path) and path.startswith("/") and "\0" not in path else None


def _is_picture(chunk: Chunk, path: str) -> bool:
    """Whether the chunk is a picture: where the index does not keep the image, it is one of no bytes."""
    return chunk.image is not None or path.lower().endswith(IMAGE_ENDINGS)


def _regular(path: str, chunk: Chunk) -> os.stat_result:
    status = os.stat(path, follow_symlinks=False)
    if not stat.S_ISREG(status.st_mode):
        raise _no_picture(chunk)
    return status


def _version(status: os.stat_result) -> str:
    return f"{status.st_mtime_ns}|{status.st_size}|{status.st_ino}"


def _archived(archive: Archive, member: str, chunk: Chunk) -> Picture:
    if (item := archive.find(os.fsencode(member))) is None:
        raise _no_picture(chunk)
    if (item.size or 0) > MAX_BYTES:
        raise _too_large(chunk)

    def read() -> bytes:
        try:
            with item.open() as stream:
                return stream.read(MAX_BYTES)
        except OSError:
            raise _no_picture(chunk) from None

    return Picture(f"{chunk.id}|{archive.fingerprint}|{item.fingerprint}", read)


def _read(path: str, chunk: Chunk) -> bytes:
    try:
        stream = _open(path)
    except OSError:
        raise _no_picture(chunk) from None
    with stream:
        if os.fstat(stream.fileno()).st_size > MAX_BYTES:
            raise _too_large(chunk)
        return stream.read(MAX_BYTES)


def _open(path: str, version: str | None = None) -> BinaryIO:
    # A link or a pipe may have replaced the file since it was checked.
    file = os.open(path, _FLAGS)
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode) or version not in (None, _version(status)):
        os.close(file)
        raise OSError(errno.ESTALE, "the file has been replaced", path)
    return open(file, "rb")


def _too_large(chunk: Chunk) -> Problem:
    return Problem(413, "too_large", f"the picture of {chunk.id} has more than {MAX_BYTES >> 20} MiB")


def _no_picture(chunk: Chunk) -> Problem:
    """The same for every cause, so that it does not reveal which files exist."""
    return not_found(f"there is no picture of {chunk.id}")
