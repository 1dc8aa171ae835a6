"""How many rows may be embedded and in no part yet: as many as a kill may cost."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod

from penstock.engine.channel import Broken


class Admitting(ABC):
    """A writer of parts that is asked before chunks are embedded."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._reserved = 0
        self._released = False
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)

    @abstractmethod
    def _held(self) -> int:
        """Count the rows that are in no part of the place yet."""

    @abstractmethod
    def _large(self) -> bool:
        """The current part is to be cut."""

    @abstractmethod
    def _cut(self) -> None:
        """Put the current part where it is kept."""

    def admit(self, count: int) -> None:
        """Wait for room for so many rows, or make it. More rows than a part holds pass alone. Raises Broken once the
        flow has failed: rows that were admitted may not come then."""
        with self._changed:
            while True:
                if self._released:
                    raise Broken("the flow has failed")
                rows, reserved = self._held(), self._reserved
                if rows and (rows + reserved + count > self.rows or self._large()):
                    self._cut()
                elif not rows and reserved and reserved + count > self.rows:
                    self._changed.wait()
                else:
                    break
            self._reserved += count

    def withdraw(self, count: int) -> None:
        """Give back room for rows that were admitted and will not come."""
        with self._changed:
            self._reserved -= count
            self._changed.notify_all()

    def release(self) -> None:
        """End all waiting in `admit`, now and later: the flow has failed."""
        with self._changed:
            self._released = True
            self._changed.notify_all()
