"""A text with the document that it links to: the text first, then what the parser for that document's type reads."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from tempfile import NamedTemporaryFile
from typing import BinaryIO

from penstock.core.errors import ParseError
from penstock.core.records import Block, Gap, Item
from penstock.parsers.text import cut
from penstock.support.linked import MAGIC, MEDIA_TYPE, Head, unpack

Parse = Callable[[Item], Generator[Block | Gap, None, None]]
"""Reads the document, by the parser for its type."""


def parse(stream: BinaryIO, item: Item, parse_document: Parse) -> Iterator[Block | Gap]:
    """A document that is missing or cannot be read is a Gap: the text is there all the same.

    A field that the item has stands for the whole; of the document's own metadata it is left out.
    """
    head = unpack(stream)
    headings = (head.title[:200],) if head.title else ()
    text = "\n\n".join(filter(None, (head.title, head.text)))
    for part in cut(f"{text}\n\n" if text else ""):
        yield Block(part, headings=headings)
    if not head.url:
        return
    if head.cause:
        yield Gap(f"{head.url}: {head.cause}", passing=head.passing)
        return
    try:
        for block in _document(stream, head, item, parse_document):
            if isinstance(block, Gap):
                yield replace(block, cause=f"{head.url}: {block.cause}")
                continue
            own = {name: value for name, value in block.metadata.items() if name not in item.metadata}
            within = block.headings[1:] if block.headings[:1] == headings else block.headings
            yield replace(block, headings=headings + within, metadata=own)
    except ParseError as error:
        yield Gap(f"{head.url}: {error}")


def _document(stream: BinaryIO, head: Head, item: Item, parse_document: Parse) -> Iterator[Block | Gap]:
    with NamedTemporaryFile(prefix="penstock-") as spool:
        shutil.copyfileobj(stream, spool, 1 << 18)
        spool.flush()
        size = spool.tell()
        spool.seek(0)
        if spool.read(len(MAGIC)) == MAGIC:
            raise ParseError(f"{MEDIA_TYPE} within another one")
        document = Item(
            head.url,
            item.fingerprint,
            partial(_opened, spool.name),
            size,
            head.media_type or None,
            metadata=item.metadata,
        )
        with closing(parse_document(document)) as blocks:
            yield from blocks


def _opened(path: str) -> BinaryIO:
    return open(path, "rb")
