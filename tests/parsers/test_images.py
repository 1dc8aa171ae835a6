"""An image is one block, with its size and caption; hostile ones are refused by their header."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image

from penstock.chunkers.text import TextChunker
from penstock.core.errors import LimitExceeded, MissingExtra, ParseError, Unsupported
from penstock.core.records import NOTHING, Block, Gap, Item
from penstock.parsers import Parsers, images
from penstock.parsers.images import parse


def png(size: tuple[int, int] = (8, 6)) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size, "red").save(data, "PNG")
    return data.getvalue()


def item(path: Path, metadata: Mapping[str, object] = NOTHING) -> Item:
    return Item(path.as_uri(), "1", lambda: path.open("rb"), path.stat().st_size, None, str(path), metadata)


def parsed(path: Path, metadata: Mapping[str, object] = NOTHING) -> list[Block | Gap]:
    with path.open("rb") as stream:
        return list(parse(stream, item(path, metadata)))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "a.b.png"
    path.write_bytes(png())
    return path


def test_one_block_with_its_size(image: Path) -> None:
    """The bytes as they are: a unit of its own."""
    assert parsed(image) == [Block("", png(), unit=True, metadata={"width": 8, "height": 6})]


def test_a_caption_beside_it(image: Path) -> None:
    """As text, or among the fields of a JSON file; what an item says itself comes first."""
    image.with_suffix(".txt").write_text(" a red field \n")
    (block,) = parsed(image)
    assert isinstance(block, Block)
    assert block.text == "a red field"
    image.with_suffix(".json").write_text('{"licence": "CC0", "width": "wide"}')
    (block,) = parsed(image)
    assert isinstance(block, Block)
    assert (block.text, block.metadata) == ("a red field", {"licence": "CC0", "width": 8, "height": 6})
    image.with_suffix(".json").write_text('{"text": "other", "key": 1}')
    (block,) = parsed(image)
    assert isinstance(block, Block)
    assert (block.text, block.metadata) == ("other", {"key": 1, "width": 8, "height": 6})
    (block,) = parsed(image, {"caption": "mine"})
    assert isinstance(block, Block)
    assert block.text == "mine"


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[1]",
        b'"a"',
        b"\xff\xfe\xfd",
        b"[" * 100_000,
        b'{"caption": "x"}' + b" " * 300_000,
        b'{"a": 1' + b"}" * 9,
    ],
    ids=lambda content: content[:8].hex(),
)
def test_a_broken_caption_costs_the_caption(content: bytes, image: Path) -> None:
    """And is listed; the image is there all the same."""
    image.with_suffix(".json").write_bytes(content)
    gap, block = parsed(image)
    assert isinstance(gap, Gap)
    assert "the caption beside it cannot be read" in gap.cause
    assert block == Block("", png(), unit=True, metadata={"width": 8, "height": 6})


def test_a_caption_that_is_a_link_is_left_alone(image: Path, tmp_path: Path) -> None:
    """It may lead to any file of the machine; a pipe would never end."""
    (tmp_path / "secret").write_text("secret")
    image.with_suffix(".txt").symlink_to(tmp_path / "secret")
    os.mkfifo(image.with_suffix(".json"))
    (block,) = parsed(image)
    assert isinstance(block, Block)
    assert block.text == ""


def bomb(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b""))
    )


@pytest.mark.parametrize(
    ("data", "error", "says"),
    [
        (bomb(30_000, 30_000), LimitExceeded, "pixels"),
        (bomb(12_000, 12_000), LimitExceeded, "pixels"),
        (b"", ParseError, "zero bytes"),
        (b"<html><body>no", Unsupported, "HTML page"),
        (png()[:20], ParseError, "header"),
    ],
    ids=["bomb", "large", "empty", "html", "cut"],
)
def test_hostile_files_are_refused(data: bytes, error: type[Exception], says: str, image: Path) -> None:
    """By the header, before a pixel is decoded."""
    image.write_bytes(data)
    with pytest.raises(error, match=says):
        parsed(image)


def test_a_file_that_is_too_large(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is not read to its end."""
    monkeypatch.setattr(images, "BYTES", 50)
    with pytest.raises(LimitExceeded, match="more than 50 bytes"):
        parsed(image)


def test_without_pillow(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message has the line that installs it."""
    from penstock.support import images as decoding

    decoding._pillow.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    try:
        with pytest.raises(MissingExtra, match=r"penstock\[images\]"):
            parsed(image)
    finally:
        decoding._pillow.cache_clear()


def test_an_image_goes_whole_through_dispatch_and_chunker(image: Path) -> None:
    """With or without a caption: one piece, with the image on it."""
    chunker = TextChunker(100, "characters")
    for caption in ("", "a red field"):
        image.with_suffix(".txt").write_text(caption)
        with Parsers({"image/*": parse}) as parsers:
            blocks = [block for block in parsers.parse(item(image)).blocks if isinstance(block, Block)]
        (piece,) = chunker(blocks)
        assert (piece.text, piece.image) == (caption, png())
