"""OpenDocument text, presentations (a slide a page) and spreadsheets (a row a unit). Runs isolated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import BinaryIO

from penstock.core.records import Block, Gap, Item
from penstock.parsers.headings import Cells, units
from penstock.parsers.package import Event, Outline, Package, whole

_SPACE = {"tab": "\t", "line-break": "\n"}
_SKIPPED = {"annotation", "tracked-changes", "forms", "styles", "master-styles", "automatic-styles"}
_CELLS = ("table-cell", "covered-table-cell")
_COLUMNS = 1000
"""A sheet's last cell is often said to repeat to its very edge."""


def parse(stream: BinaryIO, item: Item) -> Iterator[Block | Gap]:
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
                event = ("text", "", " " * min(whole(value.get("c"), 1), 100))
            elif kind == "start" and tag in _SPACE:
                event = ("text", "", _SPACE[tag])
            yield event


def _text(events: Iterator[Event], outline: Outline) -> Iterator[Block]:
    words: list[str] = []
    cells: list[str] | None = None
    level, page, inside = 1, 0, 0
    for kind, tag, value in events:
        blocks: Iterator[Block] = iter(())
        if kind == "text":
            if inside:
                words.append(value)
        elif tag in ("p", "h"):
            inside += 1 if kind == "start" else -1
            if kind == "start" and tag == "h":
                level = whole(value.get("outline-level"), 1)
            elif kind == "end":
                text = "".join(words)
                if cells is not None:
                    words.append(" ")
                    continue
                words = []
                blocks = outline.heading(level, text) if tag == "h" else outline.paragraph(text)
        elif tag == "table-row":
            if kind == "end" and cells is not None:
                blocks = outline.paragraph(" | ".join(cells) if any(cells) else "")
            cells = [] if kind == "start" else None
        elif tag == "table-cell" and kind == "end" and cells is not None:
            cells.append(" ".join("".join(words).split()))
            words = []
        elif tag == "page":  # a slide
            blocks = outline.flush()
            page += kind == "start"
        for block in blocks:
            yield replace(block, page=page, unit=True) if page else block
    yield from outline.flush()


def _sheets(events: Iterator[Event]) -> Iterator[Block | Gap]:
    for kind, tag, value in events:
        if kind == "start" and tag == "table":
            yield from units(_rows(events), {"sheet": value.get("name", "")[:200]})


def _rows(events: Iterator[Event]) -> Iterator[Cells]:
    """Those of one sheet, to its end."""
    repeat, wide = 1, 0
    cells: list[str | None] = []
    words: list[str] = []
    for kind, tag, value in events:
        if kind == "text":
            words.append(value)
        elif kind == "start":
            if tag == "table-row":
                cells, wide = [], 0
            elif tag in _CELLS:
                repeat, words = whole(value.get("number-columns-repeated"), 1), []
                if tag == "table-cell":
                    wide = whole(value.get("number-columns-spanned"), 1) - 1
        elif tag in _CELLS:
            text: str | None = "".join(words).strip()
            if tag == "covered-table-cell" and wide > 0 and not text:
                text, wide = None, wide - repeat  # covered from the left, not from above
            cells += [text] * min(repeat, max(0, _COLUMNS - len(cells)))
            words = []
        elif tag == "table-row" and any(cells):
            yield cells
        elif tag == "table":
            return
