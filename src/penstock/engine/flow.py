"""The flow: scan -> prepare -> embed -> write -> commit.

    source ─► items ─► prepare ─► chunks ─► embed ─► points ─► write ─► commits ─► commit
                          └───────── vectors read back ─────────┘

A pool of threads a stage, a channel between two of them, and the budget divided among the channels. Each stage ends
when its inbox has ended and closes what it fills; an error anywhere breaks the channels, everybody lets go, and the
first error is raised in the caller's thread.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from penstock.core.contracts import Chunker, MultiEmbedder, Sink
from penstock.core.errors import (
    EmbedError,
    ParseError,
    Rejected,
    SourceError,
    StageError,
    TooLarge,
    Transient,
    Unsupported,
)
from penstock.core.records import (
    Block,
    Change,
    Checkpoint,
    Chunk,
    Delete,
    Gap,
    Item,
    ListingEnd,
    Piece,
    Point,
    Unreadable,
    Upsert,
    Vector,
)
from penstock.core.retry import Retry
from penstock.engine.channel import Broken, Channel, Empty, Ended
from penstock.engine.identity import Namer
from penstock.engine.pack import Packer
from penstock.engine.progress import Counters, Progress
from penstock.engine.stage import Stage
from penstock.engine.tracker import (
    Acked,
    Committer,
    Document,
    Event,
    Failed,
    Filled,
    Gone,
    InFlight,
    Kept,
    Load,
    Marked,
    Parsed,
    event_size,
)
from penstock.ledger import Failure, Ledger
from penstock.support.heap import tighten

SHARES = {"items": 0.005, "blocks": 0.15, "chunks": 0.325, "points": 0.47, "commits": 0.05}
"""How the budget is divided. Points weigh most: text and vector, in batches that a sink likes large."""
RESERVE = 16 << 20
"""Of the budget, at most: for what no channel holds, the ledger's pages and statements and what the allocator keeps."""
BATCH, BATCH_BYTES = 64, 128 << 10
"""Chunks that travel together from prepare to embed, at most."""
GRACE = 1.0
"""Seconds that a source has to end when the run does."""
WINDOW = 32
"""Batches' worth of tokens that are sorted by length together."""


class Parse(Protocol):
    """What a parser dispatch gives for an item. May raise ParseError, now or while the blocks are drawn."""

    @property
    def parser(self) -> str: ...
    @property
    def media_type(self) -> str: ...
    @property
    def blocks(self) -> Iterable[Block | Gap | str]: ...


@dataclass(slots=True)
class Setup:
    """What a flow is made of."""

    changes: Iterable[Change]
    parse: Callable[[Item], Parse]
    embedder: MultiEmbedder
    sink: Sink
    ready: Callable[[], Chunker]
    """Called before anything is read or deleted, often: opens model and sink the first time, gives the chunker.
    So a run that finds nothing changed loads no model and no driver."""
    ledger: Ledger
    run: int
    source: str
    budget: int
    workers: int
    """Documents that are read at once."""
    tag: bytes = b""
    """What the ids begin with: the namespace's."""
    feed: bool = False
    force: bool = False
    """Read every item, whatever the ledger knows of it."""
    allow_mass_delete: bool = False
    max_wait: float = 600.0
    linger: float = 0.5


class Flow:
    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.counters = Counters()
        self._began = time.monotonic()
        self._stop = threading.Event()
        self.interrupted = False
        self._error: BaseException | None = None
        self._waiting = ""
        self._listing = True
        self._queued = 0
        self._lock = threading.Lock()

        room = setup.budget - min(RESERVE, setup.budget // 4)

        def channel(name: str) -> int:
            return int(room * SHARES[name])

        self._items: Channel[Document] = Channel("items", channel("items"))
        self._blocks: Channel[None] = Channel("blocks", channel("blocks"))
        self._chunks: Channel[list[Load]] = Channel("chunks", channel("chunks"))
        self._points: Channel[list[Filled]] = Channel("points", channel("points"))
        self._commits: Channel[Event] = Channel("commits", channel("commits"))

        embedder, sink = setup.embedder, setup.sink
        self._packer = Packer(
            self._chunks, window=WINDOW * embedder.batch_tokens, tokens=embedder.batch_tokens, rows=embedder.batch_rows
        )
        self._retry = Retry(setup.max_wait, self._stop, self._wait)
        self._gate = threading.BoundedSemaphore(sink.writers)
        self._in_flight = InFlight()
        self._history = setup.run > 1
        self.committer = Committer(
            inbox=self._commits,
            ledger=setup.ledger,
            sink=sink,
            ready=setup.ready,
            gate=self._gate,
            run=setup.run,
            counters=self.counters,
            in_flight=self._in_flight,
            retry=self._retry,
            source=setup.source,
            allow_mass_delete=setup.allow_mass_delete,
            interrupted=self._stop.is_set,
            linger=setup.linger,
        )
        self._stages = [
            Stage("scan", 1, self._scan, self._items.close, self._fail),
            Stage("prepare", setup.workers, self._prepare, self._chunks.close, self._fail),
            Stage("embed", embedder.workers, self._embed, self._points.close, self._fail),
            Stage("write", sink.writers, self._write, self._commits.close, self._fail),
            Stage("commit", 1, self.committer.work, self._commits.fail, self._fail),
        ]

    # ------------------------------------------------------------ from outside

    def run(self, tell: Callable[[Progress], None] | None = None, interval: float = 0.2) -> None:
        """Until everything is committed. Ctrl-C lets what is in flight run out; a second one passes through."""
        tighten(self.setup.workers)
        for stage in self._stages:
            stage.start()
        alive = True
        while alive:
            try:
                alive = not self._ended(interval)
                if tell:
                    tell(self.progress())
            except KeyboardInterrupt:
                if self.interrupted:
                    raise
                self.stop()
            except Exception as error:  # the callback's: the threads are not left alone with it
                tell = None
                self._fail(error)
        if self._error is not None and not (self.interrupted and isinstance(self._error.__cause__, Transient)):
            raise self._error  # but when stopped while waiting for something that is away, that is no news

    def _ended(self, interval: float) -> bool:
        scan, *others = self._stages
        if not self._stages[-1].join(interval) or not all(stage.join(interval) for stage in others):
            return False
        # A source may sleep until there is news. Once the run is stopped or has failed, nobody listens any more.
        return scan.join(GRACE if self._stop.is_set() else interval) or self._stop.is_set()

    def stop(self) -> None:
        """Take in no more, drop what has not been embedded, write and commit the rest."""
        self.interrupted = True
        self._stop.set()
        self._in_flight.release_all()
        self._items.fail()
        self._chunks.drop()
        self._packer.drop()

    def progress(self) -> Progress:
        return Progress(
            seconds=time.monotonic() - self._began,
            counts=self.counters.values(),
            channels=tuple(c.stats() for c in (self._items, self._blocks, self._chunks, self._points, self._commits)),
            budget=self.setup.budget,
            listing=self._listing,
            queued_bytes=self._queued,
            waiting=self._waiting,
        )

    def _wait(self, what: str) -> None:
        self._waiting = what
        if what:
            self.counters.add(retries=1)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self._error = self._error or error
        self._stop.set()
        self._in_flight.release_all()
        for channel in (self._items, self._blocks, self._chunks, self._points):
            channel.fail()  # but not the commits: what was acknowledged is still written down

    # ------------------------------------------------------------ scan

    def _scan(self) -> None:
        try:
            self._listen()
        except (Broken, Ended):
            raise
        except Exception as error:
            # What was told before goes all the way: a source that breaks off now and then still gets on.
            with self._lock:
                self._error = self._error or StageError("scan", None, error)
        finally:
            self._listing = False

    def _listen(self) -> None:
        epoch = begun = 0
        page: list[Item] = []
        since = time.monotonic()
        # A feed may sleep between two changes: nothing is kept waiting for company there.
        size = 1 if self.setup.feed else 256
        for change in self.setup.changes:
            if self._stop.is_set():
                return
            if isinstance(change, Upsert):
                page.append(change.item)
                if len(page) < size and time.monotonic() - since < 0.1:
                    continue
            begun += self._consider(page, epoch)
            page, since = [], time.monotonic()
            match change:
                case Delete(uri):
                    self._in_flight.enter(uri, wait=True)
                    self._tell(Gone(uri, epoch))
                    begun += 1
                case Unreadable(uri, cause):
                    self.setup.ledger.saw_under(uri, self.setup.run)
                    self.setup.ledger.record([Failure(uri, "list", cause, permanent=False)])
                    self.counters.add(gaps=1)
                case ListingEnd():
                    self._tell(Marked(epoch, begun, None))
                    epoch, begun = epoch + 1, 0
                case Checkpoint(cursor):
                    self._tell(Marked(epoch, begun, cursor))
                    epoch, begun = epoch + 1, 0
        self._consider(page, epoch)

    def _consider(self, items: Sequence[Item], epoch: int) -> int:
        """Send on what is new or changed; gives how many."""
        if not items:
            return 0
        ledger, run = self.setup.ledger, self.setup.run
        self.counters.add(listed=len(items))
        items = [item for item in items if self._in_flight.enter(item.uri, wait=self.setup.feed)]
        known = ledger.known([item.uri for item in items])
        unchanged: list[int] = []
        work: list[Item] = []
        for item in items:
            before = known.get(item.uri)
            if before and before.settled(item.fingerprint) and not self.setup.force:
                unchanged.append(before.document)
                self._in_flight.leave(item.uri)
            else:
                work.append(item)
        if unchanged:
            ledger.saw(unchanged, run)
            self.counters.add(unchanged=len(unchanged))
        begun = ledger.begin([item.uri for item in work], run) if work else {}
        for item in work:
            with self._lock:
                self._queued += item.size or 0
            self._items.put(Document(item, begun[item.uri], epoch), item.nbytes)
        return len(work)

    def _tell(self, event: Event) -> None:
        self._commits.put(event, event_size(event))

    # ------------------------------------------------------------ prepare

    def _prepare(self) -> None:
        for document in self._items:
            if not self._stop.is_set():
                self._read(document)

    def _read(self, document: Document) -> None:
        """Open, parse, chunk, name; a piece at a time."""
        item = document.item
        sent = 0
        try:
            chunker = self.setup.ready()
        except Exception as error:  # a store or model that cannot be opened is not this document's failure
            raise StageError("prepare", item.uri, error) from error
        try:
            document.since = time.time()
            parsed = self.setup.parse(item)
            document.facts.update(
                parser=parsed.parser, media_type=parsed.media_type, bytes=item.size or 0, chunks=0, tokens=0
            )
            namer = Namer(item, document.begun, self.setup.tag)
            batch: list[Load] = []
            size = 0
            for piece in chunker(self._drawn(document, parsed.blocks)):
                if not isinstance(piece, Piece):
                    raise TypeError(f"a chunker yields Pieces, not {type(piece).__name__}")
                chunk, row = namer.name(piece)
                weight = chunk.nbytes
                batch.append(Load(document, row, chunk, weight, chunk.length))
                size += weight
                if len(batch) >= BATCH or size >= BATCH_BYTES:
                    sent += self._send(document, batch)
                    batch, size = [], 0
            sent += self._send(document, batch)
        except Unsupported as error:
            self._tell(Failed(document, Failure(item.uri, "parse", str(error)), ends=sent, skipped=True))
        except ParseError as error:
            self._tell(Failed(document, Failure(item.uri, "parse", str(error)), ends=sent))
        except (SourceError, OSError) as error:
            cause = str(error) if isinstance(error, SourceError) else f"{type(error).__name__}: {error}"
            self._tell(Failed(document, Failure(item.uri, "read", cause, permanent=False), ends=sent))
        except (Broken, StageError):
            raise
        except Exception as error:
            raise StageError("prepare", item.uri, error) from error
        else:
            self._tell(Parsed(document, sent))

    def _drawn(self, document: Document, blocks: Iterable[Block | Gap | str]) -> Iterator[Block]:
        """The parser's blocks. As much is charged as the largest so far takes: the chunker has one at a time."""
        left = document.item.size or 0
        held = read = 0
        try:
            for block in blocks:
                if isinstance(block, Gap):
                    place = f"page {block.page}" if block.page is not None else ""
                    failure = Failure(document.item.uri, "parse", block.cause, place=place)
                    self.counters.add(gaps=1)
                    self._tell(Failed(document, failure))
                    continue
                if isinstance(block, str):
                    block = Block(block)
                size = block.nbytes
                if size > held:
                    # Let go first: two that hold a part and wait for more would wait for ever.
                    self._blocks.release(held)
                    held = 0
                    self._blocks.charge(size)
                    held = size
                yield block
                read += len(block.text)
                if read >= BATCH_BYTES:
                    left -= self._progressed(min(read, left))
                    read = 0
        finally:
            self._blocks.release(held)
            self._progressed(left)

    def _progressed(self, amount: int) -> int:
        self.counters.add(bytes=amount)
        with self._lock:
            self._queued -= amount
        return amount

    def _send(self, document: Document, batch: list[Load]) -> int:
        """Send on those that the index does not have as they are. Gives how many."""
        if self._stop.is_set():
            raise Broken("stopped")
        if not batch:
            return 0
        setup, begun = self.setup, document.begun
        had = setup.ledger.had(begun.document, [load.row.id for load in batch]) if begun.had else {}
        new: list[Load] = [load for load in batch if load.row.id not in had] if had else batch
        moved: list[tuple[Load, bytes]] = []
        kept: list[bytes] = []
        for load in batch if had else ():
            digest = had.get(load.row.id)
            if digest == load.row.digest:
                kept.append(load.row.id)
            elif digest is not None:
                moved.append((load, load.row.id))
        if kept:
            self._tell(Kept(document, kept))
            self.counters.add(kept=len(kept))
        if setup.sink.readable:
            if new and self._history:
                same = setup.ledger.same_content([load.row.content for load in new], before=setup.run)
                moved += [(load, same[load.row.content]) for load in new if load.row.content in same]
                new = [load for load in new if load.row.content not in same]
            if moved:
                new = [*new, *self._read_back(moved)]
        else:
            new = [*new, *(load for load, _ in moved)]
        document.facts["chunks"] = int(document.facts["chunks"]) + len(batch)
        document.facts["tokens"] = int(document.facts["tokens"]) + sum(load.length for load in batch)
        if new:
            self._chunks.put(new, sum(load.nbytes for load in new))
        return len(batch) - len(kept)

    def _read_back(self, moved: Sequence[tuple[Load, bytes]]) -> list[Load]:
        """Send chunks whose vectors the index has, under this id or another, past the model; gives those it has not."""
        ids = sorted({id.hex() for _, id in moved})
        rows = self.setup.sink.max_rows
        stored: dict[str, Point] = {}
        try:
            for page in (ids[start : start + rows] for start in range(0, len(ids), rows)):
                points = self._retry.call("read back", lambda: self.setup.sink.fetch(page))  # noqa: B023
                stored.update((point.id, point) for point in points)
        except Exception as error:  # a driver's error may be an OSError, and is not the document's
            raise StageError("read back", moved[0][0].chunk.uri, error) from error
        found: list[Filled] = []
        lost: list[Load] = []
        for load, id in moved:
            point = stored.get(id.hex())
            # An image is not kept, so its hash has to do, by which it was found.
            if point is None or point.chunk.text != load.chunk.text or _seen(point.chunk) != _seen(load.chunk):
                lost.append(load)
            else:
                found.append(_filled(load, point.vectors))
        if found:
            self._points.put(found, sum(filled.nbytes for filled in found))
            self.counters.add(moved=len(found))
        return lost

    # ------------------------------------------------------------ embed

    def _embed(self) -> None:
        while True:
            batch = self._packer.next()
            if not self._stop.is_set():
                self._vectors(batch.loads)
            self._packer.release(batch)

    def _vectors(self, loads: Sequence[Load]) -> None:
        chunks = [load.chunk for load in loads]
        try:
            vectors = self._retry.call("embed", lambda: self.setup.embedder.embed(chunks))
            for name, column in vectors.items():
                if len(column) != len(chunks):
                    raise TypeError(f"the embedder gave {len(column)} vectors {name!r} for {len(chunks)} chunks")
        except EmbedError as error:
            if len(loads) > 1:  # find the culprit
                self._vectors(loads[: len(loads) // 2])
                self._vectors(loads[len(loads) // 2 :])
            else:
                self._lose(loads[0].document, "embed", loads[0].chunk.id, str(error))
            return
        except Exception as error:
            raise StageError("embed", chunks[0].uri, error) from error
        names, rows = tuple(vectors), zip(*vectors.values(), strict=True)
        filled = [_filled(load, dict(zip(names, row, strict=True))) for load, row in zip(loads, rows, strict=True)]
        self.counters.add(embedded=len(filled), tokens=sum(load.length for load in loads))
        self._points.put(filled, sum(one.nbytes for one in filled))

    def _lose(self, document: Document, stage: str, id: str, cause: str) -> None:
        self.counters.add(gaps=1)
        self._tell(Failed(document, Failure(document.item.uri, stage, cause, place=id), settles=1))

    # ------------------------------------------------------------ write

    def _write(self) -> None:
        sink, inbox = self.setup.sink, self._points
        most = min(sink.max_bytes, inbox.capacity // (2 * sink.writers))
        buffer: list[Filled] = []
        held = 0
        ended = False
        while not ended or buffer:
            until = time.monotonic() + self._patient()
            while not ended and len(buffer) < sink.max_rows and held < most:
                try:
                    filled, size = inbox.get(timeout=max(0.0, until - time.monotonic()) if buffer else None)
                except Ended:
                    ended = True
                except Empty:
                    break
                else:
                    if not buffer:
                        until = time.monotonic() + self._patient()
                    buffer += filled
                    held += size
            ready, buffer = buffer[: sink.max_rows], buffer[sink.max_rows :]
            if ready:
                self.setup.ledger.intend([one.row for one in ready])
                self._put(ready)
                size = sum(one.nbytes for one in ready)
                del ready  # let go of, before room is given for more
                inbox.release(size)
                held -= size

    def _patient(self) -> float:
        """How long a write waits to be full. Short at first, so that the index fills at once; longer in a long run,
        where many small writes would leave the store in crumbs."""
        linger = self.setup.linger
        return linger if self.setup.feed else min(20 * linger, (time.monotonic() - self._began) / 20)

    def _put(self, filled: Sequence[Filled]) -> None:
        points = [one.point for one in filled]
        try:
            with self._gate:
                self._retry.call("write", lambda: self.setup.sink.write(points))
        except TooLarge as error:
            if len(filled) > 1:
                self._put(filled[: len(filled) // 2])
                self._put(filled[len(filled) // 2 :])
            else:
                self._lose(filled[0].document, "write", points[0].id, str(error))
            return
        except Rejected as error:
            for one in filled:
                if one.point.id in error.reasons:
                    self._lose(one.document, "write", one.point.id, error.reasons[one.point.id])
            filled = [one for one in filled if one.point.id not in error.reasons]
        except Exception as error:
            raise StageError("write", points[0].chunk.uri, error) from error
        if filled:
            self._tell(Acked([one.row for one in filled], Counter([one.document for one in filled])))


def _seen(chunk: Chunk) -> bool:
    return chunk.image is not None


def _filled(load: Load, vectors: Mapping[str, Vector]) -> Filled:
    chunk = load.chunk if load.chunk.image is None else replace(load.chunk, image=b"")
    point = Point(chunk, vectors)
    return Filled(load.document, load.row, point, point.nbytes)
