"""Excel by calamine: a row a unit, `column: value` a line. Needs the extra `office`; runs isolated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from python_calamine import CalamineError, CalamineWorkbook, PasswordError

from penstock.core.errors import ParseError
from penstock.core.records import Block, Gap, Item
from penstock.parsers.package import Package
from penstock.parsers.tables import header, labelled


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
            rows = book.get_sheet_by_name(name).iter_rows()
        except CalamineError as error:
            yield Gap(f"sheet {name[:100]}: {error}")
            continue
        names: list[str] = []
        number = 0
        for cells in rows:
            row = [_text(cell) for cell in cells]
            if not any(row):
                continue
            if not names:
                names = header(row)
                continue
            number += 1
            yield Block(labelled(names, row), unit=True, metadata={"sheet": name[:200], "row": number})


def _text(cell: object) -> str:
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))  # a workbook knows no other numbers
    return str(cell)
