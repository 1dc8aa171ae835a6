"""OpenDocument text, presentations (a slide a page) and spreadsheets (a row a unit). Runs isolated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import BinaryIO

from penstock.core.records import Block, Item
from penstock.parsers.package import Event, Outline, Package
from penstock.parsers.tables import header, labelled

_SPACE = {"tab": "\t", "line-break": "\n"}
_SKIPPED = {"annotation", "tracked-changes", "forms", "styles", "master-styles", "automatic-styles"}
_COLUMNS = 1000
"""A sheet's last cell is often said to repeat to its very edge."""


def parse(stream: BinaryIO, item: Item) -> Iterator[Block]:
    package = Package(stream)
    outline = Outline(package.title("meta.xml"))
    events = _visible(package.events("content.xml"))
    if "opendocument.spreadsheet" in (item.media_type or ""):
        yield from _sheets(events)
    else:
        yield from _text(events, outline)


def _visible(events: Iterator[Event]) -> Iterator[Event]:
    skipping = 0
    for event in events:
        kind, tag, value = event
        if tag in _SKIPPED:
            skipping += 1 if kind == "start" else -1
        elif not skipping:
            if kind == "start" and tag == "s":
                count = value.get("c", "1")
                event = ("text", "", " " * min(int(count) if count.isdigit() else 1, 100))
            elif kind == "start" and tag in _SPACE:
                event = ("text", "", _SPACE[tag])
            yield event


def _text(events: Iterator[Event], outline: Outline) -> Iterator[Block]:
    words: list[str] = []
    cells: list[str] | None = None
    level, page, inside = 1, 0, 0
    for kind, tag, value in events:
        made: Iterator[Block] = iter(())
        if kind == "text":
            if inside:
                words.append(value)
        elif tag in ("p", "h"):
            inside += 1 if kind == "start" else -1
            if kind == "start" and tag == "h":
                said = value.get("outline-level", "1")
                level = int(said) if said.isdigit() else 1
            elif kind == "end":
                text = "".join(words)
                if cells is not None:
                    words.append(" ")
                    continue
                words = []
                made = outline.heading(level, text) if tag == "h" else outline.paragraph(text)
        elif tag == "table-row":
            if kind == "end" and cells is not None:
                made = outline.paragraph(" | ".join(cells) if any(cells) else "")
            cells = [] if kind == "start" else None
        elif tag == "table-cell" and kind == "end" and cells is not None:
            cells.append(" ".join("".join(words).split()))
            words = []
        elif tag == "page":  # a slide
            made = outline.flush()
            page += kind == "start"
        for block in made:
            yield replace(block, page=page, unit=True) if page else block
    yield from outline.flush()


def _sheets(events: Iterator[Event]) -> Iterator[Block]:
    sheet, number, repeat = "", 0, 1
    names: list[str] = []
    cells: list[str] = []
    words: list[str] = []
    for kind, tag, value in events:
        if kind == "text":
            words.append(value)
        elif kind == "start":
            if tag == "table":
                sheet, number, names = value.get("name", "")[:200], 0, []
            elif tag == "table-row":
                cells = []
            elif tag in ("table-cell", "covered-table-cell"):
                said = value.get("number-columns-repeated", "1")
                repeat, words = int(said) if said.isdigit() else 1, []
        elif tag in ("table-cell", "covered-table-cell"):
            cells += ["".join(words).strip()] * min(repeat, max(0, _COLUMNS - len(cells)))
            words = []
        elif tag == "table-row" and any(cells):
            if not names:
                names = header(cells)
                continue
            number += 1
            yield Block(labelled(names, cells), unit=True, metadata={"sheet": sheet, "row": number})
