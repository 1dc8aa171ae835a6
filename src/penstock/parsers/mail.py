"""Mail: the body as text, the subject as its heading; sender, date and names of attachments are metadata. Isolated."""

from __future__ import annotations

import re
from collections.abc import Iterator
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import EmailPolicy
from typing import Any, BinaryIO

from penstock.core.errors import LimitExceeded
from penstock.core.records import Block, Item
from penstock.parsers.damage import reading
from penstock.parsers.html import blocks
from penstock.parsers.text import cut, decode

LARGEST = 128 << 20
_HEADERS = ("subject", "from", "to", "date")
_TOKEN = re.compile(r"[\w.+-]+(?:/[\w.+-]+)?", re.ASCII)


def parse(stream: BinaryIO, item: Item) -> Iterator[Block]:
    if (item.size or 0) > LARGEST:
        raise LimitExceeded(f"a message of more than {LARGEST >> 20} MiB")
    with reading("the message"):
        message = BytesParser(policy=_LENIENT).parse(stream)
        assert isinstance(message, EmailMessage)
        headers = {name: " ".join(str(message.get(name, "")).split())[:500] for name in _HEADERS}
        names = [str(part.get_filename() or part.get_content_type())[:200] for part in message.iter_attachments()]
        metadata: dict[str, Any] = {name: value for name, value in headers.items() if value}
        if names:
            metadata["attachments"] = names[:100]
        plain, html = _body(message, "plain"), _body(message, "html")
    yield from letter(headers["subject"], plain, html, metadata)


class _Lenient(EmailPolicy):
    """Headers as Python reads them; what it fails at is taken as text, and a MIME header without its parameters."""

    def header_fetch_parse(self, name: str, value: str) -> Any:
        try:
            return super().header_fetch_parse(name, value)
        except Exception:  # the standard library raises what it likes: IndexError, OverflowError, AttributeError
            text = " ".join(str(value).split())
            if name.lower().startswith("content-"):
                known = _TOKEN.match(text)
                return self.header_factory(name, known[0] if known else "attachment")
            return text


_LENIENT = _Lenient()


def letter(subject: str, plain: str, html: str, metadata: dict[str, Any]) -> Iterator[Block]:
    """A message's blocks: its plain text if it has some, else what its HTML says."""
    headings = (subject[:200],) if subject else ()
    if subject:
        yield Block(subject + "\n\n", headings=headings, metadata=metadata)
    if plain.strip():
        for part in cut(plain.replace("\r\n", "\n")):
            yield Block(part, headings=headings, metadata=metadata)
    elif html:
        for block in blocks(html, {**metadata, "title": subject}, everything=True):
            yield Block(block.text, headings=headings + block.headings, metadata=metadata)


def _body(message: EmailMessage, kind: str) -> str:
    part = message.get_body((kind,))
    if part is None:
        return ""
    data = part.get_payload(decode=True)
    # the declared charset is tried, not trusted
    return decode(data, _known(part.get_content_charset())) if isinstance(data, bytes) else ""


def _known(charset: str | None) -> str | None:
    try:
        "".encode(charset or "")
    except (LookupError, ValueError):
        return None
    return charset
