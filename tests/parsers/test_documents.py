from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import pytest

from penstock.core.errors import LimitExceeded, ParseError
from penstock.core.records import Block, Gap
from penstock.parsers import Parsers, html, pdf
from tests.parsers.conftest import Read, item, text_of


def headings(parts: list[Block | Gap]) -> list[tuple[str, ...]]:
    return [part.headings for part in parts if isinstance(part, Block)]


def test_the_documents_are_what_the_script_makes(make: Any, documents: Path) -> None:
    assert {path.name for path in documents.iterdir()} == set(make.DOCUMENTS)
    for name, maker in make.DOCUMENTS.items():
        assert (documents / name).read_bytes() == maker(), name


# ---------------------------------------------------------------- PDF


def test_pdf_pages_are_numbered(read: Read, documents: Path) -> None:
    title = {"title": "Pumps"}
    assert read(documents / "pumps.pdf") == [
        Block("The first page is about pumps.\nIt has two lines.\n\n", page=1, metadata=title),
        Block("The second page is about valves “quoted”.\n\n", page=2, metadata=title),
        Block("Third.\n\n", page=3, metadata=title),
    ]


def test_pdf_without_a_path_is_the_same(read: Read, documents: Path) -> None:
    path = documents / "pumps.pdf"
    assert read(path.read_bytes(), "a.txt") == read(path)


def test_pdf_text_is_tidied() -> None:
    assert pdf.tidy("ﬁne eﬃcient exam\x02\nple x² \r\nnext\0 line") == "fine efficient example x² \nnext line"


def test_pdf_of_scans_says_that_it_needs_ocr(read: Read, documents: Path) -> None:
    assert read(documents / "scan.pdf") == [Gap("no text layer; 2 pages need OCR")]


def test_pdf_encrypted(read: Read, documents: Path) -> None:
    with pytest.raises(ParseError, match=r"^encrypted"):
        read(documents / "encrypted.pdf")


def test_pdf_truncated_anywhere_is_an_error_or_a_part(read: Read, make: Any) -> None:
    data = make.pdf(["page " + "word " * 50] * 5)
    for end in (9, 200, len(data) // 2, len(data) - 30):
        try:
            parts = read(data[:end], "a.pdf")
        except ParseError:
            continue
        assert len(text_of(parts)) <= 5 * 300


def test_pdf_with_a_page_of_rubbish_keeps_the_others(read: Read, make: Any) -> None:
    data = make.pdf(["one", "two", "three"], streams={1: (b"\xff\0rubbish", "/FlateDecode")})
    assert text_of(read(data, "a.pdf")) == "one\n\nthree\n\n"


def test_pdf_flate_bomb_ends_at_the_limit_of_memory(make: Any) -> None:
    bomb = make.flate_bomb(400_000_000)
    assert len(bomb) < 20_000
    with Parsers(timeout=3, memory=200 << 20) as parsers:
        with pytest.raises(ParseError):
            list(parsers.parse(item(bomb, "bomb.pdf")).blocks) and pytest.fail("the bomb was defused")
        assert text_of(list(parsers.parse(item(make.pdf(["next"]), "next.pdf")).blocks)) == "next\n\n"


# ---------------------------------------------------------------- HTML

BOILED = (
    "<html><head><title> On\n pumps </title><style>p{{}}</style></head><body><nav><a href=/>Home</a><a href=/x>Shop</a></nav>"  # noqa: E501
    "<main><article><h1>Pumps &amp; valves</h1><p>{long}</p><h2>Seals <i>matter</i></h2><p>If a &lt; b, {long}</p>"
    "<pre>x = 1\n  y</pre></article></main><footer>Imprint</footer><script>alert(1)</script></body></html>"
).format(long="A pump lifts water from the low basin into the high one, where it waits. " * 5)


def test_html_main_content_under_its_headings(read: Read) -> None:
    parts = read(BOILED.encode(), "a.html")
    assert headings(parts) == [("Pumps & valves",), ("Pumps & valves", "Seals matter")]
    text = text_of(parts)
    assert "If a < b, A pump" in text
    assert "x = 1\n  y" in text
    assert all(word not in text for word in ("Home", "Shop", "Imprint", "alert", "<p>"))
    assert all(isinstance(part, Block) and part.metadata == {"title": "On pumps"} for part in parts)


def test_html_of_few_words_is_read_whole(read: Read) -> None:
    assert "only a line" in text_of(read(b"<html><div>only a line</div></html>", "a.html"))


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "iso-8859-2", "shift_jis", "utf-16"])
def test_html_charset_by_meta(read: Read, encoding: str) -> None:
    word = {"iso-8859-2": "Łódź", "shift_jis": "水はダム"}.get(encoding, "Flüße")
    page = f'<html><head><meta charset="{encoding}"></head><body><p>{word}</p></body></html>'
    assert text_of(read(page.encode(encoding), "a.html")).strip() == word


def test_html_charset_by_the_server_goes_before_meta(read: Read) -> None:
    page = '<html><meta charset="utf-8"><p>Łódź</p></html>'.encode("iso-8859-2")
    assert text_of(read(page, "a", "text/html; charset=ISO-8859-2")).strip() == "Łódź"


@pytest.mark.parametrize("tag", ["div", "b", "ul", "table", "x-y"])
def test_html_nested_200_000_deep(read: Read, tag: str) -> None:
    parts = read(
        b"<html><body>" + f"<{tag}>".encode() * 200_000 + b"deep down" + f"</{tag}>".encode() * 200_000, "a.html"
    )
    assert "deep down" in text_of(parts)


def test_html_shallow_keeps_pages_as_they_are() -> None:
    page = "<html>" + "<div><p>a<br>b<p>c</div>" * 2000 + "</html>"
    assert html.shallow(page) == page
    deep = "<div>" * 1000 + "x" + "</div>" * 1000 + "<p>after</p>"
    assert html.shallow(deep).count("<div>") == html.shallow(deep).count("</div>") == html.DEEPEST


# ---------------------------------------------------------------- office, books, mail


def test_docx(read: Read, documents: Path) -> None:
    parts = read(documents / "pumps.docx")
    assert headings(parts) == [("Pumps",), ("Pumps", "Impellers"), ("Valves",)]
    assert text_of(parts) == (
        "Pumps\n\nA pump lifts water & oil.\n\nImpellers\n\nThey spin.\n\npart | price\n\nseal | 12\n\nValves\n\nA valve stops it.\n\n"  # noqa: E501
    )
    assert parts[0].metadata == {"title": "On pumps"}  # type: ignore[union-attr]


def test_pptx(read: Read, documents: Path) -> None:
    metadata = {"title": "Hydraulics"}
    assert read(documents / "slides.pptx") == [
        Block("Head\nSay hello.\n\n", page=1, headings=("Head",), unit=True, metadata=metadata),
        Block("Losses\nFriction.\n\n", page=2, headings=("Losses",), unit=True, metadata=metadata),
    ]


def test_odt(read: Read, documents: Path) -> None:
    parts = read(documents / "dams.odt")
    assert headings(parts) == [("Dams",), ("Dams", "Spillways")]
    assert text_of(parts) == "Dams\n\nA dam  holds water.\n\nheight | 30 m\n\nSpillways\n\nThey let it go.\n\n"


def test_odp(read: Read, documents: Path) -> None:
    parts = read(documents / "slides.odp")
    assert [(part.page, part.text, part.unit) for part in parts if isinstance(part, Block)] == [
        (1, "First slide\n\n", True),
        (2, "Second\n\n", True),
    ]


def test_sheets(read: Read, documents: Path) -> None:
    assert read(documents / "flows.ods") == [
        Block("river: Aare\nm3/s: 560\n\n", unit=True, metadata={"sheet": "Flows", "row": 1})
    ]
    assert [part.text for part in read(documents / "turbines.xlsx") if isinstance(part, Block)] == [
        "name: Francis\nkW: 700\n\n",
        "name: Pelton\nkW: 420.5\n\n",
    ]


def test_epub(read: Read, documents: Path) -> None:
    parts = read(documents / "weir.epub")
    assert headings(parts) == [("Upstream",), ("Downstream",)]
    assert "It roars." in text_of(parts)
    assert parts[0].metadata == {"title": "The Weir"}  # type: ignore[union-attr]


def test_mail(read: Read, documents: Path) -> None:
    parts = read(documents / "gate.eml")
    assert text_of(parts) == "The gate is geöffnet\n\nWater flows at 3 m³/s."
    assert parts[1].metadata == {  # type: ignore[union-attr]
        "subject": "The gate is geöffnet",
        "from": "Ada <ada@example.org>",
        "to": "Bob <bob@example.org>",
        "date": "Mon, 02 Nov 2026 10:00:00 +0000",
        "attachments": ["plan.pdf"],
    }


def test_mail_of_html_alone(read: Read) -> None:
    mail = (
        b"From: a\nSubject: S\nDate: d\nContent-Type: text/html; charset=utf-8\n\n<h1>Hi</h1><p>Gr\xc3\xbc\xc3\x9fe</p>"
    )
    parts = read(mail, "a.eml")
    assert text_of(parts) == "S\n\nHi\n\nGrüße\n\n"
    assert headings(parts)[-1] == ("S", "Hi")


def test_outlook(read: Read, documents: Path) -> None:
    parts = read(documents / "gate.msg")
    assert text_of(parts) == "Gate opened\n\nThe gate is open.\nWater flows."
    assert parts[0].metadata["subject"] == "Gate opened"  # type: ignore[union-attr]
    assert parts[0].headings == ("Gate opened",)  # type: ignore[union-attr]


def test_rtf(read: Read, documents: Path) -> None:
    assert text_of(read(documents / "rich.rtf")) == "Rich text with é accents.\nSecond."


@pytest.mark.parametrize("name", ["pumps.docx", "slides.pptx", "dams.odt", "flows.ods", "weir.epub", "turbines.xlsx"])
def test_packages_cut_off_are_errors(name: str, read: Read, documents: Path) -> None:
    data = (documents / name).read_bytes()
    for end in (60, len(data) // 2, len(data) - 25):
        with pytest.raises(ParseError):
            read(data[:end], name)


def test_zip_bomb(read: Read, make: Any) -> None:
    bomb = make.docx(make._paragraph("a" * 50_000_000))
    assert len(bomb) < 100_000
    with pytest.raises(LimitExceeded, match="would unpack to"):
        read(bomb, "bomb.docx")


def test_zip_bomb_in_a_workbook(read: Read, make: Any, documents: Path) -> None:
    with pytest.raises(LimitExceeded, match="would unpack to"):
        read(make.package({"xl/workbook.xml": b" " * 50_000_000}), "bomb.xlsx")


def test_billion_laughs(read: Read, make: Any) -> None:
    entities = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    xml = f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY l0 "ha">{entities}]><w:document {make.W}><w:p><w:t>&l9;</w:t></w:p></w:document>'  # noqa: E501
    with pytest.raises(ParseError, match="document type declaration"):
        read(make.package({"word/document.xml": xml}), "laughs.docx")


def test_xml_nested_without_end(read: Read, make: Any) -> None:
    body = "".join(f"<w:x{n}>" for n in range(3000))
    with pytest.raises(LimitExceeded, match="nested"):
        read(make.docx(body), "deep.docx")


def test_damaged_member(read: Read, make: Any, documents: Path) -> None:
    data = bytearray((documents / "pumps.docx").read_bytes())
    at = data.find(b"word/document.xml") + 40
    data[at : at + 50] = zlib.compress(b"other")[:10] * 5
    with pytest.raises(ParseError):
        read(bytes(data), "pumps.docx")
