"""Images as the content of shards: each is one chunk, with its caption, and embedded once however often it occurs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace
from typing import BinaryIO

from penstock.core.errors import Unsupported
from penstock.core.records import Block, Gap, Item, Piece
from penstock.parsers import Parsed, Parsers, images
from penstock.parsers.detect import EMPTY
from penstock.shards.writer import Writer


class Whole:
    """A chunker: an image is a chunk, with its caption."""

    spec = "whole images"

    def __call__(self, blocks: Iterable[Block]) -> Iterator[Piece]:
        at = 0
        for block in blocks:
            span = (at, at := at + len(block.text))
            yield Piece(block.text, span, block.page, block.headings, block.metadata, image=block.image)


def parsers() -> Parsers:
    return Parsers({"image/*": images.parse, "*": _no_image}, images=True)


def parse_with(parsers: Parsers) -> Callable[[Item, Writer], Parsed]:
    """Parses an item; an image that the writer has had from another item is left out."""

    def parse(item: Item, writer: Writer) -> Parsed:
        parsed = parsers.parse(item)

        def blocks() -> Generator[Block | Gap, None, None]:
            for block in parsed.blocks:
                if not isinstance(block, Block):
                    yield block
                    continue
                digest = hashlib.sha256(block.image or b"").hexdigest()
                if writer.first(item.uri, digest):
                    yield replace(block, metadata={**block.metadata, "content_hash": digest})

        return replace(parsed, blocks=blocks())

    return parse


def _no_image(stream: BinaryIO, item: Item) -> Iterator[Block]:
    media_type = (item.media_type or "").partition(";")[0]
    if media_type != EMPTY:
        raise Unsupported(f"no image, but {media_type}")
    raise Unsupported("the caption of an image" if item.size else "empty: zero bytes")
