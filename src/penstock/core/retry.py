"""Repeats calls that fail for a while."""

from __future__ import annotations

import errno
import math
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
FULL = (errno.ENOSPC, errno.EDQUOT)
FULL_TEXTS = ("no space left on device", "disk is full", "disk quota exceeded")
"""What drivers and servers pass on of it, as text alone."""


def out_of_space(error: BaseException | None) -> bool:
    """Whether a disk is full, as the error or what caused it says."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        text = str(error).lower()
        if any(known in text for known in FULL_TEXTS):
            return True
        error = error.__cause__
    return False


def passing(error: BaseException | None) -> bool:
    """Whether it is over when something is back, or when somebody has made room."""
    return isinstance(error, Transient) or out_of_space(error)


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
    Where it waits without limit, it waits for room on a full disk as well: nobody is there to begin again.
    """

    def __init__(
        self,
        max_wait: float = MAX_WAIT,
        stop: threading.Event | None = None,
        report: Callable[[str], None] = lambda message: None,
    ) -> None:
        """`report` is called with what is waited for, and with nothing once it is back."""
        self._max_wait, self._stop, self._report = max_wait, stop or threading.Event(), report

    @property
    def unlimited(self) -> bool:
        return self._max_wait == math.inf

    def call(self, what: str, function: Callable[[], T]) -> T:
        deadline: float | None = None
        pauses = Pauses(FIRST_PAUSE, LONGEST_PAUSE)
        while True:
            try:
                result = function()
            except Exception as error:
                if not isinstance(error, Transient) and not (self.unlimited and out_of_space(error)):
                    raise
                now = time.monotonic()
                deadline = now + self._max_wait if deadline is None else deadline
                left = deadline - now
                if left <= 0:
                    raise
                seconds = min(max(pauses.next(), getattr(error, "retry_after", None) or 0.0), left)
                self._report(f"{what}: {error} (again in {seconds:.1f} s)")
                if self._stop.wait(seconds):
                    raise
            else:
                if deadline is not None:
                    self._report("")
                return result
