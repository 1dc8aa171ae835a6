"""One piece through the engine: its flow reads, batches, isolates what fails and keeps to the memory budget.

What the engine knows as sink and ledger only acknowledge here. The vectors go to the part in hand as soon as the model
gives them, and the parts are the record, so the ledger is forgotten at the end.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, NamedTuple

from penstock.core.contracts import MultiEmbedder, Sink
from penstock.core.errors import StageError, Unsupported
from penstock.core.records import (
    VECTOR,
    Block,
    Change,
    Chunk,
    Gap,
    Item,
    ListingEnd,
    Piece,
    Point,
    Unreadable,
    Upsert,
    Vector,
)
from penstock.core.schema import Manifest, VectorSpec
from penstock.engine.flow import Flow, Setup
from penstock.engine.progress import Progress
from penstock.ledger import DONE, OPEN, SKIPPED, Ending, Failure, Ledger, Row
from penstock.parsers import Parsed, Parsers, images
from penstock.parsers.detect import EMPTY
from penstock.shards import format
from penstock.shards.accounts import Accounts
from penstock.shards.format import Entry
from penstock.shards.leases import LeaseLost
from penstock.shards.writer import Writer

LINGER = 0.05
"""Seconds between commits of the engine: nothing durable hangs on them."""


@dataclass(frozen=True, slots=True)
class Means:
    """What all pieces are made with."""

    embedder: MultiEmbedder
    budget: int
    workers: int
    max_wait: float


class Ran(NamedTuple):
    ended: str
    """`done`, `broken` where the source could not be listed whole, or `stopped`."""
    last: Progress


class Whole:
    """A chunker: an image is a chunk, with its caption."""

    spec = "whole images"

    def __call__(self, blocks: Iterable[Block]) -> Iterator[Piece]:
        at = 0
        for block in blocks:
            span = (at, at := at + len(block.text))
            yield Piece(block.text, span, block.page, block.headings, block.metadata, image=block.image)


def run(
    means: Means,
    writer: Writer,
    accounts: Accounts,
    changes: Iterable[Change],
    tell: Callable[[Progress], None] | None,
) -> Ran:
    """Embed what is not accounted for."""
    listing = _Listing(changes, writer, accounts)
    with tempfile.TemporaryDirectory(prefix="penstock-") as folder, _Passing(Path(folder) / "run.db", writer) as ledger:
        ledger.open()
        parsers = Parsers({"image/*": images.parse, "*": _no_image}, images=True)
        recorder = _Recorder(means.embedder, writer)
        chunker, lock = Whole(), Lock()

        def ready() -> Whole:
            with lock:
                means.embedder.open()
            return chunker

        flow = Flow(
            Setup(
                changes=listing,
                parse=lambda item: _parse(parsers, item, writer),
                embedder=recorder,
                sink=_Acknowledging(means.embedder.batch_rows),
                ready=ready,
                ledger=ledger,
                run=ledger.begin_run(""),
                source="parts",
                budget=means.budget,
                workers=means.workers,
                max_wait=means.max_wait,
                linger=LINGER,
            )
        )
        try:
            flow.run(tell)
        except StageError as error:
            if isinstance(error.__cause__, LeaseLost):
                raise error.__cause__ from None
            raise
        finally:
            parsers.close()
        ended = "stopped" if flow.interrupted else "done" if listing.complete else "broken"
        return Ran(ended, flow.progress())


def _parse(parsers: Parsers, item: Item, writer: Writer) -> Parsed:
    parsed = parsers.parse(item)

    def blocks() -> Any:
        for block in parsed.blocks:
            if isinstance(block, Gap):
                yield block
                continue
            digest = hashlib.sha256(block.image or b"").hexdigest()
            if writer.first(item.uri, digest):
                yield replace(block, metadata={**block.metadata, "content_hash": digest})

    return replace(parsed, blocks=blocks())


def _no_image(stream: BinaryIO, item: Item) -> Iterator[Block]:
    said = (item.media_type or "").partition(";")[0]
    if said != EMPTY:
        raise Unsupported(f"no image, but {said}")
    raise Unsupported("the caption of an image" if item.size else "empty: zero bytes")


class _Listing:
    """Tells the engine what nothing has become of yet."""

    def __init__(self, changes: Iterable[Change], writer: Writer, accounts: Accounts) -> None:
        self.complete = False
        self._changes, self._writer, self._accounts = changes, writer, accounts

    def __iter__(self) -> Iterator[Change]:
        for change in self._changes:
            match change:
                case Upsert(item) if self._accounts.told(item.uri):
                    yield change
                case Unreadable(uri, cause, listing=False) if self._accounts.told(uri):
                    self._writer.account(Entry(uri, format.FAILED, cause, final=False))
                case ListingEnd():
                    self.complete = True


class _Recorder(MultiEmbedder):
    """The embedder. What it has embedded is in the part in hand before anybody else has it."""

    def __init__(self, real: MultiEmbedder, writer: Writer) -> None:
        self.workers = min(real.workers, writer.rows)
        self.batch_tokens = real.batch_tokens
        self.batch_rows = max(1, min(real.batch_rows, writer.rows // self.workers))
        self._real, self._writer = real, writer

    def describe(self) -> Mapping[str, VectorSpec]:
        return self._real.describe()

    def embed(self, chunks: Sequence[Chunk]) -> Mapping[str, Sequence[Vector]]:
        with self._writer.room(len(chunks)):
            vectors = self._real.embed(chunks)
            self._writer.add(chunks, vectors[VECTOR])
        return vectors

    def query(self, texts: Sequence[str], using: str) -> Sequence[Vector]:
        return self._real.query(texts, using)


class _Acknowledging(Sink):
    readable = False

    def __init__(self, rows: int) -> None:
        self.max_rows = rows

    @property
    def url(self) -> str:
        return "parts"

    def manifest(self) -> Manifest | None:
        return None

    def open(self, manifest: Manifest) -> None: ...

    def replace_manifest(self, manifest: Manifest) -> None: ...

    def write(self, points: Sequence[Point]) -> None: ...

    def delete(self, ids: Sequence[str]) -> None: ...

    def flush(self) -> None: ...

    def count(self) -> int:
        return 0


class _Passing(Ledger):
    """The engine's ledger, for as long as it runs. What it learns of failures is written to the parts."""

    def __init__(self, path: Path, writer: Writer) -> None:
        super().__init__(path)
        self._writer = writer
        self._causes: dict[str, Failure] = {}

    def open(self, *, exclusive: bool = True, create: bool = True) -> None:
        super().open(exclusive=exclusive, create=create)
        self._open().execute("PRAGMA synchronous=OFF")

    def acknowledge(self, rows: Sequence[Row], run: int) -> None: ...

    def intend(self, rows: Sequence[Row]) -> None: ...

    def record(self, failures: Iterable[Failure]) -> None:
        self._causes.update((failure.uri, failure) for failure in failures)

    def finish(self, endings: Iterable[Ending]) -> None:
        endings = list(endings)
        super().finish(endings)
        for ending in endings:
            failure = self._causes.pop(ending.uri, None)
            if ending.state == DONE:
                if failure is not None:
                    self._writer.account(Entry(ending.uri, format.NOTED, failure.cause))
                continue
            cause = failure.cause if failure else "no cause was told"
            state = format.SKIPPED if ending.state == SKIPPED else format.FAILED
            self._writer.account(Entry(ending.uri, state, cause, final=ending.state != OPEN))
