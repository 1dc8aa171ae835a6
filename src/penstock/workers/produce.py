"""One shard through the engine, on a worker: an ordinary flow, whose sink and journal are the parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from threading import Lock

from penstock.core.contracts import Chunker, MultiEmbedder, Source
from penstock.core.errors import PenstockError, SourceError
from penstock.core.metadata import MetadataFunction
from penstock.core.records import Change, Item, Point, Upsert
from penstock.core.schema import IndexSchema
from penstock.engine.classify import ParserCode
from penstock.engine.flow import Flow
from penstock.engine.head import Head
from penstock.engine.journal import FAILED, OPEN, Begun, ChunkEntry, Ending, Failure, Match
from penstock.engine.prepare import Parse
from penstock.engine.progress import Progress
from penstock.engine.readback import Move
from penstock.engine.tail import Tail
from penstock.shards import parts_only
from penstock.shards.head import SmallBatches
from penstock.shards.parts_only import PartSink, PartsOnly
from penstock.support import scratch
from penstock.workers.contents import Contents
from penstock.workers.part import Fault, Outcome, Row
from penstock.workers.shard import Shard
from penstock.workers.writer import PartWriter

RUN = 2
"""Of a flow on a worker: what the index has came with an earlier one."""

MISSED = 10
"""Documents that are not there, and none that is, after which a worker gives up."""


@dataclass(frozen=True, slots=True)
class Setup:
    """Components and limits, the same for all shards of a run."""

    source: Source
    embedder: MultiEmbedder
    chunker: Callable[[], Chunker]
    """The chunker, once the embedder is open."""
    parse: Callable[[Item], Parse]
    parser_code: ParserCode
    metadata: MetadataFunction | None
    id_prefix: bytes
    schema: IndexSchema
    budget: int
    workers: int
    max_wait: float


class Producer:
    """Makes the parts of one shard, from what was made of it before on."""

    def __init__(self, setup: Setup, shard: Shard, writer: PartWriter, contents: Callable[[], Contents]) -> None:
        self._setup, self._shard = setup, shard
        self._journal = PartJournal(shard, writer, contents)
        self._writer = writer
        self._lock = Lock()
        self._chunker: Chunker | None = None

    def take_in(self, rows: Iterable[Row], outcomes: Iterable[Outcome]) -> None:
        """What a part of an earlier worker holds is not made again."""
        self._journal.take_in(rows, outcomes)

    @property
    def left(self) -> list[int]:
        """The documents that have not come to an end."""
        return self._journal.left

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._journal.close()

    def fail(self, document: int, cause: str) -> None:
        """A document that is not read."""
        listed = self._shard.documents[document]
        fault = Fault("read", cause, permanent=False)
        self._journal.end(Outcome(document, listed.fingerprint, listed.revision, OPEN, faults=[fault]))

    def run(self, documents: Sequence[int], progress: Callable[[Progress], None] | None) -> bool:
        """Work on these. False where it was stopped. Raises LeaseLost where another worker has the shard."""
        setup, journal, writer = self._setup, self._journal, self._writer
        embedder = SmallBatches(setup.embedder, writer.rows)
        head = Head(
            changes=self._looked_up(documents),
            parse=setup.parse,
            embedder=embedder,
            ready=self._ready,
            view=journal,
            run=RUN,
            workers=setup.workers,
            id_prefix=setup.id_prefix,
            metadata=setup.metadata,
            fetchers=setup.source.fetchers,
            parser_code=setup.parser_code,
            refer=None if self._shard.afresh else journal.refer,
            admit=writer.admit,
            withdraw=writer.withdraw,
            release=writer.release,
        )
        sink = PartSink(journal.add, embedder.batch_rows)
        tail = Tail(sink=sink, ready=self._ready, journal=journal, run=RUN, source="parts", linger=0.0)
        flow = Flow(head, tail, budget=setup.budget, max_wait=setup.max_wait)
        parts_only.run(flow, progress)
        return not flow.interrupted

    def _ready(self) -> Chunker:
        with self._lock:
            if self._chunker is None:
                self._setup.embedder.open()
                self._chunker = self._setup.chunker()
            return self._chunker

    def _looked_up(self, documents: Sequence[int]) -> Iterator[Change]:
        """As the source has them now: they are read as they are then, whatever was listed. Raises SourceError where
        nothing of what was listed is there: then it is this machine that lacks the source."""
        missed: list[int] = []
        found = False
        for document in documents:
            uri = self._shard.documents[document].uri
            try:
                item = self._setup.source.lookup(uri)
            except Exception as error:  # of any kind: one is no reason to leave out the others
                self.fail(
                    document, str(error) if isinstance(error, PenstockError) else f"{type(error).__name__}: {error}"
                )
            else:
                if item is not None:
                    found = True
                    yield Upsert(item)
                else:
                    missed.append(document)
                if not found and len(missed) >= MISSED:
                    raise SourceError(
                        f"none of {len(missed)} documents that the coordinator has listed is there, the first of them"
                        f" {self._shard.documents[missed[0]].uri}: is the source the same on this machine?"
                    )
        for document in missed:
            self.fail(document, "it was listed, and is not there any more")


class PartJournal(PartsOnly):
    """The engine's journal on a worker: it knows what the shard says and earlier parts hold, and writes into the part
    in hand."""

    def __init__(self, shard: Shard, writer: PartWriter, contents: Callable[[], Contents]) -> None:
        self._writer, self._contents, self._shard = writer, contents, shard
        self._numbers = {one.uri: number for number, one in enumerate(shard.documents)}
        self._ended: set[int] = set()
        self._faults: dict[str, list[Failure]] = {}
        self._intended: dict[str, ChunkEntry] = {}
        self._lock = Lock()
        self._db = scratch.database(
            "CREATE TABLE known (document INTEGER NOT NULL, id BLOB NOT NULL, digest INTEGER NOT NULL,"
            " PRIMARY KEY (document, id)) WITHOUT ROWID"
        )
        self._had: set[int] = set()
        for page in shard.chunks():
            self._learn(page)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _learn(self, chunks: Sequence[tuple[int, bytes, int]]) -> None:
        self._had.update(document for document, _, _ in chunks)
        with self._lock:
            self._db.execute("BEGIN")
            self._db.executemany("INSERT OR REPLACE INTO known VALUES (?, ?, ?)", chunks)
            self._db.execute("COMMIT")

    def take_in(self, rows: Iterable[Row], outcomes: Iterable[Outcome]) -> None:
        self._learn([(row.document, row.id, row.digest) for row in rows if row.chunk is not None])
        self._ended.update(outcome.document for outcome in outcomes)

    @property
    def left(self) -> list[int]:
        return [number for number in range(len(self._shard.documents)) if number not in self._ended]

    def end(self, outcome: Outcome) -> None:
        self._writer.end(outcome)
        self._ended.add(outcome.document)

    # ------------------------------------------------------------ what is known

    def begin(self, uris: Sequence[str], run: int) -> dict[str, Begun]:
        return {uri: Begun(number := self._numbers[uri], 1, had=number in self._had) for uri in uris}

    def next_listing(self) -> int:
        return RUN

    def digests(self, document: int, ids: Sequence[bytes]) -> dict[bytes, int]:
        marks = ",".join("?" * len(ids))
        with self._lock:
            rows = self._db.execute(
                f"SELECT id, digest FROM known WHERE document = ? AND id IN ({marks})", (document, *ids)
            )
            return dict(rows.fetchall())

    def same_content(self, contents: Sequence[int], before: int) -> dict[int, bytes]:
        return {} if self._shard.afresh else self._contents().find(contents)

    # ------------------------------------------------------------ what is made

    def refer(self, moves: Sequence[Move]) -> None:
        """Chunks of which the index has the vectors."""
        self._writer.add_rows(
            [
                Row(entry.document, entry.id, entry.content, entry.digest, chunk.length, chunk, None, id)
                for (_, entry, chunk, _, _), id in moves
            ]
        )

    def intend(self, entries: Sequence[ChunkEntry]) -> None:
        with self._lock:
            self._intended.update((entry.id.hex(), entry) for entry in entries)

    def add(self, points: Sequence[Point]) -> None:
        with self._lock:
            entries = {point.id: self._intended[point.id] for point in points}
        self._writer.add_points(points, entries)

    def acknowledge(self, entries: Sequence[ChunkEntry], run: int, matches: Sequence[Match] = ()) -> None:
        with self._lock:
            for entry in entries:
                self._intended.pop(entry.id.hex(), None)

    def keep(self, document: int, attempt: int, ids: Sequence[bytes]) -> None:
        self._writer.add_rows([Row(document, id) for id in ids])

    def record(self, failures: Iterable[Failure], run: int) -> None:
        for failure in failures:
            self._faults.setdefault(failure.uri, []).append(failure)

    def finish(self, endings: Iterable[Ending]) -> None:
        for ending in endings:
            # What a component raised may be this machine's trouble: another one may read the document.
            faults = [
                Fault(one.stage, one.cause, one.permanent and not one.traceback, one.place, one.traceback)
                for one in self._faults.pop(ending.uri, ())
            ]
            state = ending.state
            if state == FAILED and not any(fault.permanent for fault in faults):
                state = OPEN
            self.end(Outcome(ending.document, ending.fingerprint, ending.revision, state, ending.facts, faults))

    def reopen(self, uris: Sequence[str]) -> None:
        """The run on this worker ends with an error, which says which component is broken."""
