"""Zip packages and the XML in them (Office, OpenDocument, EPUB), read with limits and without building trees.

A member's size, the ratio of its compression and the number of members are capped; XML with a DTD is refused, since
nobody needs one here but who wants to blow entities up.
"""

from __future__ import annotations

import posixpath
import re
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO
from urllib.parse import unquote
from xml.parsers import expat

from penstock.core.errors import LimitExceeded, ParseError
from penstock.core.records import NOTHING, Block, Item
from penstock.parsers.damage import reading
from penstock.parsers.text import BLOCK, cut

MEMBERS = 20_000
LARGEST = 256 << 20
"""The most bytes of a member, unpacked."""
TOTAL = 1 << 30
"""The most bytes unpacked of one package."""
RATIO = 200
"""The most a member of over a mebibyte may grow in unpacking."""
_PIECE = 1 << 16
_WHOLE = re.compile("[0-9]{1,9}")
_DEEPEST = 2000
_TAG = 16 << 20
"""The most bytes that are held for a single tag, comment or instruction."""

Event = tuple[str, str, Any]
"""("start", local name, attributes by local name), ("end", local name, None) or ("text", "", the text)."""


def encrypted(stream: BinaryIO, item: Item) -> Iterator[Block]:
    """An Office document under a password is no zip at all, and says so."""
    raise ParseError("encrypted: a password is needed")


class Malformed(ParseError):
    """XML that is not well formed."""


class Package:
    def __init__(self, stream: BinaryIO) -> None:
        with reading("the zip package"):
            self._zip = zipfile.ZipFile(stream)
        self._left = TOTAL
        names = self._zip.namelist()
        if len(names) > MEMBERS:
            raise LimitExceeded(f"{len(names)} members in one package")
        self.names = frozenset(names)

    def pieces(self, name: str) -> Iterator[bytes]:
        """The bytes of a member, unpacked as they are asked for."""
        try:
            info = self._zip.getinfo(name)
        except KeyError:
            raise ParseError(f"the package has no {name[:100]}") from None
        if info.flag_bits & 1:
            raise ParseError("encrypted: a password is needed")
        _bounded(info)
        what = f"{name[:100]} of the package"
        with reading(what):
            member = self._zip.open(info)
        with member:
            while True:
                with reading(what):
                    piece = member.read(_PIECE)
                if not piece:
                    return
                self._left -= len(piece)
                if self._left < 0:
                    raise LimitExceeded(f"the package unpacks to more than {TOTAL >> 20} MiB")
                yield piece

    def check(self) -> None:
        """For readers that unpack by themselves: every member is within the limits by what the package says."""
        for info in self._zip.infolist():
            _bounded(info)
        if sum(info.file_size for info in self._zip.infolist()) > TOTAL:
            raise LimitExceeded(f"the package unpacks to more than {TOTAL >> 20} MiB")

    def read(self, name: str) -> bytes:
        return b"".join(self.pieces(name))

    def events(self, name: str) -> Iterator[Event]:
        return events(self.pieces(name))

    def relations(self, part: str) -> dict[str, str]:
        """The members that a part of an Office package refers to, by relation id."""
        folder, base = posixpath.split(part)
        name = f"{folder}/_rels/{base}.rels"
        if name not in self.names:
            return {}
        return {
            attributes.get("Id", ""): resolved(folder, attributes.get("Target", ""))
            for kind, tag, attributes in self.events(name)
            if kind == "start" and tag == "Relationship" and attributes.get("TargetMode") != "External"
        }

    def title(self, name: str) -> Mapping[str, Any]:
        """The metadata that a member with a `dc:title` gives."""
        if name not in self.names:
            return NOTHING
        text, inside = "", False
        for kind, tag, value in self.events(name):
            if kind == "text" and inside:
                text += value
            elif tag == "title":
                if kind == "end" and text.strip():
                    break
                inside = kind == "start"
        text = " ".join(text.split())[:500]
        return {"title": text} if text else NOTHING


def _bounded(info: zipfile.ZipInfo) -> None:
    if info.file_size > LARGEST or info.file_size > max(1 << 20, info.compress_size * RATIO):
        raise LimitExceeded(f"{info.filename[:100]} would unpack to {info.file_size >> 20} MiB")


def whole(text: str | None, otherwise: int) -> int:
    """The whole number of an attribute; of what is none, or larger than any that matters, `otherwise`. (`isdigit` is
    true of ², and `int` refuses thousands of digits.)"""
    return int(text) if text is not None and _WHOLE.fullmatch(text) else otherwise


def resolved(folder: str, target: str) -> str:
    """A reference from within a folder of the package, as a member's name."""
    target = unquote(target.partition("#")[0])
    return target[1:] if target.startswith("/") else posixpath.normpath(posixpath.join(folder, target))


def events(pieces: Iterator[bytes], *, encoding: str | None = None, doctype: bool = False) -> Iterator[Event]:
    """Events of an XML document, a piece at a time. `encoding`: that of the bytes, whatever the document declares.
    `doctype`: one is allowed, but no entity of its own; nothing outside the document is ever read."""
    ready: list[Event] = []
    depth = fed = 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _DEEPEST:
            raise LimitExceeded(f"XML nested deeper than {_DEEPEST}")
        ready.append(("start", _local(name), {_attribute(key): value for key, value in attributes.items()}))

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        ready.append(("end", _local(name), None))

    def refuse(*_: object) -> None:
        what = "that declares entities" if doctype else "with a document type declaration"
        raise ParseError(f"XML {what} is refused")

    parser = expat.ParserCreate(encoding, namespace_separator="}")
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = lambda text: ready.append(("text", "", text))
    if doctype:
        parser.EntityDeclHandler = refuse
        parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)
    else:
        parser.StartDoctypeDeclHandler = refuse
    try:
        for piece in pieces:
            parser.Parse(piece, False)
            fed += len(piece)
            if fed - parser.CurrentByteIndex > _TAG:
                raise LimitExceeded(f"a tag or comment of more than {_TAG >> 20} MiB")
            yield from ready
            ready.clear()
        parser.Parse(b"", True)
    except expat.ExpatError as error:
        raise Malformed(f"damaged XML: {error}") from None
    yield from ready


def _attribute(name: str) -> str:
    """The local name; `r:id` keeps its prefix, for it stands beside a plain `id`."""
    space, _, local = name.rpartition("}")
    return f"r:{local}" if space.endswith("/relationships") else local


def _local(name: str) -> str:
    return name.rpartition("}")[2]


class Outline:
    """Gathers paragraphs into blocks under the path of their headings."""

    def __init__(self, metadata: Mapping[str, Any] = NOTHING) -> None:
        self.metadata = metadata
        self._path: list[tuple[int, str]] = []
        self._texts: list[str] = []
        self._size = 0

    def heading(self, level: int, title: str) -> Iterator[Block]:
        title = " ".join(title.split())
        if not title:
            return
        yield from self.flush()
        while self._path and self._path[-1][0] >= level:
            self._path.pop()
        self._path.append((level, title[:200]))
        yield from self.paragraph(title)

    def paragraph(self, text: str) -> Iterator[Block]:
        text = text.strip()
        if text:
            self._texts.append(text + "\n\n")
            self._size += len(text)
            if self._size > BLOCK // 4:
                yield from self.flush()

    def flush(self) -> Iterator[Block]:
        if self._texts:
            text = "".join(self._texts)
            self._texts, self._size = [], 0
            for part in cut(text):
                yield Block(part, headings=tuple(title for _, title in self._path), metadata=self.metadata)
