"""Parsers of the user's own: which files they are called for, and what they may yield."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

import pytest

from penstock.core.errors import ParseError, UsageError
from penstock.core.records import Block, Gap, Item
from penstock.parsers import Parsers
from tests.parsers.conftest import item


def mark(stream: BinaryIO, item: Item) -> Iterator[str]:
    yield f"mine: {item.media_type}"


def parsed(own: dict[str, Any], data: bytes, name: str, hint: str | None = None) -> list[Block | Gap]:
    with Parsers(own, isolate=False) as parsers:
        return list(parsers.parse(item(data, name, hint)).blocks)


@pytest.mark.parametrize(
    ("media_type", "data", "name", "hint"),
    [
        ("text/x-log", b"a line\n", "server.log", None),
        ("text/x-log", b"a line\n", "server.LOG", "text/plain"),
        ("text/log", b"a line\n", "server.log", None),
        ("application/x-acme", b"\0\1\2\3" * 99, "a.acme", None),
        ("application/vnd.acme", b"\0\1\2\3" * 99, "a", "application/vnd.acme; v=1"),
        ("text/x-log", b"a line\n", "server", "Text/X-Log"),
        ("image/x-raw", b"\0\1\2\3" * 99, "a.raw", None),
        ("application/json", b"{}", "a.json", None),
        ("text/*", b"a line\n", "server.log", None),
    ],
)
def test_a_parser_is_called_for_files_with_its_extension(
    media_type: str, data: bytes, name: str, hint: str | None
) -> None:
    (block,) = parsed({media_type: mark}, data, name, hint)
    assert isinstance(block, Block)
    assert block.text.startswith("mine: ")
    if "*" not in media_type:
        assert block.text == f"mine: {media_type}"


def test_other_files_are_read_as_before() -> None:
    assert parsed({"text/x-log": mark}, b"a line\n", "a.txt") == [Block("a line\n")]
    assert parsed({}, b"a line\n", "a.log") == [Block("a line\n")]
    # What the content says is stronger than a name.
    assert parsed({"text/x-log": mark}, b"<!doctype html><p>hi", "a.log") != parsed({"*": mark}, b"hi", "a.log")


@pytest.mark.parametrize(
    ("media_type", "near"),
    [
        ("text/x-py", "text/x-python"),
        ("text/python", "text/x-python"),
        ("text/yaml", "text/x-yaml"),
        ("text/json", "application/json"),
        ("text/xml", "application/xml"),
        ("image/jpg", "image/jpeg"),
        ("application/x-pdf", "application/pdf"),
        ("textplain", "text/plain"),
        ("Text/Plain", "text/plain"),
        ("text/", "text/"),
        ("*/*", "*"),
        ("texts/*", "text/*"),
        ("text/x-*", "text/x-"),
    ],
)
def test_a_media_type_that_no_file_has_is_refused_with_the_nearest(media_type: str, near: str) -> None:
    with pytest.raises(UsageError, match="would never be called") as caught:
        Parsers({media_type: mark})
    assert near in str(caught.value).rpartition(": use ")[2]


@pytest.mark.parametrize("media_type", ["text/x-log", "*", "image/*", "image/png", "audio/x-foo", "text/x-python"])
def test_a_media_type_that_some_file_has_is_taken(media_type: str) -> None:
    Parsers({media_type: mark}).close()


@pytest.mark.parametrize(
    ("part", "says"),
    [
        (Block("a", headings=None), "Block with headings=None: expected a tuple of str"),  # type: ignore[arg-type]
        (Block("a", headings=["A"]), "headings=.*tuple of str"),  # type: ignore[arg-type]
        (Block("a", headings=("A", 1)), "headings=.*tuple of str"),  # type: ignore[arg-type]
        (Block("a", page="iv"), "Block with page='iv': expected an int or None"),  # type: ignore[arg-type]
        (Block("a", page=True), "page=True"),
        (Block(b"a"), "text=b'a': expected a str"),  # type: ignore[arg-type]
        (Block(None), "text=None"),  # type: ignore[arg-type]
        (Block("a", image="b"), "image='b': expected bytes"),  # type: ignore[arg-type]
        (Block("a", unit=1), "unit=1: expected a bool"),  # type: ignore[arg-type]
        (Block("a", metadata=None), "metadata=None"),  # type: ignore[arg-type]
        (Block("a", metadata={1: "x"}), "metadata="),  # type: ignore[dict-item]
        (Block("a", metadata={"x": {"y": [object()]}}), "metadata="),
        (Gap(None), "Gap with cause=None"),  # type: ignore[arg-type]
        (Gap("x", page="iv"), "Gap with page='iv'"),  # type: ignore[arg-type]
        (b"bytes", "yielded a bytes: expected a Block, Gap or str"),
    ],
)
def test_what_is_wrong_with_a_block_names_parser_and_field(part: Any, says: str) -> None:
    def odd(stream: BinaryIO, item: Item) -> Iterator[Any]:
        yield "good"
        yield part

    with pytest.raises(
        ParseError, match=f"the parser .*odd yielded a .*{says}".replace("yielded a .*yielded", "yielded")
    ):
        parsed({"text/plain": odd}, b"x", "a.txt")


def test_good_metadata_of_any_json_is_taken() -> None:
    metadata = {"a": None, "b": [1, 2.5, {"c": (True, "x")}], "d": {}}

    def good(stream: BinaryIO, item: Item) -> Iterator[Block]:
        yield Block("a", page=3, headings=("A",), unit=True, metadata=metadata)

    assert parsed({"text/plain": good}, b"x", "a.txt") == [
        Block("a", page=3, headings=("A",), unit=True, metadata=metadata)
    ]


def test_a_parser_that_ends_the_program_fails_its_document() -> None:
    def ends(stream: BinaryIO, item: Item) -> Iterator[Block]:
        sys.exit("no licence")
        yield Block("never")

    with pytest.raises(ParseError, match=r"sys.exit\('no licence'\)"):
        parsed({"text/plain": ends}, b"x", "a.txt")
