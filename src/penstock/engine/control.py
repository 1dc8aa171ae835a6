"""What the stages of one flow share: the stop signal, the first error, the counters, and who is in flight."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from penstock.core.errors import StageError
from penstock.core.retry import Retry
from penstock.engine.freshness import Freshness
from penstock.engine.progress import Counters
from penstock.support.redaction import hide_secrets
from penstock.support.tracebacks import format_traceback

BROKEN_AFTER, BROKEN_LATER = 10, 50
"""Documents, one after the other, for which a component raises what no contract names, before the component itself is
taken to be broken and the run ends: where it has not worked once in the run, and where it has."""

PANICS = ("PanicException", "CancelledError")
"""Errors that are no Exceptions: of drivers written in Rust, and of asyncio."""


def is_error(error: BaseException) -> bool:
    """Whether it is an error of the component that raised it, and not the end of the program."""
    return isinstance(error, Exception | SystemExit) or type(error).__name__ in PANICS


class Cause(NamedTuple):
    """Why a document failed for which a component raised what no contract names."""

    text: str
    traceback: str
    permanent: bool = True


class Control:
    def __init__(self, max_wait: float) -> None:
        self.stop = threading.Event()
        self.interrupted = False
        self.counters = Counters()
        self.freshness = Freshness()
        self.in_flight = InFlight()
        self.boundaries_sent = self.boundaries_honoured = 0
        """Each is counted by one thread: the scan, and the commit stage."""
        self.listing = 0
        """The number by which the scan sees documents now: the run's, or that of a later listing."""
        self.loaded_at: float | None = None
        """When model and store were open, by the monotonic clock."""
        self.retry = Retry(max_wait, self.stop, self._report)
        self.waiting = ""
        """What is away, as long as it is waited for."""
        self.workers: int | None = None
        """How many there are on other machines, where documents are worked on elsewhere."""
        self.error: BaseException | None = None
        self.suspended: tuple[str, ...] = ()
        """Documents that failed by a component that turned out to be broken: not theirs is the fault."""
        self.tries: Callable[[Sequence[str]], Mapping[str, int]] = lambda uris: {}
        """How often documents have failed before."""
        self._failing: dict[str, list[str]] = {}
        self._failing_since: dict[str, float] = {}
        self._worked: set[str] = set()
        self._lock = threading.Lock()
        self._on_failure: list[Callable[[], None]] = []

    def loaded(self) -> None:
        """Model and store are open: what went before tells nothing of the run's pace."""
        if self.loaded_at is None:
            self.loaded_at = time.monotonic()

    def on_failure(self, callback: Callable[[], None]) -> None:
        """Call this when the flow fails: it lets go of whoever waits."""
        self._on_failure.append(callback)

    def note(self, error: BaseException) -> None:
        """Keep the first error, to be raised at the end, and let everything in flight run out."""
        with self._lock:
            self.error = self.error or error

    def fail(self, error: BaseException) -> None:
        self.note(error)
        self.stop.set()
        for callback in self._on_failure:
            callback()

    def _report(self, what: str) -> None:
        self.waiting = what
        if what:
            self.counters.add(retries=1)

    # ------------------------------------------------------------ components that raise what no contract names

    def succeeded(self, component: str, began: float) -> None:
        """A call of the component that began then, by the monotonic clock, did what it should. One that began before
        the first failure says nothing about what has become of the component."""
        if component in self._failing or component not in self._worked:
            with self._lock:
                if began >= self._failing_since.get(component, 0.0):
                    self._failing.pop(component, None)
                    self._failing_since.pop(component, None)
                self._worked.add(component)

    def unexpected(self, component: str, stage: str, uri: str, error: BaseException) -> Cause:
        """The cause to note of a document for which a component raised something.

        Where it does so for one document after the other, the component is broken, and not the documents: StageError
        is raised, or in a run that waits without limit, they are tried again until it works.
        """
        with self._lock:
            uris = self._failing.setdefault(component, [])
            self._failing_since.setdefault(component, time.monotonic())
            limit = BROKEN_LATER if component in self._worked else BROKEN_AFTER
            if uri not in uris and len(uris) < limit:
                uris.append(uri)
            broken = len(uris) >= limit
            if broken and not self.retry.unlimited:
                self.suspended = tuple(uris)
        if broken and not self.retry.unlimited:
            raise StageError(stage, uri, error) from error
        text = hide_secrets(f"{type(error).__name__}: {error}")
        permanent = not broken and self.final(uri)
        return Cause(f"{text} (raised by the {component})", format_traceback(error), permanent)

    def final(self, uri: str) -> bool:
        """Whether a document that breaks what reads it is not tried again by itself. A run that goes on gives it a
        second try: other things break a process, too, such as memory that is short."""
        return not self.retry.unlimited or bool(self.tries([uri]))


class InFlight:
    """The uris that are worked on: a second version of a document must not overtake the first."""

    def __init__(self) -> None:
        self._uris: dict[str, float] = {}
        """In the order in which work on them began, with when they were heard of."""
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._uris)

    def __contains__(self, uri: str) -> bool:
        return uri in self._uris

    def enter(self, uri: str, heard: float | None = None) -> bool:
        """False if it is worked on already. `heard`: when something was heard of it, if not now."""
        with self._lock:
            if uri in self._uris:
                return False
            self._uris[uri] = time.monotonic() if heard is None else heard
            return True

    def leave(self, uri: str) -> None:
        with self._lock:
            self._uris.pop(uri, None)

    @property
    def oldest(self) -> float | None:
        """Seconds since something was heard of the one that is worked on for longest."""
        with self._lock:
            heard = next(iter(self._uris.values()), None)
        return None if heard is None else max(0.0, time.monotonic() - heard)
