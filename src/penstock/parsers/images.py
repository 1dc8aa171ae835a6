"""An image, whole, with its size and its caption. It is decoded where it is embedded; here its header is asked.

The caption is what the item's metadata say (`caption` or `text`), or a file beside the image: `a.txt`, or `a.json` with
one of these among its fields, the others of which go into the metadata. Only beside files of this machine and within an
archive: in a bucket it would cost every image two requests.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePath
from typing import Any, BinaryIO

from penstock.core.errors import LimitExceeded, ParseError
from penstock.core.records import Block, Gap, Item
from penstock.parsers import beside
from penstock.support.images import measure

BYTES = 128 << 20
"""The largest file."""
CAPTION_BYTES = 256 << 10
CAPTIONS = ("caption", "text")


def parse(stream: BinaryIO, item: Item) -> Iterator[Block | Gap]:
    data = stream.read(BYTES + 1)
    if len(data) > BYTES:
        raise LimitExceeded(f"the image has more than {BYTES:,} bytes")
    _, width, height = measure(data)
    told: dict[str, Any] = {}
    caption = _caption(item.metadata)
    if not caption:
        try:
            told = _told(_beside(item))
        except (OSError, ParseError, ValueError, RecursionError) as error:
            if isinstance(error, OSError) and item.path is None:
                raise  # it may pass, and the next run tries again
            yield Gap(f"the caption beside it cannot be read: {type(error).__name__}: {error}")
        caption = _caption(told)
    rest = {name: value for name, value in told.items() if name not in CAPTIONS}
    yield Block(caption, data, unit=True, metadata={**rest, "width": width, "height": height})


def _caption(metadata: Mapping[str, Any]) -> str:
    return next((value for name in CAPTIONS if isinstance(value := metadata.get(name), str)), "").strip()


def _beside(item: Item) -> Callable[[str], bytes | None]:
    """Reads what lies beside the image, by the end of its name; None of what is not there."""
    if item.path is not None:
        image = PurePath(item.path)
        return lambda ending: _read(image.with_suffix(ending))
    members = beside(item)
    return lambda ending: _member(members[ending]) if ending in members else None


def _told(read: Callable[[str], bytes | None]) -> dict[str, Any]:
    if (data := read(".json")) is not None:
        told = json.loads(data)
        if not isinstance(told, dict):
            raise ValueError(f"a {type(told).__name__}, where fields were expected")
        if not _caption(told) and (text := read(".txt")) is not None:
            told["caption"] = text.decode(errors="replace")
        return told
    data = read(".txt")
    return {} if data is None else {"caption": data.decode(errors="replace")}


def _member(opener: Callable[[], BinaryIO]) -> bytes:
    with opener() as stream:
        data = stream.read(CAPTION_BYTES + 1)
    if len(data) > CAPTION_BYTES:
        raise ValueError(f"more than {CAPTION_BYTES:,} bytes are no caption")
    return data


def _read(path: PurePath) -> bytes | None:
    """A link is left alone: it may lead to anything."""
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    if found.st_size > CAPTION_BYTES:
        raise ValueError(f"{found.st_size:,} bytes are no caption")
    with open(path, "rb") as file:
        return file.read(CAPTION_BYTES)
