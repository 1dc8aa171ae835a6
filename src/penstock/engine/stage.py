"""Worker threads, and patience."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import TypeVar

from penstock.core.errors import MassDeletion, StageError, Transient
from penstock.engine.channel import Broken, Ended

T = TypeVar("T")


class Stage:
    """Threads that run the same body until it returns. The last one out calls `after`, whatever happened."""

    def __init__(
        self,
        name: str,
        workers: int,
        body: Callable[[], None],
        after: Callable[[], None],
        fail: Callable[[BaseException], None],
    ) -> None:
        self.name, self._body, self._after, self._fail = name, body, after, fail
        self._left = workers
        self._lock = threading.Lock()
        # Not Thread.join: up to Python 3.12 a Ctrl-C that interrupts it marks the thread as ended while it runs.
        self._ended = threading.Event()
        self._threads = [
            # Daemons: a second Ctrl-C ends the process at once, whatever a native call is doing.
            threading.Thread(target=self._work, name=f"penstock-{name}-{number}", daemon=True)
            for number in range(workers)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self, timeout: float) -> bool:
        return self._ended.wait(timeout)

    def _work(self) -> None:
        try:
            self._body()
        except (Broken, Ended):
            pass  # somebody else failed and has said so, or the work is done
        except BaseException as error:
            # A refused mass deletion is no accident of a stage.
            own = isinstance(error, StageError | MassDeletion)
            self._fail(error if own else StageError(self.name, None, error))
        finally:
            with self._lock:
                self._left -= 1
                last = not self._left
            if last:
                try:
                    self._after()
                finally:
                    self._ended.set()


class Patience:
    """Repeats a call that fails for a while: waits ever longer, up to `limit` seconds, then lets the error out."""

    def __init__(self, limit: float, stop: threading.Event, waiting: Callable[[str], None]) -> None:
        self._limit, self._stop, self._waiting = limit, stop, waiting

    def call(self, what: str, function: Callable[[], T]) -> T:
        waited, pause = 0.0, 0.1
        while True:
            try:
                result = function()
            except Transient as error:
                if waited >= self._limit:
                    raise
                nap = min(pause, self._limit - waited + 0.05) * random.uniform(0.7, 1.0)
                self._waiting(f"{what}: {error} (again in {nap:.1f} s)")
                if self._stop.wait(nap):
                    raise
                waited += nap
                pause = min(pause * 2, 15.0)
            else:
                if waited:
                    self._waiting("")
                return result
