"""Repeats calls that fail for a while."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from penstock.core.errors import Transient

T = TypeVar("T")

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 15.0
"""Seconds. Each pause is twice the one before."""
MAX_WAIT = 600.0
"""Seconds for which a store or model that is away is waited for, where nothing else is said."""


class Pauses:
    """The seconds to wait between tries: each time about twice as many, so that not all come again at once."""

    def __init__(self, first: float, longest: float) -> None:
        self._first, self._longest, self._next = first, longest, first

    def next(self) -> float:
        pause, self._next = self._next, min(2 * self._next, self._longest)
        return pause * random.uniform(0.7, 1.0)

    def reset(self) -> None:
        """Begin again with the first one: a try has succeeded."""
        self._next = self._first


class Retry:
    """Calls again what raised Transient, after ever longer pauses, until `max_wait` seconds have passed since its first
    failure; then the error is raised.

    It is time that counts, not pauses: a call that takes long to fail is not repeated as often. A service that says
    when to come back (`Transient.retry_after`) is not asked earlier. `stop` ends a pause and raises the error at once.
    """

    def __init__(
        self,
        max_wait: float = MAX_WAIT,
        stop: threading.Event | None = None,
        report: Callable[[str], None] = lambda message: None,
    ) -> None:
        """`report` is called with what is waited for, and with nothing once it is back."""
        self._max_wait, self._stop, self._report = max_wait, stop or threading.Event(), report

    def call(self, what: str, function: Callable[[], T]) -> T:
        deadline: float | None = None
        pauses = Pauses(FIRST_PAUSE, LONGEST_PAUSE)
        while True:
            try:
                result = function()
            except Transient as error:
                now = time.monotonic()
                deadline = now + self._max_wait if deadline is None else deadline
                left = deadline - now
                if left <= 0:
                    raise
                seconds = min(max(pauses.next(), error.retry_after or 0.0), left)
                self._report(f"{what}: {error} (again in {seconds:.1f} s)")
                if self._stop.wait(seconds):
                    raise
            else:
                if deadline is not None:
                    self._report("")
                return result
