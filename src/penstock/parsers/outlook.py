"""Outlook messages (.msg) by python-oxmsg. Needs the extra `office`; runs isolated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

from oxmsg import Message

from penstock.core.records import Block, Item
from penstock.parsers.damage import reading
from penstock.parsers.mail import letter


def parse(stream: BinaryIO, item: Item) -> Iterator[Block]:
    with reading("the message"):
        message = Message.load(stream)
        subject = " ".join((message.subject or "").split())[:500]
        metadata: dict[str, Any] = {"subject": subject} if subject else {}
        if message.sender:
            metadata["from"] = message.sender[:500]
        if message.sent_date:
            metadata["date"] = message.sent_date.isoformat()
        if names := [(attachment.file_name or "")[:200] for attachment in message.attachments]:
            metadata["attachments"] = names[:100]
        plain, html = message.body or "", message.html_body or ""
    yield from letter(subject, plain, html, metadata)
