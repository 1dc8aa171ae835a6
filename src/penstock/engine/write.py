"""The write stage: points, grouped by what the sink takes, in rows and bytes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from penstock.core.contracts import Sink
from penstock.core.errors import PenstockError, Rejected, StageError, TooLarge
from penstock.core.pieces import portions
from penstock.engine.channel import Channel, Empty, Ended
from penstock.engine.company import Company
from penstock.engine.control import Control, is_error
from penstock.engine.journal import Journal
from penstock.engine.work import Embedded, Event, Failed, Written, by_document


@dataclass(slots=True)
class Write:
    sink: Sink
    journal: Journal
    points: Channel[list[Embedded]]
    send: Callable[[Event], None]
    control: Control
    slots: AbstractContextManager[object]
    """Held around calls that write to the sink: no more of them at once than it has writers."""
    company: Company

    def work(self) -> None:
        sink, inbox = self.sink, self.points
        most = min(sink.max_bytes, inbox.capacity // (2 * sink.writers))
        buffer: list[Embedded] = []
        held = 0
        ended = False
        while not ended or buffer:
            until = time.monotonic() + self.company.of_write()
            while not ended and len(buffer) < sink.max_rows and held < most:
                try:
                    points, size = self.company.next(inbox, until) if buffer else inbox.get()
                except Ended:
                    ended = True
                except Empty:
                    break
                else:
                    if not buffer:
                        until = time.monotonic() + self.company.of_write()
                    buffer += points
                    held += size
            if batch := next(portions(buffer, sink.max_rows, most), []):
                buffer = buffer[len(batch) :]
                self.journal.intend([one.entry for one in batch])
                began = time.monotonic()
                self._put(batch)
                self.company.cost = time.monotonic() - began
                size = sum(one.nbytes for one in batch)
                del batch  # let go of, before room is given for more
                inbox.release(size)
                held -= size

    def _put(self, batch: Sequence[Embedded]) -> None:
        points = [one.point for one in batch]
        unexpected: BaseException | None = None
        began = time.monotonic()
        try:
            with self.slots:
                self.control.retry.call("write", lambda: self.sink.write(points))
        except TooLarge as error:
            if len(batch) > 1:
                self._put(batch[: len(batch) // 2])
                self._put(batch[len(batch) // 2 :])
            else:
                self._lose(batch, str(error))
            return
        except Rejected as error:
            for one in batch:
                if one.point.id in error.reasons:
                    self._lose([one], error.reasons[one.point.id])
            batch = [one for one in batch if one.point.id not in error.reasons]
        except (PenstockError, MemoryError, OSError) as error:
            raise StageError("write", points[0].chunk.uri, error) from error
        except BaseException as error:
            if not is_error(error):
                raise
            unexpected = error
        if unexpected is not None:  # out here, so that the first error is not the context of the second
            self._isolate(batch, unexpected)
            return
        self.control.succeeded("sink", began)
        if batch:
            matches = [match for one in batch for match in one.matches]
            self.send(Written([one.entry for one in batch], Counter([one.document for one in batch]), matches))

    def _isolate(self, batch: Sequence[Embedded], error: BaseException) -> None:
        """The sink raised what no contract names: try each document alone, and note it of those that it is for."""
        documents = by_document(batch)
        if len(documents) > 1:
            for alone in documents:
                self._put(alone)
        else:
            cause = self.control.unexpected("sink", "write", batch[0].point.chunk.uri, error)
            self._lose(batch, cause.text, cause.traceback, permanent=cause.permanent)

    def _lose(self, batch: Sequence[Embedded], cause: str, traceback: str = "", *, permanent: bool = True) -> None:
        self.control.counters.add(gaps=len(batch))
        for one in batch:
            failure = one.document.failure("write", cause, permanent=permanent, place=one.point.id, traceback=traceback)
            self.send(Failed(one.document, failure, settles=1))
            traceback = ""  # once is enough: a document may have many chunks
