"""Zips, by their central directory, which is read a piece at a time: `zipfile` would hold all of it.

header · name · data · ... · central directory · (zip64 end, its locator) · end
"""

from __future__ import annotations

import io
import re
import stat
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from struct import Struct, error, unpack_from
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, NamedTuple, cast

from penstock.core.errors import LimitExceeded, ParseError
from penstock.sources.files.members import ALONE, SMALL, Ahead, Damaged, Entry, Opener, Reader, moved, window

LARGEST = 256 << 20
"""The most bytes of a member, unpacked."""
RATIO = 200
"""The most a member of over a mebibyte may grow in unpacking."""

_CENTRAL = Struct("<4s6H3L5H2L")
_LOCAL = Struct("<4s22x2H")
_END = Struct("<4s2x2x2xH2L2x")
_END64 = Struct("<4s28xQQQ")
_SLACK = 256
"""Bytes that stand between a member's name and its data, mostly fewer."""
_STEP = 1 << 16
_STORED, _DEFLATED = 0, 8
_UNIX = 3


@dataclass(frozen=True, slots=True)
class ZipMember:
    """Opens a member. Its checksum is compared before a byte of it is handed out."""

    read: Reader
    at: int
    """The offset of its header."""
    name: bytes
    packed: int
    size: int
    crc: int
    method: int
    encrypted: bool
    beside: Mapping[str, Opener] = field(default=ALONE, hash=False)

    def __call__(self) -> BinaryIO:
        if self.encrypted:
            raise ParseError("encrypted: a password is needed")
        if self.method not in (_STORED, _DEFLATED):
            raise ParseError(f"compressed by method {self.method} of zip: only deflate is read here")
        if self.method == _DEFLATED and (
            self.size > LARGEST or (self.size > 1 << 20 and self.size > self.packed * RATIO)
        ):
            raise LimitExceeded(f"it would unpack to {self.size >> 20} MiB, from {self.packed >> 10} KiB")
        if self.method == _STORED and self.size != self.packed:
            raise ParseError("damaged: its two sizes differ")
        data = self._data()
        try:
            return self._checked(data) if self.method == _STORED else self._unpacked(data)
        except zlib.error as broken:
            raise ParseError(f"damaged: {broken}") from None

    def _data(self) -> BinaryIO:
        small = self.packed <= SMALL
        head = self.read(self.at, _LOCAL.size + len(self.name) + _SLACK + (self.packed if small else 0))
        if len(head) < _LOCAL.size:
            raise moved()
        signature, name, extra = _LOCAL.unpack_from(head)
        start = _LOCAL.size + name + extra
        if signature != b"PK\3\4" or head[_LOCAL.size : _LOCAL.size + name] != self.name:
            raise moved()
        if small and start + self.packed <= len(head):
            return io.BytesIO(head[start : start + self.packed])
        return window(self.read, self.at + start, self.packed)

    def _checked(self, data: BinaryIO) -> BinaryIO:
        crc = 0
        while piece := data.read(1 << 20):
            crc = zlib.crc32(piece, crc)
        if crc != self.crc:
            raise ParseError("damaged: its checksum differs")
        data.seek(0)
        return data

    def _unpacked(self, data: BinaryIO) -> BinaryIO:
        stream = zlib.decompressobj(-zlib.MAX_WBITS)
        crc = size = 0
        spool = SpooledTemporaryFile(SMALL)  # noqa: SIM115 - the caller closes it
        try:
            while not stream.eof:
                packed = stream.unconsumed_tail or data.read(_STEP)
                piece = stream.decompress(packed, 1 << 20)
                size += len(piece)
                if size > self.size or not (packed or piece):
                    break
                crc = zlib.crc32(piece, crc)
                spool.write(piece)
            if size != self.size or crc != self.crc or not stream.eof:
                raise ParseError("damaged: it does not unpack to the size and checksum in the directory")
        except BaseException:
            spool.close()
            raise
        spool.seek(0)
        return cast(BinaryIO, spool)


def entries(read: Reader, size: int, start: int = 0) -> Iterator[Entry]:
    """The members from the beginning, or from an entry's offset. Raises Damaged where it makes no sense any more."""
    if not size:
        raise Damaged("empty: zero bytes")
    directory = _directory(read, size)
    at, end = start or directory.start, directory.end
    ahead = Ahead(read)
    count = claimed = 0
    while at < end:
        head = ahead(at, _CENTRAL.size)
        if len(head) < _CENTRAL.size or head[:4] != b"PK\1\2":
            raise Damaged(f"damaged at byte {at:,}: its directory breaks off")
        (_, made_by, _, flags, method, _, _, crc, packed, length, named, more, comment, _, _, mode, offset) = (
            _CENTRAL.unpack(head)
        )
        raw = ahead(at + _CENTRAL.size, named + more)
        if len(raw) < named + more:
            raise Damaged("its directory is cut short")
        raw, extra = raw[:named], raw[named:]
        if 0xFFFFFFFF in (packed, length, offset):
            length, packed, offset = _wide(extra, length, packed, offset)
        claimed += _LOCAL.size + named + packed
        if claimed > directory.start:
            raise Damaged("its members claim more bytes than it has: they overlap")
        mode = mode >> 16 if made_by >> 8 == _UNIX else 0
        if not (raw.endswith((b"/", b"\\")) and not length) and not stat.S_ISDIR(mode):
            opener = ZipMember(read, offset + directory.shift, raw, packed, length, crc, method, bool(flags & 1))
            yield Entry(at, _name(raw), length, f"{length}-{crc:08x}", opener, _left(mode))
        count += 1
        at += _CENTRAL.size + named + more + comment
    if not start and (count - directory.entries) % (1 << 16):
        raise Damaged(f"its directory has {count:,} entries, and claims {directory.entries:,}")


class _Directory(NamedTuple):
    start: int
    end: int
    entries: int
    shift: int
    """How far everything lies behind its stated offset: the length of what was put before the archive."""


def _directory(read: Reader, size: int) -> _Directory:
    tail = read(max(0, size - _END.size - 0xFFFF), _END.size + 0xFFFF)
    ends = [found.start() for found in re.finditer(b"PK\5\6", tail) if found.start() + _END.size <= len(tail)]
    if not ends:
        raise Damaged("no zip archive, or cut short: it has no directory")
    # The comment behind it may look like one. Then the last one does not reach to the end.
    matching = [end for end in ends if end + _END.size + unpack_from("<H", tail, end + 20)[0] == len(tail)]
    at = (matching or ends)[-1]
    _, count, length, offset = _END.unpack_from(tail, at)
    end = size - len(tail) + at
    if tail[at - 20 : at - 16] == b"PK\6\7" and at >= 20:
        end = unpack_from("<Q", tail, at - 12)[0]
        wide = read(end, _END64.size) if end < size else b""
        if wide[:4] != b"PK\6\6":  # something was put before the archive
            end = size - len(tail) + at - 20 - _END64.size
            wide = read(max(0, end), _END64.size)
        if wide[:4] != b"PK\6\6" or len(wide) < _END64.size:
            raise Damaged("damaged: its end makes no sense")
        _, count, length, offset = _END64.unpack(wide)
    start = end - length
    if start < 0 or start < offset:
        raise Damaged("cut short, or one of several parts: its directory is not where its end says")
    if start > offset and read(offset, 4) == b"PK\1\2":  # what stands behind a directory may be a signature
        return _Directory(offset, offset + length, count, 0)
    return _Directory(start, end, count, start - offset)


def _wide(extra: bytes, *numbers: int) -> list[int]:
    """Length, packed length and offset: those that did not fit are in a field of their own, in this order."""
    while len(extra) >= 4:
        kind, size = unpack_from("<HH", extra)
        if kind == 1:
            field = memoryview(extra)[4 : 4 + size]
            wide = []
            try:
                for number in numbers:
                    if number == 0xFFFFFFFF:
                        number, field = unpack_from("<Q", field)[0], field[8:]
                    wide.append(number)
            except error:
                break
            return wide
        extra = extra[4 + size :]
    raise Damaged("damaged: a size in its directory is missing")


def _left(mode: int) -> str:
    kind = stat.S_IFMT(mode)
    return "" if kind in (0, stat.S_IFREG) else "link" if kind == stat.S_IFLNK else "special"


def _name(raw: bytes) -> bytes:
    """In UTF-8, whatever its flag: many write it without the flag, and no other encoding looks like it."""
    try:
        raw.decode()
    except UnicodeDecodeError:
        return raw.decode("cp437").encode()
    return raw
