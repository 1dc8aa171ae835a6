"""How long a write or a commit waits for others, so that one call serves many."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from penstock.engine.channel import Channel, Empty

T = TypeVar("T")

POLL = 0.002
"""Seconds between two looks whether anything is on its way."""
RATIO = 2.0
"""How much longer than a call takes others are waited for, where each is to be searchable soon."""


@dataclass(slots=True)
class Company:
    linger: float
    """Seconds for which others are waited for, at most."""
    idle: Callable[[], bool] | None = None
    """Whether nothing more is on its way. None: there always is, until the channel ends."""
    began: float = field(default_factory=time.monotonic)
    cost: float = 0.0
    """Seconds that the last call took."""

    def next(self, inbox: Channel[T], until: float) -> tuple[T, int]:
        """The next piece, which is waited for until then. Raises Empty at once where nothing is on its way."""
        while True:
            left = max(0.0, until - time.monotonic())
            try:
                return inbox.get(timeout=left if self.idle is None else min(left, POLL))
            except Empty:
                if not left or (self.idle is not None and self.idle()):
                    raise

    def seconds(self) -> float:
        """Seconds to wait: where something may be on its way for ever, no longer than the cost of a call makes good."""
        return min(self.linger, RATIO * self.cost) if self.idle else self.linger

    def of_write(self) -> float:
        """Seconds that a write waits to be full. Few at first, so that the index fills at once; more in a long run,
        where many small writes would leave the store in crumbs."""
        return self.seconds() if self.idle else min(20 * self.linger, (time.monotonic() - self.began) / 20)
