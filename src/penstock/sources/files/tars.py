"""Tars, header by header: what lies between the headers is not read.

    header · data, filled up to 512 bytes · header · ... · two blocks of zeros, or more

Headers of kinds x (pax) and L (GNU) say more about the member that follows. A tar has no directory and no sums of its
data: an end that is missing is all that shows that it was cut short between two members. Tars joined with `cat` are
one: after zeros there may come another header.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

from penstock.sources.files.members import ALONE, SMALL, Ahead, Damaged, Entry, Opener, Reader, moved, window

BLOCK = 512
MORE = 1 << 20
"""The most bytes that a header may have to say about the member that follows."""
ZEROS = 64 << 20
"""The most that is looked through for another header."""

_ZERO = bytes(BLOCK)
_REGULAR, _LINKS, _SPECIAL = b"0\0007", b"12", b"346"
_PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"(\xb5/\xfd")


@dataclass(frozen=True, slots=True)
class TarMember:
    read: Reader
    at: int
    """The offset of its header."""
    sum: int
    """The checksum of its header: another archive has another one there."""
    size: int
    beside: Mapping[str, Opener] = field(default=ALONE, hash=False)

    def __call__(self) -> BinaryIO:
        small = self.size <= SMALL
        data = self.read(self.at, BLOCK + (self.size if small else 0))
        if zlib.crc32(data[:BLOCK]) != self.sum or (small and len(data) < BLOCK + self.size):
            raise moved()
        return io.BytesIO(data[BLOCK:]) if small else window(self.read, self.at + BLOCK, self.size)


def entries(read: Reader, size: int, start: int = 0) -> Iterator[Entry]:
    """The members from the beginning, or from an entry's offset. Raises Damaged where it makes no sense any more."""
    ahead = Ahead(read)
    at = begun = start
    extended: dict[bytes, bytes] = {}
    zeros = 0
    if not size:
        raise Damaged("empty: zero bytes")
    while at < size:
        block = ahead(at, BLOCK)
        if not block:
            raise Damaged("cut short while it was listed")
        if block == _ZERO[: len(block)]:
            zeros += len(block)
            at += len(block)
            if extended or zeros > ZEROS:
                raise Damaged(f"damaged at byte {at:,}: zeros where a member was to follow")
            begun = at
            continue
        zeros = 0
        kind, name, length = _header(block, at)
        data = at + BLOCK
        if kind in b"xXLK":
            if length > MORE:
                raise Damaged(f"damaged at byte {at:,}: {length:,} bytes about one member")
            _check_length(data, length, size, name)
            record = ahead(data, length).rstrip(b"\0")
            extended |= _pax(record, data) if kind in b"xX" else {kind: record}
            at = _after(data, length)
            continue
        sparse = kind == b"S" or any(key.startswith(b"GNU.sparse.") for key in extended)
        name = extended.get(b"GNU.sparse.name") or extended.get(b"path") or extended.get(b"L") or name
        if b"size" in extended:
            length = int(extended[b"size"])
        folder = kind == b"5" or (kind == b"\0" and name.endswith(b"/"))
        more = kind == b"S" and block[482]
        while more:
            more = ahead(data, BLOCK)[504:505] not in (b"", b"\0")
            data += BLOCK
        if folder or kind in _LINKS or kind in _SPECIAL:
            length = 0
        _check_length(data, length, size, name)
        if not folder and kind != b"g":
            left = "" if kind in _REGULAR or sparse else "link" if kind in _LINKS else "special"
            fault = "a sparse file: re-pack the tar without --sparse" if sparse else ""
            opener = TarMember(read, at, zlib.crc32(block), length)
            yield Entry(begun, name, length, f"{data}-{length}", opener, left, fault)
        at = _after(data, length)
        if kind != b"g":
            begun, extended = at, {}
    if not zeros:
        raise Damaged("cut short: it has no end")


def _after(data: int, length: int) -> int:
    return data + (length + BLOCK - 1) // BLOCK * BLOCK


def _check_length(data: int, length: int, size: int, name: bytes) -> None:
    if data + length > size:
        raise Damaged(f"cut short within its member {name[-200:].decode(errors='replace')}")


def _header(block: bytes, at: int) -> tuple[bytes, bytes, int]:
    """Kind, name and size of what follows."""
    if len(block) < BLOCK:
        raise Damaged("cut short within a header")
    if _octal(block[148:156]) not in _sums(block):
        if not at and block.startswith(_PACKED):
            raise Damaged("a compressed tar is not read here: unpack it, or re-pack it as a plain .tar")
        raise Damaged(f"damaged at byte {at:,}: no header of a member" if at else "no tar archive")
    name = block[:100].partition(b"\0")[0]
    if block[257:263] == b"ustar\0" and (folder := block[345:500].partition(b"\0")[0]):
        name = folder + b"/" + name
    return block[156:157], name, _number(block[124:136], at)


def _sums(block: bytes) -> Iterator[int]:
    blank = block[:148] + b" " * 8 + block[156:]
    yield sum(blank)
    yield sum(byte - 256 * (byte > 127) for byte in blank)  # some count from 128 on as negative


def _number(field: bytes, at: int) -> int:
    number = int.from_bytes(field[1:], "big") if field[:1] == b"\x80" else _octal(field)
    if number < 0:
        raise Damaged(f"damaged at byte {at:,}: no number where one belongs")
    return number


def _octal(field: bytes) -> int:
    try:
        return int(field.partition(b"\0")[0].strip() or b"0", 8)
    except ValueError:
        return -1


def _pax(data: bytes, at: int) -> dict[bytes, bytes]:
    """Lines of `length key=value`."""
    extended = {}
    while data:
        digits = data[:20].partition(b" ")[0]
        length = int(digits) if digits.isdigit() else 0
        key, equals, value = data[len(digits) + 1 : max(length - 1, 0)].partition(b"=")
        if not equals or length > len(data):
            raise Damaged(f"damaged at byte {at:,}: its extended header makes no sense")
        if key == b"size" and not (value.isdigit() and len(value) < 20):
            raise Damaged(f"damaged at byte {at:,}: no number where one belongs")
        extended[key] = value
        data = data[length:]
    return extended
