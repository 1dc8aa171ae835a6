"""The flow: scan -> prepare -> embed ═ write -> commit.

    source ─► items ─► prepare ─► chunks ─► embed ─► points ─► write ─► commits ─► commit
                          └───────── vectors read back ─────────┘

A pool of threads a stage, a channel between two of them, and the budget divided among the channels. Each stage ends
when its inbox has ended and closes what it fills; an error anywhere breaks the channels, and is raised by `run`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from penstock.core.retry import MAX_WAIT, passing
from penstock.engine.channel import Broken, ChannelStats, Closed
from penstock.engine.control import Control
from penstock.engine.journal import View, waiting
from penstock.engine.progress import BY_THE_MINUTE, MINUTE, Counters, Progress, Rates
from penstock.engine.scan import Queued
from penstock.engine.seam import Seam
from penstock.engine.stage import Stage
from penstock.engine.tail import Tail, TailStages
from penstock.engine.work import Idle

SHARES = {
    "changes": 0.005,
    "items": 0.005,
    "revisions": 0.005,
    "fetched": 0.08,
    "blocks": 0.14,
    "reads": 0.06,
    "chunks": 0.305,
    "points": 0.355,
    "commits": 0.045,
}
"""How the budget is divided. Points weigh most: text and vector, in batches that a sink likes large."""
RESERVE = 16 << 20
"""Of the budget, at most: for what no channel holds, the ledger's pages and statements and what the allocator keeps."""
GRACE = 3.0
"""Seconds that a source has to end when the run is stopped."""


class BuiltHead(Protocol):
    """The threads of a head: see `head.HeadStages`, or `penstock.workers`, whose documents are worked on elsewhere."""

    queued: Queued
    source: Stage
    stages: list[Stage]

    @property
    def listing(self) -> bool: ...
    @property
    def unread(self) -> int: ...

    def stats(self) -> list[ChannelStats]: ...

    def stop(self) -> None: ...

    def interrupt(self) -> None: ...

    def fail(self) -> None: ...


class AnyHead(Protocol):
    """What the head of a flow is made of."""

    @property
    def view(self) -> View: ...
    @property
    def fetchers(self) -> int: ...

    def watched(self, view: View) -> AnyHead:
        """The same, with another view."""
        ...

    def build(self, seam: Seam, control: Control, share: Callable[[str], int]) -> BuiltHead: ...


class Flow:
    def __init__(self, head: AnyHead, tail: Tail, *, budget: int, max_wait: float = MAX_WAIT) -> None:
        self._budget = budget
        self._began = time.monotonic()
        room = budget - min(RESERVE, budget // 4)

        def share(name: str) -> int:
            return int(room * SHARES[name])

        self._control = Control(max_wait)
        self._control.tries = tail.journal.tries
        head = head.watched(waiting(head.view, self._control.retry))
        tail = replace(tail, journal=waiting(tail.journal, self._control.retry))
        self._seam = Seam(share("points") + (0 if head.fetchers else share("fetched")), share("commits"))
        self._head = head.build(self._seam, self._control, share)
        self._journal = tail.journal
        self._minute = Rates(MINUTE)
        self._tail = TailStages(tail, self._seam, self._control, lambda: self._head.queued.idle)
        self._stages = (*self._head.stages, *self._tail.stages)
        # The tail goes on, unless it is what failed: what was embedded is still written, and the commits written down.
        self._control.on_failure(self._head.fail)

    @property
    def counters(self) -> Counters:
        return self._control.counters

    @property
    def interrupted(self) -> bool:
        return self._control.interrupted

    @property
    def complete(self) -> bool:
        """The source was listed whole, and what is gone from it is out of the index."""
        return self._tail.committer.complete

    @property
    def source_ended(self) -> bool:
        """Nothing waits for the source any more: it can be closed."""
        return self._head.source.join(0)

    def run(self, report: Callable[[Progress], None] | None = None, interval: float = 0.2) -> None:
        """Until everything is committed. Ctrl-C lets what is in flight run out; a second one passes through."""
        for stage in self._stages:
            stage.start()
        alive = True
        while alive:
            try:
                alive = not self._ended(interval)
                if self._control.stop.is_set():
                    self._head.interrupt()  # each time: a call may have begun just when it stopped
                if report:
                    report(self.progress())
            except KeyboardInterrupt:
                if self.interrupted:
                    raise
                self.stop()
            except Exception as error:  # the callback's: the threads are not left alone with it
                report = None
                self._control.fail(error)
        if self._control.suspended:
            self._journal.reopen(self._control.suspended)
        first = self._control.error
        if first is not None and not (self.interrupted and passing(first.__cause__)):
            raise first  # but when stopped while waiting for something that is away, that is no news

    def _ended(self, interval: float) -> bool:
        *others, last = (stage for stage in self._stages if stage is not self._head.source)
        if not last.join(interval) or not all(stage.join(interval) for stage in others):
            return False
        # A source may sleep until there is news. Once the run is stopped or has failed, nobody listens any more.
        stopped = self._control.stop.is_set()
        return self._head.source.join(GRACE if stopped else interval) or self._control.stop.is_set()

    def stop(self) -> None:
        """Take in no more, drop what has not been embedded, write and commit the rest."""
        self._control.interrupted = True
        self._control.stop.set()
        self._head.interrupt()
        self._head.stop()

    def wake(self) -> None:
        """Have the commit stage look what is to be done, if it has nothing to commit."""
        with suppress(Broken, Closed):
            self._seam.send(Idle(()))

    def progress(self) -> Progress:
        channels = (*self._head.stats(), self._seam.points.stats(), self._seam.events.stats())
        now, loaded = time.monotonic(), self._control.loaded_at
        in_flight = self._control.in_flight
        progress = Progress(
            seconds=now - self._began,
            counts=self._control.counters.values(),
            channels=channels,
            budget=self._budget,
            listing=self._head.listing,
            queued_bytes=self._head.queued.bytes,
            queued_tokens=self._head.queued.tokens,
            loading=(now if loaded is None else loaded) - self._began,
            waiting=self._control.waiting,
            queued=self._head.unread + len(in_flight),
            oldest=in_flight.oldest,
            freshness=self._control.freshness.describe(),
            workers=self._control.workers,
        )
        self._minute.add(progress)
        return replace(progress, minute={name: round(self._minute.of(name), 3) for name in BY_THE_MINUTE})
