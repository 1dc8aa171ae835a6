"""The embed stage: batches of chunks of many documents, through the model."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from penstock.core.contracts import MultiEmbedder
from penstock.core.errors import EmbedError, PenstockError, StageError
from penstock.core.records import Reused
from penstock.engine.channel import Channel
from penstock.engine.control import Control, is_error
from penstock.engine.pack import Packer
from penstock.engine.scan import Queued
from penstock.engine.work import Embedded, Event, Failed, Prepared, by_document, embedded


@dataclass(slots=True)
class Embed:
    embedder: MultiEmbedder
    packer: Packer
    points: Channel[list[Embedded]]
    send: Callable[[Event], None]
    control: Control
    queued: Queued
    room: int
    """Bytes of vectors that are made in one call, about: they are charged when they are there."""
    guess: int
    """Bytes of the vectors of a chunk, until there is one."""
    admit: Callable[[int], None] | None = None
    """Called before so many chunks are embedded: waits, or makes room, where a tail limits how many may be embedded
    and not yet kept."""
    withdraw: Callable[[int], None] | None = None
    """Called where so many chunks that were admitted could not be embedded."""
    match: Callable[[list[Embedded]], list[Embedded]] | None = None
    """Adds to points what standing queries find in them. May use the model."""
    _largest: int = 0

    def work(self) -> None:
        while True:
            batch = self.packer.next()
            start = 0
            while start < len(batch.prepared) and not self.control.stop.is_set():
                some = batch.prepared[start : start + max(1, self.room // max(1, self._largest or self.guess))]
                self._batch(some)
                self.queued.add(tokens=-sum(one.length for one in some))
                start += len(some)
            self.packer.release(batch)

    def _batch(self, batch: Sequence[Prepared], *, last: bool = False) -> None:
        if (admit := self.admit) is not None:
            self.control.retry.call("write", lambda: admit(len(batch)))
            if self.control.stop.is_set():  # while it waited
                self._withdraw(batch)
                return
        unexpected: BaseException | None = None
        began = time.monotonic()
        try:
            points, reused = self._vectors(batch)
        except EmbedError as error:
            self._withdraw(batch)
            if len(batch) > 1:  # find the culprit
                self._batch(batch[: len(batch) // 2])
                self._batch(batch[len(batch) // 2 :])
            else:
                self._lose(batch, str(error))
        except (PenstockError, MemoryError) as error:
            raise StageError("embed", batch[0].chunk.uri, error) from error
        except BaseException as error:
            if not is_error(error):
                raise
            unexpected = error
        else:
            self.control.succeeded("embedder", began)
            tokens = sum(one.length for one in batch) if reused < len(points) else 0
            self._largest = max([self._largest, *map(_size_of_vectors, points)])
            self.control.counters.add(embedded=len(points) - reused, moved=reused, tokens=tokens)
            self.points.put(points, sum(one.nbytes for one in points))
        if unexpected is not None:  # out here, so that the first error is not the context of the second
            self._withdraw(batch)
            if not self.control.stop.is_set():  # else the call may have been given up, which is nobody's failure
                self._isolate(batch, unexpected, last)

    def _vectors(self, batch: Sequence[Prepared]) -> tuple[list[Embedded], int]:
        """The points of the batch, and of how many no vector was made."""
        chunks = [one.chunk for one in batch]
        vectors = self.control.retry.call("embed", lambda: self.embedder.embed(chunks))
        for name, column in vectors.items():
            if len(column) != len(chunks):
                raise TypeError(f"the embedder gave {len(column)} vectors {name!r} for {len(chunks)} chunks")
        names, rows = tuple(vectors), zip(*vectors.values(), strict=True)
        points = [embedded(one, dict(zip(names, row, strict=True))) for one, row in zip(batch, rows, strict=True)]
        reused = vectors.chunks if isinstance(vectors, Reused) else 0
        if (match := self.match) is not None:
            points = self.control.retry.call("embed", lambda: match(points))
        return points, reused

    def _isolate(self, batch: Sequence[Prepared], error: BaseException, last: bool) -> None:
        """The embedder raised what no contract names: try each document alone, once more, and note it of those for
        which it does so again."""
        if not last:
            for alone in by_document(batch):
                self._batch(alone, last=True)
        else:
            cause = self.control.unexpected("embedder", "embed", batch[0].chunk.uri, error)
            # A service that cannot be reached is an OSError, and so is an image that cannot be decoded.
            permanent = cause.permanent and not isinstance(error, OSError)
            self._lose(batch, cause.text, permanent=permanent, traceback=cause.traceback)

    def _withdraw(self, batch: Sequence[Prepared]) -> None:
        if self.withdraw is not None:
            self.withdraw(len(batch))

    def _lose(self, batch: Sequence[Prepared], cause: str, *, permanent: bool = True, traceback: str = "") -> None:
        self.control.counters.add(gaps=len(batch))
        for one in batch:
            place = one.chunk.id
            failure = one.document.failure("embed", cause, permanent=permanent, place=place, traceback=traceback)
            self.send(Failed(one.document, failure, settles=1))
            traceback = ""  # once is enough: a document may have many chunks


def _size_of_vectors(one: Embedded) -> int:
    return sum(vector.nbytes for vector in one.point.vectors.values())
