"""The tail of a flow: write, commit. It holds the one journal and the sink."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from penstock.core.contracts import Sink
from penstock.core.deletions import HALF, DeletionLimit
from penstock.engine.commit import Committer, Errand, Hold
from penstock.engine.company import Company
from penstock.engine.control import Control
from penstock.engine.journal import Journal
from penstock.engine.seam import Seam
from penstock.engine.stage import Stage
from penstock.engine.write import Write

LINGER = 0.5
"""Seconds for which a write and a commit wait for company."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """What the tail of a flow is made of."""

    sink: Sink
    ready: Callable[[], object]
    """Called before anything is deleted, often: opens the sink the first time."""
    journal: Journal
    run: int
    source: str
    """The name under which cursors are kept."""
    feed: bool = False
    max_delete: DeletionLimit | None = HALF
    """What a listing may take out; None for everything."""
    maintain: Callable[[bool], bool] | None = None
    """Maintains the sink: called now and then, while nothing is written."""
    errand: Errand | None = None
    hold: Hold | None = None
    """Called instead of raising MassDeletion."""
    linger: float = LINGER


class TailStages:
    """The threads of a tail."""

    def __init__(self, tail: Tail, seam: Seam, control: Control, idle: Callable[[], bool]) -> None:
        """`idle`: whether the head has nothing on its way."""
        sink = tail.sink

        def fail(error: BaseException) -> None:
            control.fail(error)
            seam.points.fail()

        slots = threading.BoundedSemaphore(sink.writers)
        company = Company(tail.linger, idle if tail.feed else None)
        write = Write(sink, tail.journal, seam.points, seam.send, control, slots, company)
        self.committer = Committer(
            inbox=seam.events,
            journal=tail.journal,
            sink=sink,
            ready=tail.ready,
            slots=slots,
            run=tail.run,
            control=control,
            source=tail.source,
            max_delete=tail.max_delete,
            hold=tail.hold,
            maintain=tail.maintain,
            errand=tail.errand,
            writers=sink.writers,
            company=Company(tail.linger, (lambda: idle() and not seam.points.bytes) if tail.feed else None),
        )
        self.stages = (
            Stage("write", sink.writers, write.work, seam.events.close, fail),
            Stage("commit", 1, self.committer.work, seam.events.fail, fail),
        )
