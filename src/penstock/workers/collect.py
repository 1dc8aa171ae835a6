"""Parts into the seam: what workers have made crosses it as if it had been embedded here."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from penstock.core.errors import SourceError
from penstock.core.records import Point
from penstock.engine.channel import Channel, Empty, Ended
from penstock.engine.journal import DONE, OPEN, SKIPPED, ChunkEntry, Failure
from penstock.engine.readback import Move, ReadBack
from penstock.engine.scan import Queued
from penstock.engine.seam import Seam
from penstock.engine.work import Document, Embedded, Failed, Kept, Parsed, Prepared
from penstock.workers.dispatch import Dispatcher, Outstanding, Slot
from penstock.workers.part import Fault, Outcome, Row, decode
from penstock.workers.place import PartName
from penstock.workers.roster import Roster

LOOK = 0.25
"""Seconds between two looks at the place."""


class Collector:
    """The only thread that looks at the place: hands documents out and takes in what becomes of them."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        items: Channel[Document],
        read_back: ReadBack | None,
        seam: Seam,
        queued: Queued,
        match: Callable[[list[Embedded]], list[Embedded]] | None = None,
    ) -> None:
        self._dispatcher, self._items, self._read_back = dispatcher, items, read_back
        self._seam, self._queued, self._match = seam, queued, match
        self._place, self._view, self._control = dispatcher.place, dispatcher.view, dispatcher.control
        self._schema, self._run = dispatcher.work.schema, dispatcher.work.run
        self._shards: dict[int, Outstanding] = {}
        self._lost: Counter[Document] = Counter()
        """Chunks whose vectors the index lacks after all. Such a document is handed out once more."""
        self._lock = threading.Lock()
        self._roster = Roster(self._place, self._control)

    def work(self) -> None:
        control = self._control
        self._shards = {shard.number: shard for shard in self._dispatcher.adopt()}
        ended, looked = False, 0.0
        while not control.stop.is_set():
            if not ended:
                ended = self._take_items()
            while (shard := self._dispatcher.next(ended=ended)) is not None:
                self._shards[shard.number] = shard
            if ended and not self._shards:
                self._dispatcher.end()
                return
            if time.monotonic() - looked >= LOOK:
                self._look()
                looked = time.monotonic()
            elif ended:
                control.stop.wait(LOOK / 5)

    def lose(self, prepared: Sequence[Prepared]) -> None:
        """The index lacks the vectors of these."""
        with self._lock:
            self._lost.update(one.document for one in prepared)

    def _take_items(self) -> bool:
        """Take in what the scan has found by now. True once that is all."""
        try:
            until = time.monotonic() + LOOK / 2
            while (left := until - time.monotonic()) > 0:
                document, size = self._items.get(timeout=left)
                if not self._dispatcher.add(document, size):
                    self._items.release(size)  # it is at the place already
                while (shard := self._dispatcher.next(ended=False)) is not None:
                    self._shards[shard.number] = shard
        except Empty:
            return False
        except Ended:
            self._dispatcher.listed()
            return True
        return False

    # ------------------------------------------------------------ a look at the place

    def _look(self) -> None:
        retry = self._control.retry
        self._roster.look(bool(self._shards))
        if not self._shards:
            return
        look = retry.call("list", self._place.look)
        for shard in [*self._shards.values()]:
            if self._control.stop.is_set():
                return
            news = any(part not in shard.taken_in for part in look.parts.get(shard.number, ()))
            if news and (shard.complete or all(slot.document for slot in shard.slots)):
                counted = partial(look.counted, shard.number, look.terms.get(shard.number, 0))
                self._take_parts(shard, sorted(retry.call("read", counted) or ()))
            self._settle(shard)

    def _take_parts(self, shard: Outstanding, parts: Sequence[PartName]) -> None:
        for part in parts:
            if part in shard.taken_in or self._control.stop.is_set():
                continue
            if part.term != shard.term and not self._begin_term(shard, part.term):
                return
            data = self._control.retry.call("read", lambda: self._place.store.read(str(part)))  # noqa: B023
            if data is None:
                raise SourceError(f"{self._place.url}/{part} is gone: somebody else removes files there")
            read = decode(str(part), data, self._schema, shard.uris)
            for rows in read.rows:
                self._take_rows(shard, rows)
            for outcome in read.outcomes:
                self._end(shard.slots[outcome.document], outcome)
            shard.taken_in.add(part)

    def _begin_term(self, shard: Outstanding, term: int) -> bool:
        """Another worker has read what had not come to its end: that is another attempt. False as long as chunks of
        the one before are on their way, which must not come after it."""
        again = [(slot, document) for slot, document in shard.working if not slot.read and shard.term]
        if any(document.settled + self._lost[document] < slot.sent for slot, document in again):
            return False
        self._begin_again([slot for slot, _ in again])
        shard.term = term
        return True

    def _begin_again(self, slots: Sequence[Slot]) -> None:
        begun = self._view.begin([slot.listed.uri for slot in slots], self._run)
        for slot in slots:
            document = slot.document
            assert document is not None
            with self._lock:
                self._lost.pop(document, None)
            slot.document = Document(document.item, begun[slot.listed.uri], document.epochs, document.known)
            slot.sent, slot.read = 0, False

    # ------------------------------------------------------------ what parts hold

    def _take_rows(self, shard: Outstanding, rows: Sequence[Row]) -> None:
        by_slot: dict[int, list[Row]] = {}
        for row in rows:
            by_slot.setdefault(row.document, []).append(row)
        points: list[Embedded] = []
        moves: list[Move] = []
        for number, some in by_slot.items():
            slot = shard.slots[number]
            if (document := slot.document) is None or slot.read:
                continue
            fresh, missing = self._without_kept(document, some)
            slot.sent += len(fresh) + missing
            if missing:
                with self._lock:
                    self._lost[document] += missing
            for row in fresh:
                assert row.chunk is not None
                begun = document.begun
                entry = ChunkEntry(begun.document, row.id, row.content, row.digest, begun.attempt)
                if row.vectors is not None:
                    point = Point(row.chunk, row.vectors)
                    points.append(Embedded(document, entry, point, point.nbytes))
                    self._control.counters.add(embedded=1, tokens=row.length)
                elif row.moved is not None:
                    chunk = row.chunk
                    moves.append(Move(Prepared(document, entry, chunk, chunk.nbytes, row.length), row.moved))
        if points:
            if (match := self._match) is not None:
                points = self._control.retry.call("embed", partial(match, points))
            self._seam.points.put(points, sum(one.nbytes for one in points))
        if moves and self._read_back is not None:
            self._read_back.put(moves)
        elif moves:
            self.lose([move.prepared for move in moves])

    def _without_kept(self, document: Document, rows: Sequence[Row]) -> tuple[list[Row], int]:
        """The rows that are to be written; those that the index has as they are, as the worker knew, or since a run
        before took in this very part, are kept. And how many the worker took to be in the index that are not: they were
        in a part of an earlier worker and could not be written, or have been taken out since."""
        begun = document.begun
        digests = self._view.digests(begun.document, [row.id for row in rows]) if begun.had else {}
        fresh = [row for row in rows if row.chunk is not None and digests.get(row.id) != row.digest]
        to_write = {row.id for row in fresh}
        kept = [row.id for row in rows if row.id not in to_write]
        if kept:
            self._seam.send(Kept(document, kept))
            self._control.counters.add(kept=len(kept))
        return fresh, sum(row.chunk is None and row.id not in digests for row in rows)

    def _end(self, slot: Slot, outcome: Outcome) -> None:
        document = slot.document
        if document is None or slot.read:
            return
        slot.read = True
        item = document.item
        document.item = replace(item, fingerprint=outcome.fingerprint, revision=outcome.revision)
        document.facts = dict(outcome.facts)
        self._queued.add(documents=-1, bytes=-(item.size or 0))
        faults = list(outcome.faults)
        ends: Failed | Parsed = Parsed(document, slot.sent)
        if outcome.state != DONE:
            fault = _decisive(outcome)
            faults = [one for one in faults if one is not fault]
            skipped = outcome.state == SKIPPED
            ends = Failed(document, _failure(document, fault), ends=slot.sent, skipped=skipped)
        for one in faults:
            self._seam.send(Failed(document, _failure(document, one)))
        self._control.counters.add(gaps=len(faults), bytes=int(outcome.facts.get("bytes") or 0))
        self._seam.send(ends)

    # ------------------------------------------------------------ what is done

    def _settle(self, shard: Outstanding) -> None:
        """Let go of documents that are committed; of the shard, once that is all of them."""
        again = []
        for slot, document in [*shard.working]:
            if document.item.uri not in self._control.in_flight:
                self._items.release(slot.charged)
                slot.document = None
            elif slot.read and (lost := self._lost[document]) and document.settled + lost == slot.sent:
                again.append(slot)
        if again:
            self._queue_again(again)
            self._begin_again(again)
            slots = [Slot(slot.listed, slot.document, slot.charged) for slot in again]
            for slot in again:
                slot.document = None
            once_more = self._dispatcher.hand_out(slots, afresh=True)
            self._shards[once_more.number] = once_more
        if shard.complete and not any(True for _ in shard.working):
            self._control.retry.call("remove", lambda: self._place.remove_shard(shard.number))
            del self._shards[shard.number]

    def _queue_again(self, slots: Sequence[Slot]) -> None:
        for slot in slots:
            assert slot.document is not None
            self._queued.add(documents=1, bytes=slot.document.item.size or 0)


def _decisive(outcome: Outcome) -> Fault:
    """The failure by which a document has come to the state that it is in."""
    passing = outcome.state == OPEN
    for fault in reversed(outcome.faults):
        if fault.permanent != passing:
            return fault
    return Fault("read", "a worker could not read it, and did not say why", permanent=not passing)


def _failure(document: Document, fault: Fault) -> Failure:
    return document.failure(
        fault.stage, fault.cause, permanent=fault.permanent, place=fault.place, traceback=fault.traceback
    )
