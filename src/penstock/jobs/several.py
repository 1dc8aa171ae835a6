"""Several runs in one process, each in a thread of its own: one that fails does not end the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from penstock.core.errors import OwnershipError, PenstockError, SpaceMismatch, UsageError
from penstock.core.retry import Pauses
from penstock.engine.progress import Progress, Report
from penstock.jobs.changes import FIRST_PAUSE, LONGEST_PAUSE
from penstock.jobs.components import current_ledger
from penstock.jobs.progress_file import ProgressFile
from penstock.support.service_manager import Part, Parts, Service

LASTING = (UsageError, OwnershipError, SpaceMismatch)
"""Errors of what the user wants: to begin again changes nothing."""
POLL = 0.2
"""Seconds between two looks at the threads."""
BEAT = 1.0
"""Seconds between two signs of life of a run that waits for its next try."""
GRACE = 3.0
"""Seconds after a stop for which a run that has nothing in flight yet is waited for: it may hang in a store."""

OnProgress = Callable[[str, Progress], None]
"""Called with the name of a run and a moment of it; by one thread at a time."""
OnFailure = Callable[[str, BaseException, float | None], None]
"""Called with the name of a run that an error ended, the error, and the seconds until it begins again; None: it does
not."""


@dataclass(frozen=True, slots=True)
class Task:
    """One of several runs."""

    name: str
    work: Callable[[Callable[[Progress], None], Service], Report]
    state: Path
    """The ledger of generation 0."""
    live: bool = False
    """It goes on until it is stopped, so that an error does not end it for good."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one of several pipelines."""

    report: Report | None = None
    """None where an error ended it, or where it was stopped before it had begun."""
    error: BaseException | None = None

    @property
    def ok(self) -> bool:
        return self.report is not None and self.report.ok


class Several:
    """Runs tasks side by side. Ctrl-C stops all of them, a second one gives up."""

    def __init__(
        self, tasks: Sequence[Task], service: Service, on_progress: OnProgress | None, on_failure: OnFailure | None
    ) -> None:
        self.stopping, self.giving_up = threading.Event(), threading.Event()
        self._service, self._on_progress, self._on_failure = service, on_progress, on_failure
        self._telling = threading.Lock()
        parts = Parts(service, [task.name for task in tasks if task.live])
        self._members = [_Member(task, self, parts.part(task.name)) for task in tasks]

    def run(self) -> dict[str, Outcome]:
        """What became of each, by its name, when all have ended."""
        if len(self._members) > 1:
            import numpy  # noqa: F401 - threads that import drivers with a common library can meet it half imported

        try:
            for member in self._members:
                member.thread.start()
            while self._wait():
                pass
        except BaseException:
            self.stopping.set()
            self.giving_up.set()
            raise
        finally:
            self._service.stopping()
        return {member.task.name: member.outcome for member in self._members}

    def interrupt(self) -> None:
        """Stop all; the second time, give up."""
        (self.giving_up if self.stopping.is_set() else self.stopping).set()

    def progress(self, name: str, now: Progress) -> None:
        if self._on_progress is not None:
            with self._telling:
                self._on_progress(name, now)

    def failed(self, name: str, error: BaseException, again: float | None) -> None:
        if self._on_failure is not None:
            with self._telling, suppress(Exception):  # of a function of the user's: the others go on
                self._on_failure(name, error, again)

    def _wait(self) -> bool:
        """Whether there is more to wait for."""
        try:
            waited_for = next((member for member in self._members if self._is_waited_for(member)), None)
            if waited_for is not None:
                waited_for.ended.wait(POLL)
            return waited_for is not None
        except KeyboardInterrupt:
            self.interrupt()
            if self.giving_up.is_set():
                raise
            return True

    def _is_waited_for(self, member: _Member) -> bool:
        return not member.ended.is_set() and not (
            self.stopping.is_set() and not member.flowing and member.stopped_for() > GRACE
        )


class _Member:
    def __init__(self, task: Task, several: Several, part: Part) -> None:
        self.task, self._several, self._part = task, several, part
        self.outcome = Outcome()
        self.flowing = False
        """Something may be in flight."""
        self._interrupted_at: float | None = None
        """The moment of the present run at which it was stopped."""
        self._stopped: float | None = None
        self._latest: Progress | None = None
        self.ended = threading.Event()
        """Not `thread.is_alive()`: a thread whose `join` was interrupted may count as ended in Python 3.11."""
        self.thread = threading.Thread(target=self._work, name=f"penstock-pipeline-{task.name}", daemon=True)

    def stopped_for(self) -> float:
        """Seconds since somebody noticed that it is to stop."""
        now = time.monotonic()
        self._stopped = now if self._stopped is None else self._stopped
        return now - self._stopped

    def _work(self) -> None:
        pauses = Pauses(FIRST_PAUSE, LONGEST_PAUSE)
        try:
            while not self._several.stopping.is_set():
                began = time.monotonic()
                try:
                    self.outcome = Outcome(self.task.work(self._progress, self._part))
                    return
                except KeyboardInterrupt:
                    self.outcome = Outcome()
                    return
                except BaseException as error:
                    self.outcome = Outcome(error=error)
                finally:
                    self.flowing = False
                if time.monotonic() - began > LONGEST_PAUSE:
                    pauses.reset()
                if not self._begins_again(pauses.next()):
                    return
        finally:
            self._part.parts.ended(self.task.name)
            self.ended.set()

    def _begins_again(self, seconds: float) -> bool:
        """Tell of the error; of a run that goes on, wait until it is to begin again."""
        error = self.outcome.error
        assert error is not None
        if not self.task.live or isinstance(error, LASTING) or self._several.stopping.is_set():
            self._several.failed(self.task.name, error, None)
            return False
        self._several.failed(self.task.name, error, seconds)
        self._part.ready()  # the service is what it can be, and says what is missing
        note = ProgressFile(self._ledger(), None)
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._part.alive()
            if self._latest is not None:  # for `status`
                again = f"the next try in {left:.0f} s, as an error ended the run: {error}"
                note(replace(self._latest, waiting=again))
            if self._several.stopping.wait(min(left, BEAT)):
                break
        note.remove()
        return not self._several.stopping.is_set()

    def _ledger(self) -> Path:
        try:
            return current_ledger(self.task.state)
        except PenstockError:  # there is none yet
            return self.task.state

    def _progress(self, now: Progress) -> None:
        self.flowing, self._latest = True, now
        if self._several.giving_up.is_set():
            raise KeyboardInterrupt
        if self._several.stopping.is_set() and (self._interrupted_at is None or now.seconds < self._interrupted_at):
            self._interrupted_at = now.seconds
            raise KeyboardInterrupt  # once a run: what is in flight is written
        try:
            self._several.progress(self.task.name, now)
        except KeyboardInterrupt:
            self._several.interrupt()
            self._interrupted_at = now.seconds
            raise
