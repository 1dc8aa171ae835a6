"""One shard through the engine: an ordinary flow, whose sink and journal are the parts.

Points go into the current part when they are written, endings of documents without points after them. How many rows
may be embedded and in no part yet is bounded: see `Writer.admit`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from threading import Lock
from typing import NamedTuple

from penstock.core.contracts import Chunker, MultiEmbedder
from penstock.core.errors import ParseError
from penstock.core.records import Block, Change, Chunk, Item, Piece, Unreadable, Upsert, Vector
from penstock.core.schema import VectorSpec
from penstock.engine.flow import Flow
from penstock.engine.head import Head
from penstock.engine.journal import DONE, OPEN, SKIPPED, Begun, ChunkEntry, Ending, Failure, Match
from penstock.engine.prepare import Parse
from penstock.engine.progress import Progress
from penstock.engine.tail import Tail
from penstock.shards import format, parts_only
from penstock.shards.accounts import Accounts
from penstock.shards.format import Entry
from penstock.shards.parts_only import PartSink, PartsOnly
from penstock.shards.writer import Writer


@dataclass(frozen=True, slots=True)
class Setup:
    """Components and limits, the same for all shards."""

    embedder: MultiEmbedder
    chunker: Chunker
    parse: Callable[[Item, Writer], Parse]
    """Parses an item; content that the writer has from another item may be left out."""
    budget: int
    workers: int
    max_wait: float
    fetchers: int = 0
    """As of a source."""


class Outcome(NamedTuple):
    status: str
    """`done`, `broken` where the source could not be listed whole, or `stopped`."""
    last: Progress


def run(
    setup: Setup,
    writer: Writer,
    accounts: Accounts,
    changes: Iterable[Change],
    progress: Callable[[Progress], None] | None,
) -> Outcome:
    """Embed the inputs of a shard that have no state yet. Raises LeaseLost where another worker has taken it over."""
    embedder = SmallBatches(setup.embedder, writer.rows)
    journal, sink, lock = ShardJournal(writer), PartSink(writer.add, embedder.batch_rows), Lock()

    chunker = _OneChunk(setup.chunker)

    def ready() -> Chunker:
        with lock:
            setup.embedder.open()
        return chunker

    head = Head(
        changes=_unaccounted(changes, writer, accounts),
        parse=lambda item: setup.parse(item, writer),
        embedder=embedder,
        ready=ready,
        view=journal,
        run=1,
        workers=setup.workers,
        fetchers=setup.fetchers,
        admit=writer.admit,
        withdraw=writer.withdraw,
        release=writer.release,
    )
    tail = Tail(sink=sink, ready=ready, journal=journal, run=1, source="parts", linger=0.0)
    flow = Flow(head, tail, budget=setup.budget, max_wait=setup.max_wait)
    parts_only.run(flow, progress)
    status = "stopped" if flow.interrupted else "done" if flow.complete else "broken"
    return Outcome(status, flow.progress())


def _unaccounted(changes: Iterable[Change], writer: Writer, accounts: Accounts) -> Iterator[Change]:
    """The changes of inputs that have no final state; those that cannot be read fail at once."""
    for change in changes:
        match change:
            case Upsert(item):
                if accounts.add(item.uri):
                    yield change
            case Unreadable(uri, cause, listing=False):
                if accounts.add(uri):
                    writer.account(Entry(uri, format.FAILED, cause, final=False))
            case Unreadable():
                pass  # the listing has no end then, and the shard stays open
            case _:
                yield change


class _OneChunk:
    """A chunker whose documents have one chunk; others fail. A row settles its input, so a kill between two rows of a
    document would lose the rest in silence."""

    def __init__(self, real: Chunker) -> None:
        self._real = real

    def __call__(self, blocks: Iterable[Block]) -> Iterator[Piece]:
        pieces = iter(self._real(blocks))
        for piece in pieces:
            if next(pieces, None) is not None:
                raise ParseError("it has more than one chunk: parts hold one row an input")
            yield piece


class SmallBatches(MultiEmbedder):
    """An embedder whose batches, one a worker, fit into a part together."""

    def __init__(self, real: MultiEmbedder, rows: int) -> None:
        self._real = real
        self.workers = min(real.workers, rows)
        self.batch_tokens = real.batch_tokens
        self.batch_rows = max(1, min(real.batch_rows, rows // self.workers))

    def describe(self) -> Mapping[str, VectorSpec]:
        return self._real.describe()

    def embed(self, chunks: Sequence[Chunk]) -> Mapping[str, Sequence[Vector]]:
        return self._real.embed(chunks)

    def interrupt(self) -> None:
        self._real.interrupt()

    def query(self, texts: Sequence[str], using: str) -> Sequence[Vector]:
        return self._real.query(texts, using)


class ShardJournal(PartsOnly):
    """The engine's journal of one shard: nothing is known before, and endings go into the current part."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._numbers = count(1)
        self._causes: dict[str, Failure] = {}

    def begin(self, uris: Sequence[str], run: int) -> dict[str, Begun]:
        return {uri: Begun(next(self._numbers), 1, had=False) for uri in uris}

    def next_listing(self) -> int:
        return next(self._numbers)

    def digests(self, document: int, ids: Sequence[bytes]) -> dict[bytes, int]:
        return {}

    def same_content(self, contents: Sequence[int], before: int) -> dict[int, bytes]:
        return {}

    def record(self, failures: Iterable[Failure], run: int) -> None:
        self._causes.update((failure.uri, failure) for failure in failures)

    def intend(self, entries: Sequence[ChunkEntry]) -> None: ...

    def acknowledge(self, entries: Sequence[ChunkEntry], run: int, matches: Sequence[Match] = ()) -> None: ...

    def keep(self, document: int, attempt: int, ids: Sequence[bytes]) -> None: ...

    def finish(self, endings: Iterable[Ending]) -> None:
        for ending in endings:
            failure = self._causes.pop(ending.uri, None)
            if ending.state == DONE:
                if failure is not None:
                    self._writer.account(Entry(ending.uri, format.NOTED, failure.cause))
                continue
            cause = failure.cause if failure else "unknown cause"
            state = format.SKIPPED if ending.state == SKIPPED else format.FAILED
            self._writer.account(Entry(ending.uri, state, cause, final=ending.state != OPEN))

    def reopen(self, uris: Sequence[str]) -> None:
        self._writer.reopen(uris)
