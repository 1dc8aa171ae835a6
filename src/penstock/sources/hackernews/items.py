"""An item of the API, as a document: what it says, and what is only about it."""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from penstock.core.metadata import moment
from penstock.core.records import Item
from penstock.sources.hackernews.api import Garbage
from penstock.sources.hackernews.content import Content, Pages

URI = "https://news.ycombinator.com/item?id="
TYPES = ("story", "ask", "comment", "job", "poll")
"""What `types` may name. An ask is a story as well."""
LARGEST = 1 << 53
_TAG = re.compile(r"<(/?)([a-zA-Z]+)([^<>]*)>")
_LINK = re.compile(r'<a\s[^<>]{0,100}?href="([^"<>]{0,4000})"[^<>]{0,200}>([^<>]{0,4000})</a>')
_BLANK = re.compile(r"\n{3,}")

Raw = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a comment stands."""

    root: int
    depth: int
    """0 of the root, 1 of an answer to it."""


def uri_of(number: int) -> str:
    return f"{URI}{number}"


def number_of(uri: str) -> int | None:
    """None where it is no uri of an item."""
    number = uri.removeprefix(URI)
    return int(number) if uri != number and number.isascii() and number.isdigit() and len(number) < 16 else None


def checked(value: Any, number: int) -> Raw | None:
    """The item of that number as the API gives it; None if it has none. Raises Garbage."""
    if value is None:
        return None
    if not isinstance(value, dict) or value.get("id") != number:
        raise Garbage(f"the API's answer is not item {number}")
    # Some of those that were deleted have no more than a number.
    if not isinstance(value.get("type"), str) and not value.get("deleted"):
        raise Garbage(f"the API gives item {number} without a type")
    return value


def parent_of(raw: Raw) -> int | None:
    """Of a comment, what it answers; of a choice in a poll, the poll."""
    parent = _whole(raw.get("parent")) or _whole(raw.get("poll"))
    return parent if parent and parent > 0 else None


def kinds_of(raw: Raw) -> set[str]:
    """Those of TYPES that it is."""
    kind = raw.get("type")
    if kind == "pollopt":
        return {"poll"}
    ask = kind == "story" and not _text(raw, "url") and _text(raw, "title").lower().startswith("ask hn")
    return {"story", "ask"} if ask else {str(kind)}


def document(raw: Raw, place: Place | None, pages: Pages) -> Item:
    """The document that an item which is neither deleted nor dead stands for."""
    number, url = int(raw["id"]), _text(raw, "url")
    content = Content(_plain(_text(raw, "title")), _plain(_text(raw, "text")), url if pages.fetch else "", pages)
    title = content.title
    time = _whole(raw.get("time"))
    about = {
        "number": number,
        "type": raw["type"],
        "by": _text(raw, "by"),
        "time": moment(time) if time is not None else "",
        "title": title,
        "url": url,
        "parent": parent_of(raw),
        "root": place.root if place else None,
        "depth": place.depth if place else None,
        "score": _whole(raw.get("score")),
        "descendants": _whole(raw.get("descendants")),
        "kids": len(kids) if isinstance(kids := raw.get("kids"), list) else None,
    }
    metadata = {name: value for name, value in about.items() if value not in (None, "")}
    return Item(
        uri_of(number),
        _digest([raw["type"], title, content.text, url, pages.fetch]),
        content,
        metadata=metadata,
        created=time,
        revision=_digest(metadata),
        at_hand=not content.url,
    )


def time_of(raw: Raw | None) -> int | None:
    return None if raw is None else _whole(raw.get("time"))


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST else None


def _text(raw: Raw, name: str) -> str:
    value = raw.get(name)
    return value.encode(errors="replace").decode().replace("\0", "").strip() if isinstance(value, str) else ""


def _plain(text: str) -> str:
    """A text without its few kinds of markup. Long links are shown shortened: they get their addresses."""

    def link(match: re.Match[str]) -> str:
        return match[1] if match[2].endswith("...") else match[2]

    def tag(match: re.Match[str]) -> str:
        return "\n\n" if match[2].lower() in ("p", "pre", "br") else ""

    return _BLANK.sub("\n\n", html.unescape(_TAG.sub(tag, _LINK.sub(link, text)))).strip()


def _digest(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()
