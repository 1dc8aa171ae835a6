"""Worker threads."""

from __future__ import annotations

import threading
from collections.abc import Callable

from penstock.core.errors import MassDeletion, StageError
from penstock.engine.channel import Broken, Ended


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
