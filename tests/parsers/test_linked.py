"""A text with the document that it links to."""

from __future__ import annotations

import io
from typing import Any

import pytest

from penstock.core.errors import ParseError
from penstock.core.records import Block, Gap, Item
from penstock.parsers import Parsers
from penstock.support.linked import MAGIC, Head, pack, unpack
from penstock.testing.hackernews_pages import pdf


def parts(head: Head, content: bytes | None = None, **fields: Any) -> list[Block | Gap]:
    item = Item("doc:1", "", lambda: pack(head, None if content is None else io.BytesIO(content)), **fields)
    with Parsers() as parsers:
        return list(parsers.parse(item).blocks)


def texts(found: list[Block | Gap]) -> str:
    return "".join(block.text for block in found if isinstance(block, Block))


def test_text_comes_before_the_document_and_gives_it_its_heading() -> None:
    page = b"<html><head><title>Own</title></head><body><h1>Part</h1><p>Of the page.</p></body></html>"
    head = Head("Title", "Text", "https://example.org/a")
    found = parts(head, page, metadata={"title": "Title"})
    assert texts(found).split() == ["Title", "Text", "Part", "Of", "the", "page."]
    last = found[-1]
    assert isinstance(last, Block)
    assert last.headings == ("Title", "Part")
    assert dict(last.metadata) == {}  # the item's own title stands for the whole


def test_the_document_is_read_by_the_parser_for_its_type() -> None:
    assert "A line of it" in texts(parts(Head("Title", url="https://example.org/a"), pdf("A line of it")))
    head = Head("Title", url="https://example.org/a.md", media_type="text/markdown")
    assert "# Heading" in texts(parts(head, b"# Heading\n\nText\n"))


def test_a_parser_of_the_users_own_reads_the_document() -> None:
    item = Item("doc:1", "", lambda: pack(Head("Title", url="https://e.org/a"), io.BytesIO(b"<html><p>x</p></html>")))
    with Parsers({"text/html": lambda stream, item: ["mine"]}) as parsers:
        assert texts(list(parsers.parse(item).blocks)) == "Title\n\nmine"


@pytest.mark.parametrize(
    ("head", "content", "cause"),
    [
        (Head("Title", url="https://e.org/a", cause="status 404"), None, "https://e.org/a: status 404"),
        (Head("Title", url="https://e.org/a"), bytes(range(256)), "https://e.org/a: a binary file of unknown type"),
        (Head("Title", url="https://e.org/a"), b"%PDF-1.4 broken", "https://e.org/a: "),
        (Head("Title", url="https://e.org/a"), MAGIC + b"{}\n", "within another one"),
    ],
)
def test_a_document_that_cannot_be_read_is_a_gap(head: Head, content: bytes | None, cause: str) -> None:
    found = parts(head, content)
    assert texts(found) == "Title\n\n"
    (gap,) = (part for part in found if isinstance(part, Gap))
    assert cause in gap.cause


def test_without_a_document_it_is_its_text() -> None:
    assert texts(parts(Head("", "Text"))) == "Text\n\n"
    assert parts(Head()) == []


@pytest.mark.parametrize("wrong", [b"", MAGIC, MAGIC + b"[]\n", MAGIC + b'{"title": 1}\n', MAGIC + b'{"other": ""}\n'])
def test_a_broken_one_is_refused(wrong: bytes) -> None:
    with pytest.raises(ParseError, match="broken"):
        unpack(io.BytesIO(wrong))
