"""A flow over a dictionary: uri -> lines. A line is a chunk; a vector is a hash of its line."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from penstock.core.contracts import Embedder
from penstock.core.deletions import HALF
from penstock.core.records import Block, Change, Chunk, Delete, Dense, Item, ListingEnd, Piece, Upsert, Vector
from penstock.core.schema import Manifest, VectorSpec, single
from penstock.embedders.named import Named
from penstock.engine.flow import Flow
from penstock.engine.head import Head
from penstock.engine.tail import Tail
from penstock.ledger import Ledger
from penstock.sinks.memory import MemorySink

SPACE = VectorSpec(model="hash", dim=4, fingerprint="hash-4")
SCHEMA = single(SPACE, "lines")


def item(uri: str, text: str) -> Item:
    raw = text.encode()
    return Item(uri, hashlib.md5(raw).hexdigest(), lambda: io.BytesIO(raw), size=len(raw))


def listing(documents: dict[str, str], complete: bool = True) -> Iterator[Change]:
    for uri, text in documents.items():
        yield Upsert(item(uri, text))
    if complete:
        yield ListingEnd()


def parse(item: Item) -> Any:
    with item.open() as stream:
        return SimpleNamespace(parser="lines", media_type="text/plain", blocks=[Block(stream.read().decode())])


def lines(blocks: Iterable[Block]) -> Iterator[Piece]:
    at = 0
    for block in blocks:
        for line in block.text.splitlines(keepends=True):
            if line.strip():
                yield Piece(line.rstrip("\n"), (at, at + len(line.rstrip("\n"))))
            at += len(line)


def vector(text: str) -> Dense:
    digest = hashlib.md5(text.encode()).digest()
    return Dense(np.frombuffer(digest, dtype=np.uint8)[:4].astype(np.float32) + 1)


class HashEmbedder(Embedder):
    workers = 2
    batch_tokens = 64

    def __init__(self, before: Callable[[Sequence[Chunk]], None] = lambda chunks: None) -> None:
        self.before = before
        self.texts: list[str] = []

    def describe(self) -> VectorSpec:
        return SPACE

    def embed(self, chunks: Sequence[Chunk]) -> Sequence[Vector]:
        self.before(chunks)
        self.texts += [chunk.text for chunk in chunks]
        return [vector(chunk.text) for chunk in chunks]

    def query(self, texts: Sequence[str]) -> Sequence[Vector]:
        return [vector(text) for text in texts]


@dataclass
class World:
    """A ledger and a sink that outlive the runs over them."""

    folder: Path
    sink: Any
    embedder: HashEmbedder
    running: Flow = field(init=False)
    """The last flow."""

    def flow(self, changes: Iterable[Change], ledger: Ledger, **options: Any) -> Flow:
        self.sink.open(Manifest(SCHEMA, {"": ledger.id}))
        run = ledger.begin_run(SPACE.fingerprint)
        feed = options.pop("feed", False)
        chunker = options.pop("chunker", lines)
        head = Head(
            changes=changes,
            parse=options.pop("parse", parse),
            embedder=Named(self.embedder),
            ready=options.pop("ready", lambda: chunker),
            view=ledger,
            run=run,
            workers=options.pop("workers", 2),
            feed=feed,
            fetchers=options.pop("fetchers", 0),
            force=options.pop("force", False),
            fetch=self.sink.fetch if self.sink.readable else None,
            fetch_rows=self.sink.max_rows,
        )
        tail = Tail(
            sink=self.sink,
            ready=lambda: None,
            journal=ledger,
            run=run,
            source="test",
            feed=feed,
            max_delete=None if options.pop("allow_mass_delete", False) else HALF,
            hold=options.pop("hold", None),
            linger=options.pop("linger", 0.01),
        )
        return Flow(head, tail, budget=options.pop("budget", 8 << 20), **options)

    def run(self, changes: Iterable[Change], **options: Any) -> dict[str, int]:
        with Ledger(self.folder / "ledger.db") as ledger:
            ledger.open()
            flow = self.running = self.flow(changes, ledger, **options)
            try:
                flow.run(interval=0.01)
            finally:
                self.failures = list(ledger.failures())
                self.ledger_counts = ledger.counts()
            return flow.counters.values()

    def held(self) -> dict[str, list[str]]:
        """uri -> texts in order, with every vector checked."""
        found: dict[str, list[tuple[int, str]]] = {}
        for page in self.sink.ids():
            for point in self.sink.fetch(page):
                assert np.array_equal(point.vectors["vector"].values, vector(point.chunk.text).values)
                found.setdefault(point.chunk.uri, []).append((point.chunk.ordinal, point.chunk.text))
        return {uri: [text for _, text in sorted(texts)] for uri, texts in found.items()}


def expected(documents: dict[str, str]) -> dict[str, list[str]]:
    lines = {uri: [line for line in text.splitlines() if line.strip()] for uri, text in documents.items()}
    return {uri: texts for uri, texts in lines.items() if texts}


def world(folder: Path) -> World:
    sink = MemorySink(f"memory://{folder}")
    return World(folder, sink, HashEmbedder())


__all__ = ["Delete", "HashEmbedder", "World", "expected", "item", "listing", "world"]
