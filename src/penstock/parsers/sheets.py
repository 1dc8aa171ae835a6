"""Excel by calamine: a row a unit, `column: value` a line. Needs the extra `office`; runs isolated."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any, BinaryIO

from python_calamine import CalamineError, CalamineWorkbook, PasswordError

from penstock.core.errors import ParseError
from penstock.core.records import Block, Gap, Item
from penstock.parsers.headings import units
from penstock.parsers.package import Package

_MERGED = 1000
"""Rows in which merged cells are looked for: those of headings."""
_COLUMNS = 16384


def parse(stream: BinaryIO, item: Item) -> Iterator[Block | Gap]:
    if "openxml" in (item.media_type or ""):
        Package(stream).check()
        stream.seek(0)
    try:
        book = CalamineWorkbook.from_filelike(stream)
    except PasswordError:
        raise ParseError("encrypted: a password is needed") from None
    except CalamineError as error:
        raise ParseError(f"not a readable workbook: {error}") from None
    for name in book.sheet_names:
        try:
            rows = _rows(book.get_sheet_by_name(name))
        except CalamineError as error:
            yield Gap(f"sheet {name[:100]}: {error}")
            continue
        yield from units(rows, {"sheet": name[:200]})


def _rows(sheet: Any) -> Iterator[list[str | None]]:
    covered: dict[int, set[int]] = defaultdict(set)
    # A range counts columns from A, a row its cells from the first column that is filled.
    column = sheet.start[1] if sheet.start else 0
    for (top, left), (_, right) in sheet.merged_cell_ranges or ():
        if top < _MERGED and right - left < _COLUMNS:
            covered[top].update(range(left + 1 - column, right + 1 - column))
    for number, cells in enumerate(sheet.iter_rows()):
        row: list[str | None] = [_text(cell) for cell in cells]
        for n in covered.pop(number, ()):
            if 0 <= n < len(row) and not row[n]:
                row[n] = None
        yield row


def _text(cell: object) -> str:
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))  # a workbook knows no other numbers
    return str(cell)
