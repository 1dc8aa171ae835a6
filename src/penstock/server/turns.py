"""Fair shares of the event loop: who sends more than the others waits while they are served."""

from __future__ import annotations

import time
from collections import Counter

from penstock.support.latest import Latest

SHARE = 0.15
"""Share of the event loop's time that one network gets while others ask, beyond a burst."""
BURST = 0.5
"""Seconds of that share at once."""
RECENT = 1.0
"""Seconds for which a network counts as asking after its last request."""
MAX_WAIT = 1.0
MAX_NETWORKS = 10_000
REQUEST = 0.0005
"""Seconds of the event loop that a request takes, at least."""


class Turns:
    def __init__(self) -> None:
        self._ready: Latest[str, float] = Latest(MAX_NETWORKS)
        """When the share that each network used is restored; the network that asked last comes last."""
        self._seen: Latest[str, float] = Latest(MAX_NETWORKS)
        self._active: Counter[str] = Counter()

    def begin(self, network: str) -> None:
        self._active[network] += 1

    def end(self, network: str) -> None:
        self._active[network] -= 1
        if not self._active[network]:
            del self._active[network]
        self._seen[network] = time.monotonic()

    def spend(self, network: str, seconds: float) -> None:
        now = time.monotonic()
        ready = max(now, self._ready.get(network, now)) + seconds / SHARE
        self._ready[network] = min(ready, now + BURST + MAX_WAIT)

    def ask(self, network: str) -> float:
        """Seconds that the network's next request waits; 0: it may begin."""
        self._seen[network] = time.monotonic()
        return self.wait(network)

    def wait(self, network: str) -> float:
        now = time.monotonic()
        other = next((name for name in self._active if name != network), None)
        if other is None:
            other = next((name for name in reversed(self._seen) if name != network), None)
            if other is None or now - self._seen[other] > RECENT:
                return 0.0
        ready = self._ready.get(network, 0.0)
        return max(0.0, min(ready - now - BURST, ready - self._ready.get(other, 0.0)))
