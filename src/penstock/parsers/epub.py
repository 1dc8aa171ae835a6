"""EPUB: chapters in the order of the spine, under their headings. Runs isolated."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from typing import BinaryIO

from penstock.core.errors import ParseError
from penstock.core.records import Block, Gap, Item
from penstock.parsers.html import blocks, declared
from penstock.parsers.package import Package, resolved
from penstock.parsers.text import decode


def parse(stream: BinaryIO, item: Item) -> Iterator[Block | Gap]:
    package = Package(stream)
    book = _book(package)
    metadata = package.title(book)
    for chapter in _spine(package, book):
        try:
            page = package.read(chapter)
            yield from blocks(decode(page, declared(page)), metadata, everything=True)
        except ParseError as error:
            yield Gap(f"{chapter[:100]}: {error}")


def _book(package: Package) -> str:
    for kind, tag, value in package.events("META-INF/container.xml"):
        if kind == "start" and tag == "rootfile" and value.get("full-path"):
            return str(value["full-path"])
    raise ParseError("the container names no book")


def _spine(package: Package, book: str) -> list[str]:
    chapters: dict[str, str] = {}
    order: dict[str, None] = {}
    """Each once: a few kilobytes could name a chapter thousands of times."""
    for kind, tag, value in package.events(book):
        if kind == "start" and tag == "item" and "html" in value.get("media-type", ""):
            chapters[value.get("id", "")] = resolved(posixpath.dirname(book), value.get("href", ""))
        elif kind == "start" and tag == "itemref":
            order[value.get("idref", "")] = None
    return [chapters[id] for id in order if id in chapters]
