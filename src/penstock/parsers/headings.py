"""A table's rows as units, each value under the heading of its column.

Titles above a table, merged headings and headings over others are recognized, from the first rows alone. Where it is
unclear whether a row is of headings or of data, it is data: as a heading it would not be found.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from penstock.core.records import Block, Gap

Cells = Sequence[str | None]
"""The cells of a row; None for one that the cell to its left covers."""
_LOOK = 12
"""Rows that may stand before the first one of data."""
_NUMBER = re.compile(r"[-+(]?[$€£]?\s?\d[\d.,'\s]*[%)$€£]?")


class Broken(NamedTuple):
    """A row that could not be read."""

    cause: str


class _Head(NamedTuple):
    titles: Sequence[str]
    names: Sequence[str]
    rows: int


def units(rows: Iterable[Cells | Gap | Broken], metadata: Mapping[str, Any]) -> Iterator[Block | Gap]:
    """The blocks of a table. A title goes to the headings of all that follow it; rows are counted without those."""
    rows = iter(rows)
    before, first, after = _first(rows)
    head = _head(first)
    for title in head.titles:
        yield Block(title + "\n\n", unit=True, metadata=metadata)
    number = 0
    for row in chain(before, first[head.rows :], after, rows):
        if isinstance(row, Gap):
            yield row
        elif isinstance(row, Broken):
            yield Gap(f"row {number + 1}: {row.cause}")
            number += 1
        elif any(row):
            number += 1
            if text := labelled(head.names, row):
                yield Block(text, headings=tuple(head.titles), unit=True, metadata={**metadata, "row": number})


def labelled(names: Sequence[str], row: Cells) -> str:
    """A row as text: `column: value` a line, empty ones left out, and a blank line after it."""
    pairs = ((names[n] if n < len(names) else f"column {n + 1}", (value or "").strip()) for n, value in enumerate(row))
    text = "".join(f"{name}: {value}\n" for name, value in pairs if value)
    return text and text + "\n"


def _first(rows: Iterator[Cells | Gap | Broken]) -> tuple[list[Gap | Broken], list[Cells], list[Gap | Broken]]:
    """The first rows that hold anything, up to something that is no row; and what else came before and after them."""
    before: list[Gap | Broken] = []
    first: list[Cells] = []
    for row in rows:
        if isinstance(row, Gap | Broken):
            if first:
                return before, first, [row]
            before.append(row)
        elif any(row):
            first.append(row)
            if len(first) == _LOOK:
                break
    return before, first, []


def _head(rows: Sequence[Cells]) -> _Head:
    at = _titles(rows)
    if at == len(rows):
        return _Head((), (), 0)
    titles = [_filled(row)[0][1] for row in rows[:at]]
    upper, below, third = (rows[n] if n < len(rows) else () for n in (at, at + 1, at + 2))
    spread = None in upper
    two = _over(upper, below, third)
    names: list[str] = []
    above = ""
    for n in range(max(len(upper), len(below)) if two else len(upper)):
        cell = upper[n] if n < len(upper) else ""
        if cell is not None and (cell.strip() or spread or not two):
            above = cell.strip()
        own = ((below[n] if n < len(below) else "") or "").strip() if two else ""
        names.append(" ".join(filter(None, (above, own))) or f"column {n + 1}")
    return _Head(titles, names, at + 1 + two)


def _titles(rows: Sequence[Cells]) -> int:
    """The number of rows at the top that are titles: one cell of several is filled, and beneath are headings."""
    at = 0
    while at < len(rows) - 1 and len(rows[at]) > 1 and len(_filled(rows[at])) == 1:
        at += 1
    if not at or len(columns := _filled(rows[at])) < 2:
        return 0
    covers = None in rows[at - 1] and None not in rows[at]
    if covers or len(columns) > 2 or (at + 1 < len(rows) and _differ(rows[at], rows[at + 1])):
        return at
    return 0


def _over(upper: Cells, below: Cells, third: Cells) -> bool:
    """Whether the upper row is of headings over the headings in the row below it."""
    filled = {n for n, _ in _filled(below)}
    above = {n for n, _ in _filled(upper)}
    bare = {n for n in filled - above if above and n > min(above)}
    if not bare:
        return False
    if None in upper:
        covered = {n for n, cell in enumerate(upper) if cell is None}
        # The first heading is as high as both rows: a row of data seldom begins with an empty cell.
        return covered <= filled and (min(above) not in filled or _differ(below, third))
    return bare <= _numbers(third) and _differ(below, third)


def _differ(heading: Cells, row: Cells) -> bool:
    """Whether there is a number under a text, and no number in the heading."""
    return not _numbers(heading) and not _numbers(row).isdisjoint(n for n, _ in _filled(heading))


def _numbers(row: Cells) -> set[int]:
    return {n for n, value in _filled(row) if _NUMBER.fullmatch(value)}


def _filled(row: Cells) -> list[tuple[int, str]]:
    return [(n, cell.strip()) for n, cell in enumerate(row) if cell and cell.strip()]
