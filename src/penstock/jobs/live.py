"""A run that goes on: the index follows its source until it is stopped."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from penstock.core.contracts import Source
from penstock.core.deletions import DeletionLimit, Missing
from penstock.core.errors import PenstockError, SourceError, Transient
from penstock.core.retry import Pauses
from penstock.engine.progress import Counters, Progress, Report
from penstock.jobs.changes import FIRST_PAUSE, LONGEST_PAUSE, Changes
from penstock.jobs.components import Components
from penstock.jobs.feed import Feed
from penstock.jobs.held import Held
from penstock.jobs.progress_file import ProgressFile
from penstock.jobs.requests import Repairs, asked_to_refresh
from penstock.jobs.run import OnProgress, Options, go
from penstock.jobs.session import Session
from penstock.ledger import Ledger
from penstock.support.service_manager import Service, ServiceManager

EVERY = 600.0
"""Seconds between two listings of a source that is followed."""
FOREVER = float("inf")
NOTED = ("in_sync", "held", "retries", "next_retry")
"""What a ledger says of following its source."""
LOOK = 1.0
"""Seconds between two looks at what others have done."""


def follow(
    components: Components,
    progress: OnProgress = None,
    *,
    every: float = EVERY,
    allow_mass_delete: bool = False,
    adopt: bool = False,
    renew: Callable[[], Components] | None = None,
    service: Service | None = None,
) -> Report:
    """Bring the index up to date with its source and keep it so, until it is stopped.

    Where another generation of the index becomes the current one, that one is followed from then on. `renew`: gives the
    components that fill it, as its model or chunks may be others. `service`: what is told of the run, where it is only
    a part of a service.
    """
    manager = service or ServiceManager()
    switched, ending = threading.Event(), threading.Event()

    def shown(now: Progress) -> None:
        manager.ready()
        manager.alive()
        if switched.is_set() and not ending.is_set():
            ending.set()
            raise KeyboardInterrupt  # once: what is in flight is written, and the run ends
        if progress is not None:
            progress(now)

    try:
        while True:
            switched.clear()
            ending.clear()
            with ExitStack() as stack:
                session = _begun(components, stack, adopt, shown)
                source, ledger = session.components.source, session.components.ledger
                changes: Feed | Changes
                if source.feed:
                    changes = Feed(source, ledger)
                else:
                    changes = Changes(source, ledger, every)
                    changes.may_delete = may_delete(ledger, session.components.max_delete)
                live = Live(changes, source, ledger, Repairs(session, changes.list_now))
                stack.enter_context(Lookout(session, switched, live))
                options = Options(allow_mass_delete=allow_mass_delete, max_wait=FOREVER, live=live)
                report = go(session, changes, shown, options)
            if not switched.is_set():
                return report
            if renew is not None:
                components = renew()
    finally:
        manager.stopping()


def _begun(components: Components, stack: ExitStack, adopt: bool, shown: Callable[[Progress], None]) -> Session:
    """The session. Store and source are waited for where they were there before: after a restart of the machine they
    may be back later than this run."""
    pauses = Pauses(FIRST_PAUSE, LONGEST_PAUSE)
    file = ProgressFile(components.ledger.path, shown)
    began = time.monotonic()
    while True:
        try:
            with ExitStack() as own:
                session = Session(components, own, adopt=adopt)
                stack.push(own.pop_all())
                return session
        except (SourceError, Transient) as error:
            if not components.ledger.path.exists():
                raise
            away = f"open: {error}"
        now = time.monotonic()
        until = now + pauses.next()
        while now < until:
            file(Progress(now - began, Counters().values(), (), components.budget, True, 0, away))
            time.sleep(min(LOOK, until - now))
            now = time.monotonic()


@dataclass(slots=True)
class Live:
    """What a run that goes on has beside others."""

    changes: Feed | Changes
    source: Source
    ledger: Ledger
    errand: Repairs
    wake: Callable[[], None] | None = None
    _noted: dict[str, Any] = field(default_factory=lambda: dict.fromkeys(NOTED))
    _due: float = 0.0

    def begin(self, wake: Callable[[], None]) -> None:
        self.wake = wake

    def stop(self) -> None:
        self.changes.stop()

    def describe(self, now: Progress) -> dict[str, Any]:
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + LOOK
            with suppress(PenstockError):  # of the ledger, as on a full disk: those who write say so
                self._noted = noted(self.ledger)
        live = {**self.changes.describe(), **self._noted}
        quiet = live.pop("quiet") and not now.queued and live["held"] is None
        live["in_sync"] = time.time() if quiet else live["in_sync"]
        live["trouble"] = live["trouble"] or self.source.trouble
        return live

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


def noted(ledger: Ledger) -> dict[str, Any]:
    """What a ledger says of following its source, whether a run does so just now or not."""
    held = Held.read(ledger)
    return dict(zip(NOTED, (ledger.in_sync, asdict(held) if held else None, *ledger.retries()), strict=True))


def may_delete(ledger: Ledger, limit: DeletionLimit) -> Callable[[int], bool]:
    """Whether so many documents may go by what was heard: counted as documents, as nobody knows their texts."""
    before = 0

    def may(deleted: int) -> bool:
        nonlocal before
        if deleted == 1 or not before:
            before = ledger.counts().documents
        return not limit.exceeded(Missing(deleted, deleted, deleted, before))

    return may


class Lookout:
    """Looks now and then what others have done: whether what is held was approved or a refresh is asked for, for which
    the source is listed again, whether a repair is asked for, and whether another generation of the index is the
    current one."""

    def __init__(self, session: Session, switched: threading.Event, live: Live) -> None:
        self._session, self._switched, self._live = session, switched, live
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="penstock-lookout", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        listed = False
        while not self._ended.wait(LOOK):
            ledger = self._session.components.ledger
            with suppress(PenstockError):  # of the ledger: it is looked into again
                held = Held.read(ledger)
                approved = held is not None and held.approved(ledger)
                if (approved and not listed) or asked_to_refresh(ledger):
                    self._live.changes.list_now()
                listed = approved
                if self._live.errand.look() and self._live.wake is not None:
                    self._live.wake()
            if self._elsewhere():
                self._switched.set()

    def _elsewhere(self) -> bool:
        components = self._session.components
        try:
            held = components.base.manifest()
        except Exception:  # the store is away, whatever its driver raises: writes wait for it, and say so
            return False
        return held is not None and held.current != (components.generation or 0)
