"""A text and the document that it links to, as one stream: what a feed says of a page, and the page itself."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, cast

from penstock.core.errors import ParseError

MEDIA_TYPE = "application/x-penstock-linked"
MAGIC = b"%penstock-linked-1\n"
_LINE = 16 << 20
"""Bytes that everything but the document takes, at most."""
_IN_MEMORY = 1 << 20


@dataclass(frozen=True, slots=True)
class Head:
    """What stands before the document."""

    title: str = ""
    text: str = ""
    """Plain, not markup."""
    url: str = ""
    """Of the document; nothing where there is none."""
    media_type: str = ""
    """What the document's server says it is."""
    cause: str = ""
    """Why the document is missing."""
    passing: bool = False
    """It may come later."""


def pack(head: Head, content: BinaryIO | None = None) -> BinaryIO:
    """One stream of both, at its beginning."""
    import json  # here, as every process that parses imports this module

    spool = SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - the caller closes it
    try:
        spool.write(MAGIC + json.dumps(asdict(head)).encode() + b"\n")
        if content is not None:
            shutil.copyfileobj(content, spool, 1 << 18)
        spool.seek(0)
    except BaseException:
        spool.close()
        raise
    return cast(BinaryIO, spool)


def unpack(stream: BinaryIO) -> Head:
    """What stands before the document, to which the stream has come then."""
    import json

    try:
        if stream.read(len(MAGIC)) != MAGIC:
            raise ValueError
        fields = json.loads(stream.readline(_LINE))
        head = Head(**fields)
        if any(type(getattr(head, field)) is not type(default) for field, default in asdict(Head()).items()):
            raise ValueError
        return head
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise ParseError(f"broken {MEDIA_TYPE}: expected a line of JSON after {MAGIC!r}") from None
