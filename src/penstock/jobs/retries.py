"""What failed for a while, told again by a run that goes on when its time has come: a few documents at a time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from penstock.core.errors import PenstockError

RETRIES = 16
"""Documents that are tried again at a time, at most: thousands of them do not hold up what is new."""
LOST = 600.0
"""Seconds after which one of which nothing was heard makes room for others."""


class Failed(Protocol):
    """What is asked of the ledger."""

    def due(self, limit: int) -> dict[str, int]:
        """Documents whose passing failures are to be tried again by now, each of them given once, with the tries so
        far."""
        ...

    def tries(self, uris: Sequence[str]) -> dict[str, int]: ...


@dataclass(slots=True)
class Retries:
    ledger: Failed
    _tried: dict[str, tuple[int, float]] = field(default_factory=dict)
    """Documents that are being tried: how often they had been, and when they are taken for lost."""

    def due(self) -> list[str]:
        """Documents to try again now. The next are given when these have come to an end."""
        now = time.monotonic()
        try:
            tries = self.ledger.tries([*self._tried])
            self._tried = {
                uri: (before, end)
                for uri, (before, end) in self._tried.items()
                if tries.get(uri) == before and now < end
            }
            room = RETRIES - len(self._tried)
            due = self.ledger.due(room) if room else {}
        except PenstockError:  # of the ledger, as on a full disk: those who write to it wait, and say so
            return []
        self._tried |= {uri: (before, now + LOST) for uri, before in due.items()}
        return [*due]
