"""Outlook messages (.msg) by python-oxmsg. Needs the extra `office`; runs isolated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

from oxmsg import Message

from penstock.core.records import Block, Item
from penstock.parsers.mail import letter


def parse(stream: BinaryIO, item: Item) -> Iterator[Block]:
    message = Message.load(stream)
    subject = " ".join((message.subject or "").split())[:500]
    metadata: dict[str, Any] = {"subject": subject} if subject else {}
    if message.sender:
        metadata["from"] = message.sender[:500]
    if message.sent_date:
        metadata["date"] = message.sent_date.isoformat()
    if names := [attachment.file_name or "" for attachment in message.attachments]:
        metadata["attachments"] = names[:100]
    yield from letter(subject, message.body or "", message.html_body or "", metadata)
