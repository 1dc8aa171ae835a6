"""Bodies of answers that are compressed: gzip and deflate, and br where a decoder is installed that can be bounded.

Decoded a bounded piece at a time; what grows too large, or grows too much, is a LimitExceeded.
"""

from __future__ import annotations

import zlib
from collections.abc import Generator, Iterator
from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import Any, Protocol

from penstock.core.errors import LimitExceeded, SourceError
from penstock.support.fetching import Pieces

RATIO = 250
"""The most bytes that a byte may stand for, in what has more than _SMALL: the largest of ordinary texts reach 50."""
_SMALL = 4 << 20
_PIECE = 1 << 18
_GZIP = b"\x1f\x8b"


class _Decoder(Protocol):
    def decode(self, data: bytes) -> Iterator[bytes]: ...

    @property
    def finished(self) -> bool: ...


@cache
def accepted() -> str:
    """The codings that can be read, as a header of requests."""
    return "gzip, deflate, br" if _brotli() is not None else "gzip, deflate"


def decoded(pieces: Pieces, coding: str, most: int) -> Pieces:
    """The body that is sent in this coding. Raises SourceError if it is broken or cut, LimitExceeded if it is a bomb or
    has more than `most` bytes."""
    coding = coding.strip().lower()
    if coding in ("", "identity"):
        yield from pieces
        return
    decoder = _decoder(coding)
    received = size = 0
    for piece in pieces:
        received += len(piece)
        for part in _blaming(decoder.decode(piece), coding):
            size += len(part)
            if size > most:
                raise LimitExceeded(f"it has more than {most:,} bytes, decompressed")
            if size > max(_SMALL, RATIO * received):
                raise LimitExceeded(f"it grows more than {RATIO}-fold when it is decompressed")
            yield part
    if received and not decoder.finished:
        raise SourceError(f"its {coding} data break off")


def _decoder(coding: str) -> _Decoder:
    if coding in ("gzip", "x-gzip"):
        return _Gzip()
    if coding == "deflate":
        return _Deflate()
    if coding == "br" and (decompressor := _brotli()) is not None:
        return _Brotli(decompressor)
    raise SourceError(f"it is sent as {coding[:20]}, without being asked to")


def _blaming(parts: Iterator[bytes], coding: str) -> Iterator[bytes]:
    try:
        yield from parts
    except Exception as error:  # each decoder has an error of its own
        raise SourceError(f"its {coding} data are broken ({error})") from None


class _Gzip:
    """Members of gzip, one after the other; what follows them and is none is left out, as browsers do."""

    def __init__(self) -> None:
        self._stream: Any = None
        self.finished = False

    def decode(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._stream is None:
                if self.finished and not data.startswith(_GZIP[: len(data)]):
                    return
                self._stream, self.finished = zlib.decompressobj(31), False
            data = yield from _inflated(self._stream, data)
            if self._stream.eof:
                self._stream, self.finished = None, True


class _Deflate:
    """zlib's format, as it should be, or the bare stream that some hosts send."""

    def __init__(self) -> None:
        self._begins = b""
        self._stream: Any = None

    @property
    def finished(self) -> bool:
        return self._stream is not None and self._stream.eof

    def decode(self, data: bytes) -> Iterator[bytes]:
        if self._stream is None:
            data = self._begins = self._begins + data
            if len(data) < 2:
                return
            wrapped = data[0] & 15 == 8 and int.from_bytes(data[:2], "big") % 31 == 0
            self._stream = zlib.decompressobj(15 if wrapped else -15)
        if not self._stream.eof:
            yield from _inflated(self._stream, data)


def _inflated(stream: Any, data: bytes) -> Generator[bytes, None, bytes]:
    """Decompress what a stream can; returns what follows its end."""
    while True:
        part = stream.decompress(data, _PIECE)
        data = stream.unconsumed_tail
        if part:
            yield part
        if stream.eof:
            return bytes(stream.unused_data)
        if not data and len(part) < _PIECE:
            return b""


class _Brotli:
    def __init__(self, decompressor: Any) -> None:
        self._stream = decompressor()

    @property
    def finished(self) -> bool:
        return bool(self._stream.is_finished())

    def decode(self, data: bytes) -> Iterator[bytes]:
        while not self.finished:
            if part := self._stream.process(data, output_buffer_limit=_PIECE):
                yield part
            data = b""
            if self._stream.can_accept_more_data():
                return


@cache
def _brotli() -> Any:
    """A class of decompressors whose output can be bounded, if one is installed."""
    for name in ("brotli", "brotlicffi"):
        with suppress(ImportError):
            decompressor = import_module(name).Decompressor
            if hasattr(decompressor, "can_accept_more_data"):
                return decompressor
    return None
