"""Messages between this process and a worker: frames of JSON, each after its length in four bytes.

A worker reads hostile input: nothing it sends is unpickled, and what it sends is checked.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from penstock.core.errors import ParseError
from penstock.core.records import NOTHING, Block, Gap

Frame = dict[str, Any]
LONGEST = 64 << 20
CAUSE = 1000
"""Characters of the cause of a failure or a gap."""


def packed(frame: Frame, *, surrogates: str = "replace") -> bytes:
    """The frame as bytes. `surrogates` says what becomes of lone ones, as an error handler of codecs: names of files
    need not be UTF-8, and pass as they are (`surrogatepass`)."""
    data = json.dumps(frame, ensure_ascii=False, default=str).encode("utf-8", surrogates)
    if len(data) > LONGEST:
        raise ParseError(f"a single piece of {len(data) >> 20} MiB is more than a parser may yield")
    return len(data).to_bytes(4, "big") + data


def unpacked(data: bytes) -> Frame:
    frame = json.loads(data.decode("utf-8", "surrogatepass"))
    if not isinstance(frame, dict):
        raise ValueError("not an object")
    return frame


def from_part(part: Block | Gap) -> Frame:
    if isinstance(part, Gap):
        return {"gap": part.cause, "page": part.page}
    frame: Frame = {"text": part.text}
    if part.image is not None:
        frame["image"] = base64.b64encode(part.image).decode()
    if part.page is not None:
        frame["page"] = part.page
    if part.headings:
        frame["headings"] = part.headings
    if part.unit:
        frame["unit"] = True
    if part.metadata:
        frame["metadata"] = dict(part.metadata)
    return frame


def to_part(frame: Frame) -> Block | Gap:
    page = frame.get("page")
    if page is not None and type(page) is not int:
        raise ValueError("a page that is no number")
    if "gap" in frame:
        return Gap(str(frame["gap"])[:CAUSE], page)
    image = frame.get("image")
    return Block(
        str(frame["text"]),
        base64.b64decode(image) if image is not None else None,
        page,
        tuple(map(str, frame.get("headings", ()))),
        bool(frame.get("unit", False)),
        dict(frame["metadata"]) if "metadata" in frame else NOTHING,
    )
