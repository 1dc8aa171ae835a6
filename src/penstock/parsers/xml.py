"""XML as `name: text` lines, names within others dotted. Elements that repeat, and have parts, are units as rows are.

Streamed: an element of more than SMALL characters is entered, so that none is held whole but small ones. A document may
have a document type, but entities of its own are refused and nothing outside it is read. A small file that is not well
formed (a template, mostly) is read as text; a larger one as far as it is well formed, with a Gap.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import BinaryIO

from penstock.core.errors import LimitExceeded
from penstock.core.records import Block, Gap, Item
from penstock.parsers.package import Event, Malformed, events
from penstock.parsers.tables import joined
from penstock.parsers.text import charset, cut, decoded, known_encoding

SMALL = 1 << 16
"""The most characters of an element that is held whole."""
HELD = 1 << 20
"""Characters up to which a file is looked through before any of it is given out."""
_DEEPEST = 200
_NODES = 5000
"""The most elements within one that is held."""
_DECLARED = re.compile(rb"""<\?xml[^>]{1,200}?encoding\s*=\s*["']([\w.:-]{1,40})["']""")
_LOCATION = "schemaLocation"
_DRAWING = "svg"
"""Attributes of a drawing are its lines."""


def parse(stream: BinaryIO, item: Item) -> Iterator[Block | Gap]:
    head = stream.read(1024)
    stream.seek(0)
    declared = _DECLARED.match(head.lstrip())
    encoding = charset(item) or (known_encoding(declared[1].decode()) if declared else None)
    gaps: list[Gap] = []
    texts = _without(decoded(stream, encoding), gaps)
    held = _head(texts)
    small = sum(map(len, held)) <= HELD
    blocks = joined(_Walk().blocks(events(_encoded(chain(held, texts)), encoding="utf-8", doctype=True)))
    try:
        for block in list(blocks) if small else blocks:
            yield from gaps
            gaps.clear()
            yield block
    except Malformed as error:
        if small:
            yield from (Block(part) for text in held for part in cut(text))
        else:
            yield Gap(f"{error}; what follows was left out")
    yield from gaps


def _without(texts: Iterator[str | Gap], gaps: list[Gap]) -> Iterator[str]:
    for text in texts:
        if isinstance(text, Gap):
            gaps.append(text)
        else:
            yield text


def _head(texts: Iterator[str]) -> list[str]:
    held, size = [], 0
    for text in texts:
        held.append(text)
        if (size := size + len(text)) > HELD:
            break
    return held


def _encoded(texts: Iterable[str]) -> Iterator[bytes]:
    first = True
    for text in texts:
        yield (text.lstrip() if first else text).encode("utf-8", "replace")
        first = False


# ---------------------------------------------------------------- elements to blocks


@dataclass(slots=True)
class _Element:
    """One that is held whole."""

    tag: str
    attributes: Mapping[str, str]
    parts: list[str | _Element] = field(default_factory=list)

    @property
    def children(self) -> list[_Element]:
        return [part for part in self.parts if isinstance(part, _Element)]

    @property
    def sentence(self) -> bool:
        """It has text of its own, and its children are words of that."""
        return any(isinstance(part, str) and not part.isspace() for part in self.parts) and all(
            child.sentence or not child.children for child in self.children
        )

    @property
    def record(self) -> bool:
        return not self.sentence and (bool(self.children) or len(self.attributes) > 1)

    @property
    def size(self) -> int:
        return sum(len(part) if isinstance(part, str) else part.size for part in self.parts)

    @property
    def count(self) -> int:
        return 1 + sum(child.count for child in self.children)

    @property
    def text(self) -> str:
        return "".join(part if isinstance(part, str) else part.text for part in self.parts)

    def lines(self, path: str) -> Iterator[str]:
        """`name: text` of all that it holds, the names below `path`. Of words in a sentence attributes are left out."""
        yield from _attributes(path, self.attributes)
        if self.sentence:
            yield from _line(path, self.text)
            return
        for part in self.parts:
            yield from _line(path, part) if isinstance(part, str) else part.lines(_below(path, part.tag))


@dataclass(slots=True)
class _Entered:
    """One that is too large to be held; the first of them is the document itself."""

    tag: str
    path: str
    last: _Element | None = None
    """Its latest child that is whole: the next one says whether it repeats."""
    before: str = ""
    """The tag of the child before that."""
    rows: Counter[str] = field(default_factory=Counter)
    labelled: bool = False


class _Walk:
    """Turns the events of a document into blocks."""

    def __init__(self) -> None:
        self._entered = [_Entered("", "")]
        self._held: list[_Element] = []
        """The element that is being read, from the outermost that is held to the innermost."""
        self._size = self._count = 0
        self._drawing = False

    def blocks(self, events: Iterator[Event]) -> Iterator[Block]:
        broken: Malformed | None = None
        try:
            for kind, tag, value in events:
                if kind == "start":
                    yield from self._start(tag, {} if self._drawing else value)
                elif kind == "text":
                    yield from self._text(value)
                else:
                    yield from self._end()
        except Malformed as error:
            broken = error
        if self._held:  # what was read of the element that it breaks off in
            yield from self._flush(self._held[0].tag)
            self._entered[-1].last = self._held[0]
        yield from self._flush("")
        if broken is not None:
            raise broken

    def _start(self, tag: str, attributes: dict[str, str]) -> Iterator[Block]:
        attributes.pop(_LOCATION, None)
        if not self._held and len(self._entered) == 1 and tag == _DRAWING:
            self._drawing, attributes = True, {}
        if len(self._entered) + len(self._held) > _DEEPEST:
            raise LimitExceeded(f"XML nested deeper than {_DEEPEST}")
        element = _Element(tag, attributes)
        if self._held:
            self._held[-1].parts.append(element)
        else:
            self._size = self._count = 0
        self._held.append(element)
        self._size += sum(map(len, attributes.values()))
        self._count += 1
        yield from self._enter()

    def _text(self, text: str) -> Iterator[Block]:
        if self._held:
            self._held[-1].parts.append(text)
            self._size += len(text)
            yield from self._enter()
        elif not text.isspace():
            here = self._entered[-1]
            yield from self._flush("")
            label = "" if here.labelled or not here.path else f"{here.path}: "
            here.labelled = True
            yield Block(label + text)

    def _end(self) -> Iterator[Block]:
        if not self._held:
            yield from self._flush("")
            if self._entered.pop().labelled:
                yield Block("\n")
            return
        element = self._held.pop()
        if not self._held:
            yield from self._flush(element.tag)
            self._entered[-1].last = element

    def _enter(self) -> Iterator[Block]:
        """Open the outermost element that is held, as long as it is too large."""
        while self._held and (self._size > SMALL or self._count > _NODES):
            outer = self._held.pop(0)
            yield from self._flush(outer.tag)
            parent = self._entered[-1]
            parent.before = outer.tag
            here = _Entered(outer.tag, self._path(outer.tag))
            self._entered.append(here)
            yield from _block(_attributes(here.path, outer.attributes))
            inner = self._held[0] if self._held else None
            for part in outer.parts:
                if isinstance(part, str):
                    if not part.isspace():
                        held, self._held = self._held, []
                        yield from self._text(part)
                        self._held = held
                elif part is not inner:
                    yield from self._flush(part.tag)
                    here.last = part
            self._size, self._count = (inner.size, inner.count) if inner is not None else (0, 0)

    def _flush(self, following: str) -> Iterator[Block]:
        """Give out the latest whole child, now that the tag after it is known."""
        here = self._entered[-1]
        if (element := here.last) is None:
            return
        here.last = None
        repeats = element.tag in (here.before, following)
        here.before = element.tag
        yield from _blocks(element, self._path(element.tag), here.rows, repeats)

    def _path(self, tag: str) -> str:
        """The path of a child of the innermost element that is entered. The root's name is left out."""
        return "" if len(self._entered) == 1 else _below(self._entered[-1].path, tag)


def _blocks(element: _Element, path: str, rows: Counter[str], repeats: bool) -> Iterator[Block]:
    if repeats and element.record:
        rows[element.tag] += 1
        if text := "".join(element.lines("")):
            yield Block(text + "\n", unit=True, metadata={"row": rows[element.tag], "path": path[:200]})
    elif element.record:
        yield from _block(_attributes(path, element.attributes))
        times, inner = Counter(child.tag for child in element.children), Counter[str]()
        for part in element.parts:
            if isinstance(part, str):
                yield from _block(_line(path, part))
            else:
                yield from _blocks(part, _below(path, part.tag), inner, times[part.tag] > 1)
    else:
        yield from _block(element.lines(path))


def _block(lines: Iterable[str]) -> Iterator[Block]:
    if text := "".join(lines):
        yield Block(text)


def _attributes(path: str, attributes: Mapping[str, str]) -> Iterator[str]:
    for name, value in attributes.items():
        yield from _line(_below(path, name), value)


def _line(path: str, text: str) -> Iterator[str]:
    if text := "\n".join(filter(None, map(str.strip, text.splitlines()))):
        yield f"{path}: {text}\n" if path else f"{text}\n"


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
