"""The index of a chaos run: a sink that is one file, and the contents of any index."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator, Sequence
from typing import Any
from zlib import crc32

import numpy as np

from penstock.core.contracts import Sink
from penstock.core.errors import UsageError
from penstock.core.metadata import VOLATILE
from penstock.core.records import Point
from penstock.core.schema import Manifest
from penstock.registry import SINKS, find
from penstock.sinks import address, manifests

Contents = dict[str, tuple[Any, ...]]


class Broken(AssertionError):
    """A promise of the engine did not hold."""


class JournalSink(Sink):
    """`journal:///path`: a file to which every point and every deletion is appended, one after the other.

    Needs no driver, so a child process starts in no time; and a batch is not atomic: a kill leaves a part of it.
    """

    max_rows = 16

    def __init__(self, url: str) -> None:
        self._url = url
        self._path, _ = address.local(url, "journal", "journal:///tmp/index")
        self._file: int | None = None
        self._points: dict[str, Point] = {}

    @property
    def url(self) -> str:
        return self._url

    def manifest(self) -> Manifest | None:
        return manifests.read(self._path / "manifest.json", self._url)

    def open(self, manifest: Manifest) -> None:
        kept = self.manifest()
        if kept is None:
            self._path.mkdir(parents=True, exist_ok=True)
            self.replace_manifest(manifest)
        else:
            manifests.check_schema(kept.schema, manifest.schema, self._url)
        if self._file is None:
            self._load()
            self._file = os.open(self._path / "journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def replace_manifest(self, manifest: Manifest) -> None:
        manifests.keep(self._path / "manifest.json", manifest)

    def write(self, points: Sequence[Point]) -> None:
        for point in points:
            self._append(point.id, point)

    def delete(self, ids: Sequence[str]) -> None:
        for id in ids:
            self._append(id, None)

    def flush(self) -> None:
        """Nothing: what a process has written survives its end."""

    def count(self) -> int:
        return len(self._points)

    def ids(self) -> Iterator[Sequence[str]]:
        yield list(self._points)

    def fetch(self, ids: Sequence[str]) -> Sequence[Point]:
        return [point for id in ids if (point := self._points.get(id)) is not None]

    def _append(self, id: str, point: Point | None) -> None:
        if self._file is None:
            raise UsageError(f"{self._url} is not open")
        data = pickle.dumps((id, point))
        os.write(self._file, len(data).to_bytes(4, "big") + crc32(data).to_bytes(4, "big") + data)
        self._apply(id, point)

    def _apply(self, id: str, point: Point | None) -> None:
        if point is None:
            self._points.pop(id, None)
        else:
            self._points[id] = point

    def _load(self) -> None:
        path = self._path / "journal"
        raw = path.read_bytes() if path.exists() else b""
        self._points.clear()
        at = 0
        while at + 8 <= len(raw):
            end = at + 8 + int.from_bytes(raw[at : at + 4], "big")
            data = raw[at + 8 : end]
            if end > len(raw) or crc32(data) != int.from_bytes(raw[at + 4 : at + 8], "big"):
                break
            self._apply(*pickle.loads(data))  # written by this class
            at = end
        if at < len(raw):
            os.truncate(path, at)  # a torn record would swallow the next one


LINGER = {"journal": 0.002}
"""Seconds, by store; a store that makes a version of every write needs more."""


def make_sink(url: str) -> Sink:
    scheme = url.partition("://")[0]
    sink: Sink = JournalSink(url) if scheme == "journal" else find(SINKS, scheme)(url)
    sink.max_rows = min(sink.max_rows, 64)  # small writes, so that kills fall between them
    return sink


def contents(sink: Sink) -> Contents:
    """All points of an index, in full, but for sizes and times of files: a chunk has those of the version of its
    document in which it was written. Raises Broken for an id that occurs twice."""
    found: Contents = {}
    for page in sink.ids():
        for point in sink.fetch(page):
            if point.id in found:
                raise Broken(f"{point.id} is in the index twice")
            c = point.chunk
            vector: Any = point.vectors["vector"]
            values = np.asarray(vector.values, np.float32).tobytes()
            metadata = {name: value for name, value in c.metadata.items() if name not in VOLATILE}
            found[point.id] = (
                c.uri, c.ordinal, c.text, tuple(c.span), c.page, tuple(c.headings), metadata, values
            )  # fmt: skip
    return found
