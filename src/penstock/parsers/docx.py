"""Word: paragraphs under their headings, table rows with ` | ` between cells, footnotes at the end. Runs isolated."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

from penstock.core.records import Block, Item
from penstock.parsers.package import Outline, Package, whole

_HEADING = re.compile(r"heading ([1-9])$", re.IGNORECASE)
_SPACE = {"tab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}
_SKIPPED = {"Fallback", "instrText", "del", "moveFrom"}
"""The old form of what stands there already, field codes, and what was deleted or moved away."""


def parse(stream: BinaryIO, item: Item) -> Iterator[Block]:
    package = Package(stream)
    document = next((name for name in sorted(package.names) if re.fullmatch(r"word/document\d*\.xml", name)), "")
    outline = Outline(package.title("docProps/core.xml"))
    levels = _heading_styles(package)
    yield from _body(package, document or "word/document.xml", outline, levels)
    for notes in ("word/footnotes.xml", "word/endnotes.xml"):
        if notes in package.names:
            yield from _body(package, notes, outline, {})
    yield from outline.flush()


def _heading_styles(package: Package) -> dict[str, int]:
    """Levels by style id. Ids are translated with the program, names and outline levels are not."""
    levels: dict[str, int] = {}
    style = ""
    if "word/styles.xml" not in package.names:
        return levels
    for kind, tag, value in package.events("word/styles.xml"):
        if kind != "start":
            continue
        if tag == "style":
            style = value.get("styleId", "")
        elif tag == "name" and (match := _HEADING.match(value.get("val", ""))):
            levels[style] = int(match[1])
        elif tag == "name" and value.get("val", "").lower() == "title":
            levels[style] = 1
        elif tag == "outlineLvl" and (level := whole(value.get("val"), 9)) < 9:
            levels.setdefault(style, level + 1)
    return levels


def _body(package: Package, name: str, outline: Outline, levels: dict[str, int]) -> Iterator[Block]:
    words: list[str] = []
    cells: list[str] = []
    level = tables = skipping = 0
    inside = False
    for kind, tag, value in package.events(name):
        if tag in _SKIPPED:
            skipping += 1 if kind == "start" else -1
        elif skipping:
            continue
        elif kind == "text":
            if inside:
                words.append(value)
        elif tag == "t":
            inside = kind == "start"
        elif kind == "start":
            if tag in _SPACE:
                words.append(_SPACE[tag])
            elif tag == "pStyle":
                level = levels.get(value.get("val", ""), 0)
            elif tag == "outlineLvl" and (outline_level := whole(value.get("val"), -1)) >= 0:
                level = (outline_level + 1) % 10
            elif tag == "tbl":
                tables += 1
            elif tag == "tr" and tables == 1:
                cells = []
        elif tag == "p":
            text, words = "".join(words), []
            if tables:
                words = [text, " "] if text else []
            elif level:
                yield from outline.heading(level, text)
            else:
                yield from outline.paragraph(text)
            level = 0
        elif tag == "tc" and tables == 1:
            cells.append(" ".join("".join(words).split()))
            words = []
        elif tag == "tr" and tables == 1:
            yield from outline.paragraph(" | ".join(cells) if any(cells) else "")
        elif tag == "tbl":
            tables -= 1
