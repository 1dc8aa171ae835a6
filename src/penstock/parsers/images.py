"""An image, whole, with its size and its caption. It is decoded where it is embedded; here its header is asked.

The caption is in the item's metadata (`caption` or `text`), or in a file beside the image: `a.txt`, or `a.json` with
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
    fields: dict[str, Any] = {}
    caption = _caption(item.metadata)
    if not caption:
        try:
            fields = _fields(_beside(item))
        except (OSError, ParseError, ValueError, RecursionError) as error:
            if isinstance(error, OSError) and item.path is None:
                raise  # the next run tries again
            yield Gap(f"the caption beside it cannot be read: {type(error).__name__}: {error}")
        caption = _caption(fields)
    rest = {name: value for name, value in fields.items() if name not in CAPTIONS}
    yield Block(caption, data, unit=True, metadata={**rest, "width": width, "height": height})


def _caption(metadata: Mapping[str, Any]) -> str:
    return next((value for name in CAPTIONS if isinstance(value := metadata.get(name), str)), "").strip()


def _beside(item: Item) -> Callable[[str], bytes | None]:
    """A reader of the files beside the image, by the ends of their names; None where there is no such file."""
    if item.path is not None:
        image = PurePath(item.path)
        return lambda ending: _read(image.with_suffix(ending))
    members = beside(item)
    return lambda ending: _member(members[ending]) if ending in members else None


def _fields(read: Callable[[str], bytes | None]) -> dict[str, Any]:
    if (data := read(".json")) is not None:
        fields = json.loads(data)
        if not isinstance(fields, dict):
            raise ValueError(f"a {type(fields).__name__}, where fields were expected")
        if not _caption(fields) and (text := read(".txt")) is not None:
            fields["caption"] = text.decode(errors="replace")
        return fields
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
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    if status.st_size > CAPTION_BYTES:
        raise ValueError(f"{status.st_size:,} bytes are no caption")
    with open(path, "rb") as file:
        return file.read(CAPTION_BYTES)
