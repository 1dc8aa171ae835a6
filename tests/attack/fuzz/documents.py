"""Targets of parsers: each by itself, in this process, with the limits that its worker would have; and images."""

from __future__ import annotations

import io
from functools import partial
from typing import Any, BinaryIO

from penstock.core.errors import ParseError
from penstock.core.records import Gap, Item
from penstock.embedders.pixels import Preprocessing
from penstock.parsers import Parsers
from penstock.parsers.blocks import checked
from penstock.parsers.wire import from_part, packed, to_part, unpacked
from penstock.registry import PARSERS, load
from penstock.support import images
from tests.attack.fuzz.target import Target, allowed, check

_OOXML = "application/vnd.openxmlformats-officedocument."
_ODF = "application/vnd.oasis.opendocument."
_LARGEST = 512 << 20
"""Bytes of blocks that an input of at most 64 KiB may make."""


def _item(data: bytes, media_type: str, name: str) -> Item:
    return Item(f"memory://{name}", "", partial(io.BytesIO, data), len(data), media_type)


def _parse(media_type: str, parts: Any, *, isolated: bool) -> None:
    size = 0
    for part in parts:
        block = checked(part, media_type)
        if block is None:
            continue
        if isolated:
            sent = to_part(unpacked(packed(from_part(block))[4:]))
            check(type(sent) is type(block), f"{block!r} came over the wire as {sent!r}")
        if isinstance(block, Gap):
            check(len(block.cause) < 5000, f"a gap's cause of {len(block.cause):,} characters")
        else:
            check(all(len(heading) <= 1000 for heading in block.headings), "a heading of more than 1,000 characters")
            size += block.nbytes
            check(size < _LARGEST, f"blocks of more than {_LARGEST >> 20} MiB")


def _parser(name: str, media_type: str, shape: str, *watched: str, charset: str = "") -> Target:
    def run(data: bytes) -> None:
        row = PARSERS[media_type if media_type in PARSERS else media_type.partition("/")[0] + "/*"]
        parse = load(row.target, row.extra)
        errors: tuple[type[BaseException], ...] = (ParseError, MemoryError) if row.isolated else (ParseError,)
        with allowed(*errors):
            item = _item(data, media_type + charset, f"x.{name}")
            _parse(media_type, parse(io.BytesIO(data), item), isolated=row.isolated)

    memory = 1 << 30 if name != "pdf" else 2 << 30
    return Target(name, run, shape, ("penstock.parsers", "penstock.support.images", *watched), memory=memory)


_NAMES = ("a.txt", "a.html", "a.md", "a.csv", "a.json", "a.jsonl", "a.xml", "a.eml", "a.docx", "a.pdf", "a", "a.rtf")
_HINTS = ("", "text/html; charset=hex", "text/plain; charset=idna", "text/csv; charset=utf-7", "message/rfc822")


def _detected(data: bytes) -> None:
    """Any bytes under any name: detection, and whichever parser it picks. The first byte chooses name and hint."""
    first, rest = data[:1] or b"\0", data[1:]
    name, hint = _NAMES[first[0] % len(_NAMES)], _HINTS[first[0] // len(_NAMES) % len(_HINTS)]
    with Parsers(isolate=False) as parsers, allowed(ParseError):
        parsed = parsers.parse(_item(rest, hint, name))
        _parse(parsed.media_type, parsed.blocks, isolated=False)


def _declared(data: bytes) -> None:
    """A text whose encoding somebody else names: on the first line."""
    name, _, rest = data.partition(b"\n")
    from penstock.parsers import text

    media_type = f"text/plain; charset={name.decode('latin-1')[:40]}"
    with allowed(ParseError):
        _parse(media_type, text.parse(io.BytesIO(rest), _item(rest, media_type, "a.txt")), isolated=False)


def _image(data: bytes) -> None:
    with allowed(ParseError):
        images.measure(data)
    with allowed(ParseError):
        images.decode(data, pixels=4_000_000)
    with allowed(ParseError):
        image = images.decode(data, edge=64, pixels=4_000_000)
        check(image.mode == "RGB", f"an image of mode {image.mode}")
        left, top, right, bottom = images.extent(image)
        width, height = image.size
        image.thumbnail((64, 64))
        image.save(io.BytesIO(), "JPEG")
        check(0 <= left < right <= width and 0 <= top < bottom <= height, "an extent outside its image")

    for preprocessing in _preprocessings():
        with allowed(ParseError):
            pixels = preprocessing.pixels(data, 4_000_000)
            check(pixels.shape == (*(preprocessing.shape or ()), 3), f"pixels of shape {pixels.shape}")


def _preprocessings() -> list[Preprocessing]:
    """As CLIP and SigLIP have them, and one that only shrinks."""
    scale = (1 / 255, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return [Preprocessing(32, None, (32, 32), 3, *scale), Preprocessing(None, (32, 32), None, 3, *scale)]


def _caption(data: bytes) -> None:
    """The captions beside an image, in an archive."""
    from penstock.parsers.images import parse

    def opened() -> BinaryIO:
        return io.BytesIO(data)

    class Beside:
        def __init__(self) -> None:
            self.beside = {".json" if data[:1] != b"t" else ".txt": opened}

        def __call__(self) -> BinaryIO:
            return io.BytesIO(_PIXEL)

    item = Item("memory://a.png", "", Beside(), len(_PIXEL), "image/png")
    with allowed(ParseError):
        _parse("image/png", parse(io.BytesIO(_PIXEL), item), isolated=False)


def _pixel() -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (1, 1)).save(out, "PNG")
    return out.getvalue()


_PIXEL = _pixel()


TARGETS: tuple[Target, ...] = (
    _parser("pdf", "application/pdf", "bytes"),
    _parser("docx", _OOXML + "wordprocessingml.document", "zip"),
    _parser("pptx", _OOXML + "presentationml.presentation", "zip"),
    _parser("xlsx", _OOXML + "spreadsheetml.sheet", "zip"),
    _parser("xls", "application/vnd.ms-excel", "bytes"),
    _parser("odt", _ODF + "text", "zip"),
    _parser("ods", _ODF + "spreadsheet", "zip"),
    _parser("epub", "application/epub+zip", "zip"),
    _parser("html", "text/html", "tags"),
    _parser("xml", "application/xml", "tags"),
    _parser("markdown", "text/markdown", "lines"),
    _parser("mail", "message/rfc822", "lines", "email"),
    _parser("outlook", "application/vnd.ms-outlook", "bytes", "oxmsg", "olefile"),
    _parser("rtf", "application/rtf", "lines", "striprtf"),
    _parser("csv", "text/csv", "lines"),
    _parser("json", "application/json", "json"),
    _parser("jsonl", "application/x-ndjson", "lines"),
    _parser("text", "text/plain", "lines", "charset_normalizer"),
    Target("charset", _declared, "lines", ("penstock.parsers",)),
    Target("detect", _detected, "bytes", ("penstock.parsers",)),
    Target("image", _image, "bytes", ("penstock.support.images",), memory=3 << 30),
    Target("caption", _caption, "json", ("penstock.parsers",)),
)
