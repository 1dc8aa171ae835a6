"""PowerPoint: a slide is a page and a unit, its title the heading, its notes after it. Runs isolated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from penstock.core.errors import ParseError
from penstock.core.records import Block, Gap, Item
from penstock.parsers.package import Package

_MAIN = "ppt/presentation.xml"


def parse(stream: BinaryIO, item: Item) -> Iterator[Block | Gap]:
    package = Package(stream)
    metadata = package.title("docProps/core.xml")
    targets = package.relations(_MAIN)
    ids = [value.get("r:id", "") for kind, tag, value in package.events(_MAIN) if kind == "start" and tag == "sldId"]
    for page, name in enumerate((targets.get(id, "") for id in ids), 1):
        try:
            title, text = _slide(package, name)
            for notes in package.relations(name).values():
                if "/notesSlides/" in notes:
                    text += _slide(package, notes, notes=True)[1]
        except ParseError as error:
            yield Gap(f"slide {page}: {error}", page)
            continue
        yield Block(text and text + "\n", page=page, headings=(title,) if title else (), unit=True, metadata=metadata)


def _slide(package: Package, name: str, *, notes: bool = False) -> tuple[str, str]:
    """Title and text, shape by shape. Of a page of notes the body only: the rest is a picture of the slide."""
    title, text = "", []
    words: list[str] = []
    kind_of_shape = ""
    inside = False
    for kind, tag, value in package.events(name):
        if kind == "text":
            if inside:
                words.append(value)
        elif tag == "t":
            inside = kind == "start"
        elif kind == "start" and tag == "sp":
            kind_of_shape = ""
        elif kind == "start" and tag == "ph":
            kind_of_shape = value.get("type", "")
        elif kind == "start" and tag in ("br", "tab"):
            words.append(" ")
        elif kind == "end" and tag == "p":
            line, words = " ".join("".join(words).split()), []
            if not line or kind_of_shape in ("sldNum", "dt", "ftr") or (notes and kind_of_shape != "body"):
                continue
            if kind_of_shape in ("title", "ctrTitle") and not title:
                title = line[:200]
            text.append(line + "\n")
    return title, "".join(text)
