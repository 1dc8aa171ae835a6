"""Which heading applies to a column: merged cells, titles, and headings over others."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.core.records import Block, Gap
from tests.parsers.conftest import Read

MAIN = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
Table = list[list[str]]


def csv_of(rows: Table) -> bytes:
    return "".join(",".join(row) + "\n" for row in rows).encode()


def xlsx_of(make: Any, rows: Table, merged: list[str], column: int = 0) -> bytes:
    def cell(number: int, row: int, value: str) -> str:
        where = f'r="{chr(65 + number + column)}{row}"'
        if value.isdigit():
            return f"<c {where}><v>{value}</v></c>"
        return f'<c {where} t="inlineStr"><is><t>{value}</t></is></c>' if value else ""

    data = "".join(
        f'<row r="{n}">{"".join(cell(i, n, value) for i, value in enumerate(row))}</row>'
        for n, row in enumerate(rows, 1)
    )
    ranges = "".join(f'<mergeCell ref="{each}"/>' for each in merged)
    sheet = f'<worksheet {MAIN}><sheetData>{data}</sheetData><mergeCells count="{len(merged)}">{ranges}</mergeCells></worksheet>'  # noqa: E501
    relation = '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="rId1" Type="{}" Target="{}"/></Relationships>'  # noqa: E501
    return make.package(  # type: ignore[no-any-return]
        {
            "[Content_Types].xml": '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>',
            "_rels/.rels": relation.format(make.R + "/officeDocument", "xl/workbook.xml"),
            "xl/workbook.xml": f'<workbook {MAIN} xmlns:r="{make.R}"><sheets><sheet name="S" sheetId="1" r:id="rId1"/></sheets></workbook>',  # noqa: E501
            "xl/_rels/workbook.xml.rels": relation.format(make.R + "/worksheet", "worksheets/sheet1.xml"),
            "xl/worksheets/sheet1.xml": sheet,
        }
    )


def ods_of(make: Any, rows: list[str]) -> bytes:
    inner = "".join(f"<table:table-row>{row}</table:table-row>" for row in rows)
    return make.odf("spreadsheet", f'<table:table table:name="S">{inner}</table:table>')  # type: ignore[no-any-return]


def cell(text: str, wide: int = 1) -> str:
    span = f' table:number-columns-spanned="{wide}"' if wide > 1 else ""
    covered = "<table:covered-table-cell/>" * (wide - 1)
    return f"<table:table-cell{span}><text:p>{text}</text:p></table:table-cell>{covered}"


def texts(parts: list[Block | Gap]) -> list[str]:
    return [part.text for part in parts if isinstance(part, Block)]


GROUPS = [["Site", "Flow", "", "Head", ""], ["", "min", "max", "min", "max"], ["Aare", "1", "2", "3", "4"]]
GROUPED = ["Site: Aare\nFlow min: 1\nFlow max: 2\nHead min: 3\nHead max: 4\n\n"]


def test_headings_over_headings(read: Read, make: Any) -> None:
    assert texts(read(csv_of(GROUPS), "a.csv")) == GROUPED
    merged = ["A1:A2", "B1:C1", "D1:E1"]
    assert texts(read(xlsx_of(make, GROUPS, merged), "a.xlsx")) == GROUPED
    assert texts(read(xlsx_of(make, GROUPS, ["C1:C2", "D1:E1", "F1:G1"], column=2), "a.xlsx")) == GROUPED
    first = "<table:table-cell/>" + cell("min") + cell("max") + cell("min") + cell("max")
    data = "".join(map(cell, GROUPS[2]))
    ods = ods_of(make, [cell("Site") + cell("Flow", 2) + cell("Head", 2), first, data])
    assert texts(read(ods, "a.ods")) == GROUPED


def test_a_title_over_the_table_is_no_heading_of_its_first_column(read: Read, make: Any) -> None:
    rows = [["Flows of 2024", "", ""], ["Site", "min", "max"], ["Aare", "1", "2"]]
    expected = ["Flows of 2024\n\n", "Site: Aare\nmin: 1\nmax: 2\n\n"]
    for parts in (
        read(csv_of(rows), "a.csv"),
        read(xlsx_of(make, rows, ["A1:C1"]), "a.xlsx"),
        read(ods_of(make, [cell("Flows of 2024", 3), *("".join(map(cell, row)) for row in rows[1:])]), "a.ods"),
    ):
        assert texts(parts) == expected
        last = parts[-1]
        assert isinstance(last, Block)
        assert last.headings == ("Flows of 2024",)
        assert last.metadata["row"] == 1


def test_a_merged_heading_without_others_beneath_is_that_of_all_its_columns(read: Read, make: Any) -> None:
    rows = [["Name", "", "Age"], ["Ada", "Lovelace", "36"], ["Alan", "Turing", "41"]]
    expected = ["Name: Ada\nName: Lovelace\nAge: 36\n\n", "Name: Alan\nName: Turing\nAge: 41\n\n"]
    assert texts(read(xlsx_of(make, rows, ["A1:B1"]), "a.xlsx")) == expected
    ods = ods_of(make, [cell("Name", 2) + cell("Age"), *("".join(map(cell, row)) for row in rows[1:])])
    assert texts(read(ods, "a.ods")) == expected


def test_a_row_of_data_beneath_a_merged_heading_is_no_heading(read: Read, make: Any) -> None:
    rows = [["Name", "", "City"], ["Ada", "Lovelace", ""], ["Alan", "Turing", "Wilmslow"]]
    assert texts(read(xlsx_of(make, rows, ["A1:B1"]), "a.xlsx")) == [
        "Name: Ada\nName: Lovelace\n\n",
        "Name: Alan\nName: Turing\nCity: Wilmslow\n\n",
    ]


def test_years_are_headings_beneath_a_merged_one(read: Read, make: Any) -> None:
    rows = [["Product", "Sales", ""], ["", "2023", "2024"], ["Pump", "5", "6"]]
    assert texts(read(xlsx_of(make, rows, ["A1:A2", "B1:C1"]), "a.xlsx")) == [
        "Product: Pump\nSales 2023: 5\nSales 2024: 6\n\n"
    ]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([["a", "", "c"], ["x", "y", "z"]], ["a: x\ncolumn 2: y\nc: z\n\n"]),
        ([["a", "", "c"], ["1", "2", "3"]], ["a: 1\ncolumn 2: 2\nc: 3\n\n"]),
        ([["name"], ["Ada"], ["Alan"]], ["name: Ada\n\n", "name: Alan\n\n"]),
        ([["", "a"], ["0", "x"]], ["column 1: 0\na: x\n\n"]),
        ([["name", "note"], ["Ada", ""], ["Alan", "x"]], ["name: Ada\n\n", "name: Alan\nnote: x\n\n"]),
        ([["a", "", "c"], ["x", "y", ""], ["p", "q", "5"]], ["a: x\ncolumn 2: y\n\n", "a: p\ncolumn 2: q\nc: 5\n\n"]),
        (
            [["a", "", "c"], ["x", "y", "-"], ["p", "q", "5"]],
            ["a: x\ncolumn 2: y\nc: -\n\n", "a: p\ncolumn 2: q\nc: 5\n\n"],
        ),
        ([["only", "headings"]], []),
        ([], []),
    ],
)
def test_plain_tables_are_as_they_were(read: Read, rows: Table, expected: list[str]) -> None:
    assert texts(read(csv_of(rows) or b"\n", "a.csv")) == expected
