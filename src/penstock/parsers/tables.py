"""Tables, a row at a time: each row a unit of its own, `column: value` a line, with its number in the metadata."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from penstock.core.errors import ParseError
from penstock.core.records import NOTHING, Block, Gap, Item
from penstock.parsers.headings import Broken, units
from penstock.parsers.text import BLOCK, charset, cut, decoded

LONGEST = 16 << 20
"""The most characters of a row."""
_SAMPLE = 1 << 16
_DEEPEST = 50


def separated(stream: BinaryIO, item: Item) -> Iterator[Block | Gap]:
    """CSV and TSV: the delimiter is detected, quoted line feeds are part of a value, the first rows are headings."""
    gaps: list[Gap] = []
    rows = _Rows(decoded(stream, charset(item)), gaps)
    sample = rows.sample()
    tabs = (item.media_type or "").startswith("text/tab")
    delimiter = "\t" if tabs else _delimiter(sample)
    csv.field_size_limit(LONGEST)  # the module knows one limit only, of 128 KiB; every row is bounded here
    yield from units(_records(csv.reader(rows, delimiter=delimiter), gaps), NOTHING)


def _records(reader: Iterator[list[str]], gaps: list[Gap]) -> Iterator[list[str] | Gap | Broken]:
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            yield Broken(str(error))
            continue
        yield from gaps
        gaps.clear()
        if row is None:
            return
        yield row


def lines(stream: BinaryIO, item: Item) -> Iterator[Block | Gap]:
    """JSON lines: an object's fields, those within others as `outer.inner`."""
    gaps: list[Gap] = []
    good = number = 0
    for line in _Rows(decoded(stream, charset(item)), gaps):
        yield from gaps
        gaps.clear()
        if not line.strip():
            continue
        number += 1
        try:
            value = json.loads(line)
            text = "".join(f"{name}: {value}\n" if name else f"{value}\n" for name, value in flat("", value))
        except (ValueError, RecursionError) as error:
            yield Gap(f"row {number}: not valid JSON: {error}"[:200])
            continue
        good += 1
        if text:
            yield Block(text + "\n", unit=True, metadata={"row": number})
    yield from gaps
    if number and not good:
        raise ParseError("no line of it is valid JSON")


def joined(blocks: Iterator[Block]) -> Iterator[Block]:
    """Blocks of lines that follow each other as one; units as they are. What came before an error comes before it."""
    texts: list[str] = []
    size = 0
    failed: Exception | None = None
    try:
        for block in blocks:
            if not block.unit:
                texts.append(block.text)
                size += len(block.text)
            if texts and (block.unit or size > BLOCK // 4):
                yield from map(Block, cut("".join(texts)))
                texts, size = [], 0
            if block.unit:
                yield block
    except Exception as error:
        failed = error
    if texts:
        yield from map(Block, cut("".join(texts)))
    if failed is not None:
        raise failed


class _Rows:
    """Lines of a text that comes in pieces. One that is longer than LONGEST is left out, with a Gap."""

    def __init__(self, texts: Iterator[str | Gap], gaps: list[Gap]) -> None:
        self._texts, self._gaps = texts, gaps
        self._waiting: list[str] = []

    def sample(self) -> str:
        for text in self._texts:
            if isinstance(text, Gap):
                self._gaps.append(text)
                continue
            self._waiting.append(text)
            break
        return "".join(self._waiting)[:_SAMPLE]

    def __iter__(self) -> Iterator[str]:
        parts: list[str] = []
        held, skipping = 0, False
        for text in self._pieces():
            first = True
            for line in io.StringIO(text):
                ended = line.endswith("\n")
                if skipping:
                    skipping = not ended
                elif (first and parts) or not ended:
                    parts.append(line)
                    held += len(line)
                    if held > LONGEST:
                        self._gaps.append(Gap(f"a row of more than {LONGEST >> 20} MiB was left out"))
                        parts, held, skipping = [], 0, not ended
                    elif ended:
                        yield "".join(parts)
                        parts, held = [], 0
                else:
                    yield line
                first = False
        if parts:
            yield "".join(parts)

    def _pieces(self) -> Iterator[str]:
        yield from self._waiting
        self._waiting = []
        for text in self._texts:
            if isinstance(text, Gap):
                self._gaps.append(text)
            else:
                yield text


def _delimiter(sample: str) -> str:
    """The one that cuts the first lines into equally many fields, the more the better."""
    complete = sample[: sample.rfind("\n") + 1] or sample
    plain = re.sub(r'"(?:[^"]|"")*"', "", complete)
    counts = {mark: [line.count(mark) for line in plain.splitlines()[:50] if line] for mark in ",;\t|"}

    def score(mark: str) -> tuple[float, int]:
        of = counts[mark]
        usual = max(set(of), key=of.count) if of else 0
        return (of.count(usual) / len(of) if usual else 0.0, usual)

    return max(counts, key=score)


def flat(name: str, value: Any, depth: int = 0) -> Iterator[tuple[str, str]]:
    """Name and text of each value within a value, names joined by dots; deeper than _DEEPEST the JSON itself."""
    if isinstance(value, dict) and depth < _DEEPEST:
        for key, inner in value.items():
            yield from flat(f"{name}.{key}" if name else key, inner, depth + 1)
    elif isinstance(value, list) and depth < _DEEPEST and any(isinstance(inner, dict | list) for inner in value):
        for n, inner in enumerate(value, 1):
            yield from flat(f"{name}.{n}" if name else str(n), inner, depth + 1)
    elif isinstance(value, list) and depth < _DEEPEST:
        if text := ", ".join(str(inner) for inner in value if inner is not None):
            yield name, text
    elif isinstance(value, bool):
        yield name, "true" if value else "false"
    elif isinstance(value, dict | list):
        yield name, json.dumps(value, ensure_ascii=False)
    elif value is not None and value != "":
        yield name, str(value)
