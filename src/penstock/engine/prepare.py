"""The prepare stage: open, parse, chunk and name a document, a piece at a time.

Chunks that the index has go past the model: unchanged ones are kept, others get the vectors that are read back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Protocol

from penstock.core.contracts import Chunker
from penstock.core.errors import LimitExceeded, LockedError, ParseError, ParserDied, SourceError, StageError, Transient
from penstock.core.metadata import MetadataFunction, normalized, standard
from penstock.core.records import NOTHING, Block, Gap, Item, Metadata, Piece
from penstock.engine.channel import Broken, Channel, Closed
from penstock.engine.classify import ParserCode
from penstock.engine.control import Control, is_error
from penstock.engine.identity import Namer
from penstock.engine.journal import Failure, View
from penstock.engine.progress import Counters
from penstock.engine.readback import Move, TakesMoves
from penstock.engine.revise import NO_POINTS, Points, Revise
from penstock.engine.scan import Queued
from penstock.engine.work import Document, Event, Failed, Kept, Parsed, Prepared, unread

BATCH, BATCH_BYTES = 64, 128 << 10
"""Chunks that travel together from prepare to embed, at most."""


class Parse(Protocol):
    """A document as its parser gives it. Drawing the blocks may raise ParseError."""

    @property
    def parser(self) -> str: ...
    @property
    def media_type(self) -> str: ...
    @property
    def blocks(self) -> Iterable[Block | Gap | str]: ...


class _ComponentFailed(Exception):
    """A parser or chunker raised something that no contract names."""

    def __init__(self, component: str, stage: str, error: BaseException) -> None:
        super().__init__(str(error))
        self.component, self.stage, self.error = component, stage, error


class _blamed:
    """An error inside that no contract names comes out as _ComponentFailed."""

    def __init__(self, component: str, stage: str) -> None:
        self._component, self._stage = component, stage

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is not None and is_error(error) and not isinstance(error, _NAMED):
            raise _ComponentFailed(self._component, self._stage, error) from error


_NAMED = (
    *(ParseError, SourceError, Transient, LockedError, OSError, MemoryError),
    *(StageError, Broken, Closed, _ComponentFailed),
)
"""Errors that contracts name, and those of others."""


@dataclass(slots=True)
class Prepare:
    parse: Callable[[Item], Parse]
    parser_code: ParserCode
    ready: Callable[[], Chunker]
    """Called before anything is read or deleted, often: opens model and sink the first time, gives the chunker.
    So a run that finds nothing changed loads no model and no driver."""
    view: View
    id_prefix: bytes
    items: Channel[Document]
    blocks: Channel[None]
    chunks: Channel[list[Prepared]]
    read_back: TakesMoves | None
    send: Callable[[Event], None]
    control: Control
    queued: Queued
    metadata: MetadataFunction | None = None
    revise: Revise | None = None
    """None where the index cannot be read back."""

    def work(self) -> None:
        for document in self.items:
            if not self.control.stop.is_set():
                self._read(document)
                self.queued.add(documents=-1)

    def work_on_revisions(self) -> None:
        """Beside the others: a point that is read back takes a store long, and many take it hardly longer."""
        assert self.revise is not None
        for documents in self.revise.batches():
            if not self.control.stop.is_set():
                self._open(documents[0].item.uri)
                points = self.revise.read(documents)
                for document in documents:
                    self._read(document, points)
                    self.queued.add(documents=-1)

    def _open(self, uri: str) -> Chunker:
        try:
            chunker = self.control.retry.call("open", self.ready)
        except Exception as error:  # a store or model that cannot be opened is not this document's failure
            raise StageError("prepare", uri, error) from error
        self.control.loaded()
        return chunker

    def _read(self, document: Document, points: Points = NO_POINTS) -> None:
        item = document.item
        sent = [0]
        chunker = self._open(item.uri)
        ends: Failed | Parsed
        began = time.monotonic()
        try:
            if document.known is None or not self._revise(document, points, sent):
                self._chunk(document, chunker, sent)
        except _ComponentFailed as component:
            ends = Failed(document, self._unexpected(document, component), ends=sent[0])
        except (Broken, Closed, StageError):
            raise
        except Exception as error:
            if (failed := unread(document, error, sent[0])) is None:  # the journal's, or memory is short
                raise StageError("prepare", item.uri, error) from error
            if isinstance(error, LimitExceeded | ParserDied) and not self.control.final(item.uri):
                failed = failed._replace(failure=replace(failed.failure, permanent=False))
            ends = failed
        else:
            for name in ("parser", "chunker", "metadata function"):
                self.control.succeeded(name, began)
            ends = Parsed(document, sent[0])
        self.send(ends)

    def _revise(self, document: Document, points: Points, sent: list[int]) -> bool:
        """Give the document's points its new metadata. False where they cannot all be read back: then it is read."""
        if self.revise is None or document.known is None:
            return False
        given: Metadata = NOTHING
        if self.metadata is not None:
            with _blamed("metadata function", "metadata"):
                given = normalized(self.metadata(document.item))
        return self.revise(document, given, points, sent)

    def _unexpected(self, document: Document, failed: _ComponentFailed) -> Failure:
        cause = self.control.unexpected(failed.component, "prepare", document.item.uri, failed.error)
        return document.failure(failed.stage, cause.text, permanent=cause.permanent, traceback=cause.traceback)

    def _chunk(self, document: Document, chunker: Chunker, sent: list[int]) -> None:
        """Count in `sent` what was sent, also where it ends in an exception."""
        with closing(_Read(document.item.size or 0, self.queued, self.control.counters)) as read:
            self._cut(document, chunker, sent, read)
            read.end()

    def _cut(self, document: Document, chunker: Chunker, sent: list[int], read: _Read) -> None:
        facts = document.facts
        facts["parser_code"] = self.parser_code(document.item, None)
        with _blamed("parser", "parse"):
            parsed = self.parse(document.item)
        size = document.item.size or 0
        facts.update(parser=parsed.parser, media_type=parsed.media_type, bytes=size, chunks=0, tokens=0)
        facts["parser_code"] = self.parser_code(document.item, parsed.media_type)
        given: Metadata = NOTHING
        if self.metadata is not None:
            with _blamed("metadata function", "metadata"):
                given = normalized(self.metadata(document.item))
        namer = Namer(
            document.item,
            document.begun,
            self.id_prefix,
            standard=standard(document.item, parsed.media_type),
            given=given,
        )
        own = _blamed("chunker", "chunk")
        batch: list[Prepared] = []
        held = 0
        # Closed here: a chunker that keeps its blocks would keep their room as well.
        with closing(self._draw(document, parsed.blocks)) as blocks, closing(_pieces(chunker, blocks)) as pieces:
            for piece in pieces:
                with own:
                    chunk, entry = namer.name(piece)
                    weight = chunk.nbytes
                batch.append(Prepared(document, entry, chunk, weight, chunk.length))
                held += weight
                if len(batch) >= BATCH or held >= BATCH_BYTES:
                    sent[0] += self._send(document, batch)
                    batch, held = [], 0
                    read.to(piece.span[1])
        sent[0] += self._send(document, batch)

    def _draw(self, document: Document, blocks: Iterable[Block | Gap | str]) -> Generator[Block, None, None]:
        """The parser's blocks. As much is charged as the largest so far takes: the chunker has one at a time."""
        held = gaps = 0
        try:
            for block in _guarded(blocks):
                if isinstance(block, Gap):
                    gaps += 1  # a document may have several, each with a place of its own
                    place = f"page {block.page}" if block.page is not None else f"part {gaps}"
                    self.control.counters.add(gaps=1)
                    failure = document.failure("parse", block.cause, permanent=not block.passing, place=place)
                    self.send(Failed(document, failure))
                    continue
                if isinstance(block, str):
                    block = Block(block)
                size = block.nbytes
                if size > held:
                    # Let go first: two that hold a part and wait for more would wait for ever.
                    self.blocks.release(held)
                    held = 0
                    self.blocks.charge(size)
                    held = size
                yield block
        finally:
            self.blocks.release(held)

    def _send(self, document: Document, batch: list[Prepared]) -> int:
        """Send on those that the index does not have as they are. Gives how many."""
        if self.control.stop.is_set():
            raise Broken("stopped")
        if not batch:
            return 0
        begun = document.begun
        digests = self.view.digests(begun.document, [one.entry.id for one in batch]) if begun.had else {}
        new: list[Prepared] = [one for one in batch if one.entry.id not in digests] if digests else batch
        moves: list[Move] = []
        kept: list[bytes] = []
        for one in batch if digests else ():
            digest = digests.get(one.entry.id)
            if digest == one.entry.digest:
                kept.append(one.entry.id)
            elif digest is not None:
                moves.append(Move(one, one.entry.id))
        if kept:
            self.send(Kept(document, kept))
            self.control.counters.add(kept=len(kept))
        if self.read_back is None:
            new = [*new, *(move.prepared for move in moves)]
        else:
            if new and (listing := self.control.listing) > 1:
                same = self.view.same_content([one.entry.content for one in new], before=listing)
                moves += [Move(one, same[one.entry.content]) for one in new if one.entry.content in same]
                new = [one for one in new if one.entry.content not in same]
            if moves:
                self.read_back.put(moves)
        document.facts["chunks"] += len(batch)
        document.facts["tokens"] += sum(one.length for one in batch)
        if new:
            self.queued.add(tokens=sum(one.length for one in new))
            self.chunks.put(new, sum(one.nbytes for one in new))
        return len(batch) - len(kept)


class _Read:
    """How far a document was read, by what was cut of it: a character is about a byte."""

    def __init__(self, size: int, queued: Queued, counters: Counters) -> None:
        self._left, self._queued, self._counters = size, queued, counters
        self._at = 0

    def to(self, at: int) -> None:
        self._count(min(max(0, at - self._at), self._left))
        self._at = max(at, self._at)

    def end(self) -> None:
        """All of it was."""
        self._count(self._left)

    def _count(self, amount: int) -> None:
        self._counters.add(bytes=amount)
        self._queued.add(bytes=-amount)
        self._left -= amount

    def close(self) -> None:
        """What was not read by now will not be."""
        self._queued.add(bytes=-self._left)
        self._left = 0


def _guarded(blocks: Iterable[Block | Gap | str]) -> Generator[Block | Gap | str, None, None]:
    with _blamed("parser", "parse"):
        yield from blocks


def _pieces(chunker: Chunker, blocks: Iterable[Block]) -> Generator[Piece, None, None]:
    with _blamed("chunker", "chunk"):
        for piece in chunker(blocks):
            if not isinstance(piece, Piece):
                raise TypeError(f"a chunker yields Pieces, not {type(piece).__name__}")
            yield piece
