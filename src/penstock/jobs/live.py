"""A run that goes on: the index follows its source until it is stopped."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

from penstock.core.contracts import Source
from penstock.core.deletions import DeletionLimit, Missing
from penstock.core.errors import PenstockError
from penstock.core.records import Change, Checkpoint
from penstock.engine.progress import Progress, Report
from penstock.jobs.changes import FIRST_PAUSE, LONGEST_PAUSE, Changes, State
from penstock.jobs.components import Components
from penstock.jobs.held import Held
from penstock.jobs.run import OnProgress, Options, go
from penstock.jobs.session import Session
from penstock.ledger import Ledger
from penstock.support.service_manager import ServiceManager

EVERY = 600.0
"""Seconds between two listings of a source that is followed."""
FOREVER = float("inf")
LOOK = 1.0
"""Seconds between two looks whether somebody has approved what is held."""


def follow(
    components: Components,
    progress: OnProgress = None,
    *,
    every: float = EVERY,
    allow_mass_delete: bool = False,
    adopt: bool = False,
) -> Report:
    """Bring the index up to date with its source and keep it so, until it is stopped."""

    def options(live: Live) -> Options:
        return Options(allow_mass_delete=allow_mass_delete, max_wait=FOREVER, live=live)

    manager = ServiceManager()

    def shown(now: Progress) -> None:
        manager.ready()
        manager.alive()
        if progress is not None:
            progress(now)

    with ExitStack() as stack:
        stack.callback(manager.stopping)
        session = Session(components, stack, adopt=adopt)
        source, ledger = session.components.source, session.components.ledger
        if source.feed:
            feed = Feed(source, ledger.cursor(source.name))
            return go(session, feed, shown, options(Live(feed.state, ledger, feed.stop)))
        changes = Changes(source, ledger, every)
        live = Live(changes.state, ledger, changes.stop)
        changes.may_delete = live.may_delete(session.components.max_delete)
        stack.enter_context(Approvals(ledger, changes.list_now))
        return go(session, changes, shown, options(live))


@dataclass(slots=True)
class Feed:
    """The changes of a feed, which is asked again, from where it was, whenever it breaks off or ends."""

    source: Source
    cursor: str | None
    state: State = field(default_factory=State)
    _stopped: threading.Event = field(default_factory=threading.Event)

    def __iter__(self) -> Iterator[Change]:
        pause = FIRST_PAUSE
        while not self._stopped.is_set():
            try:
                for change in self.source.changes(self.cursor):
                    self.state.heard, self.state.away, pause = time.time(), "", FIRST_PAUSE
                    if isinstance(change, Checkpoint):
                        self.cursor = change.cursor
                    yield change
            except PenstockError as error:
                self.state.away = f"the source is away: {error}"
            self._stopped.wait(pause * random.uniform(0.7, 1.0))
            pause = min(2 * pause, LONGEST_PAUSE)

    def stop(self) -> None:
        self._stopped.set()
        self.source.stop()


@dataclass(slots=True)
class Live:
    """What a run that goes on has beside others."""

    state: State
    ledger: Ledger
    stop: Callable[[], None]

    def describe(self) -> dict[str, Any]:
        return {"live": asdict(self.state)}

    def may_delete(self, limit: DeletionLimit) -> Callable[[int], bool]:
        """Whether so many documents may go by what was heard: counted as documents, as nobody knows their texts."""
        before = 0

        def may(deleted: int) -> bool:
            nonlocal before
            if deleted == 1 or not before:
                before = self.ledger.counts().documents
            return not limit.exceeded(Missing(deleted, deleted, deleted, before))

        return may

    def hold(self, missing: Missing | None) -> bool:
        """Keep what a listing lacks until somebody approves; gives whether it may go."""
        held = Held.read(self.ledger)
        if missing is None or (held is not None and held.approved(self.ledger)):
            if held is not None:
                held.forget(self.ledger)
            return True
        since = held.since if held else time.time()
        Held(missing.documents, missing.chunks, missing.of, since).keep(self.ledger)
        return False


class Approvals:
    """Looks now and then whether what is held was approved, and has the source listed again then."""

    def __init__(self, ledger: Ledger, list_now: Callable[[], None]) -> None:
        self._ledger, self._list_now = ledger, list_now
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="penstock-approvals", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        listed = False
        while not self._ended.wait(LOOK):
            held = Held.read(self._ledger)
            approved = held is not None and held.approved(self._ledger)
            if approved and not listed:
                self._list_now()
            listed = approved
