"""Rich text by striprtf. Needs the extra `office`; runs isolated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from striprtf.striprtf import rtf_to_text

from penstock.core.errors import LimitExceeded
from penstock.core.records import Block, Item
from penstock.parsers.damage import reading
from penstock.parsers.text import cut

LARGEST = 64 << 20


def parse(stream: BinaryIO, item: Item) -> Iterator[Block]:
    data = stream.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise LimitExceeded(f"more than {LARGEST >> 20} MiB of rich text")
    # RTF is ASCII with escapes; stray bytes are of the code page it names, which striprtf looks up itself
    with reading("the rich text"):
        text = rtf_to_text(data.decode("latin-1"), errors="replace")
    for part in cut(text):
        yield Block(part)
