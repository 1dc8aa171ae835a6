"""Targets of what comes from other processes and files of many documents: a parser's worker, archives, tables."""

from __future__ import annotations

import io
import json
import os
import select
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any

from penstock.chunkers import bind
from penstock.core.errors import ParseError, PenstockError, Rejected, SourceError
from penstock.core.metadata import standard
from penstock.core.records import VECTOR, Dense, Gap, Item, Point, Unreadable, Upsert
from penstock.core.schema import Manifest, VectorSpec, single
from penstock.engine.identity import Namer
from penstock.engine.journal import Begun
from penstock.parsers.blocks import checked
from penstock.parsers.isolate import Workers, _Worker
from penstock.parsers.wire import to_part
from penstock.sources.files.archives import Archive
from penstock.sources.files.globs import Selection
from penstock.sources.rows import Rows
from penstock.sources.urls import Urls
from tests.attack.fuzz.stored import _fresh
from tests.attack.fuzz.target import Target, allowed, check


class _Sent(_Worker):
    """A worker that has sent these bytes and closed its end."""

    def __init__(self, data: bytes) -> None:
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        os.write(writing, data[:60_000])
        os.close(writing)
        self.documents = 0
        self._replies = os.fdopen(reading, "rb", buffering=0)
        self._poll = select.poll()
        self._poll.register(self._replies, select.POLLIN)
        self._buffer = bytearray()

    def send(self, request: Any) -> None: ...

    def kill(self) -> None:
        self._replies.close()

    def _obituary(self) -> ParseError:
        return ParseError("the parser's process died")


class _Taken(Workers):
    """Workers of which a hostile document has taken the only one."""

    def __init__(self, data: bytes) -> None:
        super().__init__(5.0, 1 << 30)
        self._data = data

    def _begin(self, request: Any) -> _Worker:
        return _Sent(self._data)


def _wire(data: bytes) -> None:
    """Frames that a worker sends, as a list of JSON; a text among them goes as its bytes, with no length before it."""
    try:
        frames = json.loads(data)
    except (ValueError, RecursionError):
        sent = data
    else:
        sent = b""
        for frame in frames if isinstance(frames, list) else [frames]:
            raw = json.dumps(frame).encode()
            sent += frame.encode("latin-1", "replace") if isinstance(frame, str) else len(raw).to_bytes(4, "big") + raw
    item = Item("memory://x.html", "", io.BytesIO, 0, "text/html")
    with allowed(ParseError):
        for part in _Taken(sent).parse("penstock.parsers.html:parse", os.devnull, item):
            checked(part, "html")


@dataclass(frozen=True)
class _Bytes:
    data: bytes
    ahead: int = 4096

    def __call__(self, start: int, size: int) -> bytes:
        check(start >= 0 and 0 <= size < 1 << 31, f"{size:,} bytes are read at {start:,}")
        return self.data[start : start + size]


def _archive(data: bytes, ending: str) -> None:
    archive = Archive(f"memory://a{ending}", "1", len(data), _Bytes(data))
    found: dict[str, Item] = {}
    for change in archive.walk(Selection(), "", Counter()):
        if isinstance(change, Unreadable):
            check(len(change.cause) < 5000, f"a cause of {len(change.cause):,} characters")
            continue
        assert isinstance(change, Upsert)
        check(change.item.uri not in found, f"{change.item.uri} is listed twice")
        found[change.item.uri] = change.item
        with allowed(ParseError, OSError), change.item.open() as stream:
            size = sum(len(piece) for piece in iter(partial(stream.read, 1 << 20), b""))
            check(size == change.item.size, f"{size:,} bytes of {change.item.size}")
    from urllib.parse import unquote_to_bytes

    for uri, item in list(found.items())[:5]:
        with allowed(SourceError, OSError):
            again = archive.find(unquote_to_bytes(uri.removeprefix(f"{archive.uri}/")))
            check(again is not None and again.fingerprint == item.fingerprint, f"{uri} is listed, and not found")


def _rows(data: bytes) -> None:
    """A Parquet file of images."""
    path = _fresh("rows") / "a.parquet"
    path.write_bytes(data)
    with allowed(PenstockError), Rows(f"parquet://{path}") as source:
        source.open()
        for change in source.changes():
            if isinstance(change, Upsert):
                change.item.uri.encode()
                with allowed(PenstockError, OSError), change.item.open() as stream:
                    stream.read()


def _list(data: bytes) -> None:
    """A list of urls, of the format that its first byte chooses; none is fetched."""
    path = _fresh("lists") / f"a.{('txt', 'csv', 'tsv', 'jsonl', 'parquet')[(data[:1] or b'0')[0] % 5]}"
    path.write_bytes(data[1:])
    with allowed(PenstockError), Urls(f"urls://{path}") as source:
        source.open()
        for change in source.changes():
            if isinstance(change, Upsert):
                change.item.uri.encode()
                json.dumps(dict(change.item.metadata), default=str).encode()
            elif isinstance(change, Unreadable):
                check(len(change.cause) < 5000, f"a cause of {len(change.cause):,} characters")


def _blocks(data: bytes) -> None:
    """Blocks of a parser of somebody else's, all the way into a store and out again."""
    try:
        frames = json.loads(data)
    except (ValueError, RecursionError):
        return
    parts = []
    with allowed(ParseError):
        for frame in frames if isinstance(frames, list) else ():
            try:
                part = to_part(frame)
            except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
                continue
            if (block := checked(part, "own")) is not None and not isinstance(block, Gap):
                parts.append(block)
    item = Item("memory://x.md", "", io.BytesIO, 0, "text/markdown")
    namer = Namer(item, Begun(0, 0, had=False), standard=standard(item, "text/markdown"))
    points = [Point(namer.name(piece)[0], {VECTOR: Dense(_vector())}) for piece in bind("200 characters", None)(parts)]
    _written(points[:100])


def _vector() -> Any:
    import numpy as np

    return np.full(4, 0.5, np.float32)


def _written(points: list[Point]) -> None:
    from penstock.sinks.lance import LanceSink
    from penstock.sinks.memory import MemorySink, forget
    from penstock.sinks.parquet import ParquetSink
    from penstock.sinks.sqlite import SqliteSink

    for kind, url in (
        (MemorySink, "memory://blocks"),
        (SqliteSink, f"sqlite://{_fresh('blocks')}/b.db"),
        (ParquetSink, f"parquet://{_fresh('blocks-parquet')}/b"),
        (LanceSink, f"lance://{_fresh('blocks-lance')}/b"),
    ):
        with kind(url) as sink:
            sink.open(Manifest(single(VectorSpec("fuzz", 4, "fuzz"))))
            refused: set[str] = set()
            try:
                sink.write(points)
            except Rejected as error:
                refused = set(error.reasons)
                with allowed(Rejected):
                    raise
            sink.flush()
            if sink.readable:
                kept = {point.id: point for point in sink.fetch([point.id for point in points])}
                check(kept.keys() == {point.id for point in points} - refused, f"{url} lacks points it did not refuse")
        forget("memory://blocks")


TARGETS = (
    Target("wire", _wire, "json", ("penstock.parsers",)),
    Target("tar", partial(_archive, ending=".tar"), "bytes", ("penstock.sources.files",)),
    Target("zip", partial(_archive, ending=".zip"), "zip", ("penstock.sources.files",)),
    Target("list", _list, "lines", ("penstock.sources",), memory=6 << 30),
    Target("rows", _rows, "bytes", ("penstock.sources",), memory=6 << 30),
    Target(
        "blocks",
        _blocks,
        "json",
        ("penstock.parsers", "penstock.chunkers", "penstock.engine.identity"),
        memory=12 << 30,
    ),
)
