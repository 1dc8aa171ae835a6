from __future__ import annotations

import csv
import io
import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.errors import ParseError
from penstock.core.records import Block, Gap
from penstock.parsers import tables
from tests.parsers.conftest import Read, item


def rows(parts: list[Block | Gap]) -> list[str]:
    assert all(isinstance(part, Gap) or part.unit for part in parts)
    return [part.text for part in parts if isinstance(part, Block)]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_a_row_is_a_unit_with_its_columns_names(read: Read, delimiter: str) -> None:
    table = [
        ["name", "note"],
        ["Pelton", "high head, low flow; 1|2"],
        ["Kaplan", 'says "hi"\non two lines'],
        ["", ""],
        ["Francis", ""],
    ]
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerows(table)
    assert read(out.getvalue().encode(), "a.csv" if delimiter != "\t" else "a.tsv") == [
        Block("name: Pelton\nnote: high head, low flow; 1|2\n\n", unit=True, metadata={"row": 1}),
        Block('name: Kaplan\nnote: says "hi"\non two lines\n\n', unit=True, metadata={"row": 2}),
        Block("name: Francis\n\n", unit=True, metadata={"row": 3}),
    ]


def test_rows_longer_than_the_header_and_nameless_columns(read: Read) -> None:
    assert rows(read(b"a,,c\n1,2,3,4\n", "a.csv")) == ["a: 1\ncolumn 2: 2\nc: 3\ncolumn 4: 4\n\n"]


def test_a_row_too_long_is_a_gap_and_the_next_ones_are_read(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "LONGEST", 100_000)
    parts = read(b"a,b\n1,2\n" + b"x" * 700_000 + b"\n3,4\n", "a.csv")
    assert rows(parts) == ["a: 1\nb: 2\n\n", "a: 3\nb: 4\n\n"]
    assert sum(isinstance(part, Gap) for part in parts) == 1
    parts = read(b'{"a": 1}\n{"b": "' + b"x" * 700_000 + b'"}\n{"c": 3}\n', "a.jsonl")
    assert rows(parts) == ["a: 1\n\n", "c: 3\n\n"]
    assert sum(isinstance(part, Gap) for part in parts) == 1


def test_a_quote_never_closed_is_a_gap(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "LONGEST", 1000)
    parts = read(b'a,b\n1,"2\n' + b"3,4\n" * 1000, "a.csv")
    assert any(isinstance(part, Gap) for part in parts)
    assert rows(parts)[-1] == "a: 3\nb: 4\n\n"


def test_json_lines_are_flattened(read: Read) -> None:
    record = {
        "title": "Weir",
        "size": {"m": 3, "deep": True},
        "tags": ["a", "b"],
        "parts": [{"n": 1}, {"n": 2}],
        "x": None,
    }
    data = json.dumps(record) + "\n\n" + '"just a string"\n'
    assert read(data.encode(), "a.jsonl") == [
        Block(
            "title: Weir\nsize.m: 3\nsize.deep: true\ntags: a, b\nparts.1.n: 1\nparts.2.n: 2\n\n",
            unit=True,
            metadata={"row": 1},
        ),
        Block("just a string\n\n", unit=True, metadata={"row": 2}),
    ]


def test_a_bad_line_is_a_gap_and_a_file_of_them_an_error(read: Read) -> None:
    parts = read(b'{"a": 1}\n{oops\n' + b"[" * 100_000 + b'\n{"b": "\\ud800"}\n', "a.jsonl")
    assert rows(parts) == ["a: 1\n\n", "b: ?\n\n"]
    assert [isinstance(part, Gap) for part in parts] == [False, True, True, False]
    with pytest.raises(ParseError, match="no line"):
        read(b"not json\nat all\n", "a.jsonl")


@given(
    st.lists(st.text(st.sampled_from('ab"é\n'), max_size=30), max_size=20), st.lists(st.integers(0, 200), max_size=5)
)
def test_lines_do_not_depend_on_where_pieces_are_cut(words: list[str], cuts: list[int]) -> None:
    text = "".join(words)
    bounds = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    pieces = [text[a:b] for a, b in pairwise(bounds)]
    assert list(tables._Rows(iter(pieces), [])) == text.splitlines(keepends=True)


def test_the_text_is_utf8_or_whatever_it_is(read: Read) -> None:
    assert rows(read("Größe;Fluß\n3;Aare\n".encode("utf-16"), "a.csv")) == ["Größe: 3\nFluß: Aare\n\n"]


def test_only_one_gap_of_a_damaged_table(read: Read) -> None:
    parts = list(tables.lines(io.BytesIO(('{"é": 1}\n' * 40_000).encode() + b'{"a": "\xff"}\n'), item(b"")))
    assert sum(isinstance(part, Gap) for part in parts) == 1
