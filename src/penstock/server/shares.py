"""Capacities that clients share: one alone may have all of it, and beside others each has room for an equal part."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from penstock.server.metrics import Metrics
from penstock.server.problems import too_many_requests
from penstock.server.rates import RateLimiter

MAX_OVERCOMMIT = 2
"""Times the capacity that all clients hold together at most, as those that come later find room beside a full one."""


class Shares:
    """Divides a capacity among the clients that hold some of it."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.total = capacity, 0
        self._held: dict[str, int] = {}

    def fits(self, client: str, amount: int) -> bool:
        """Whether the client may have that much more. Whatever there is fits for the only one who holds nothing."""
        if not self.total or self.total + amount <= self.capacity:
            return True
        own = self._held.get(client, 0) + amount
        clients = len(self._held.keys() | {client})
        return own * clients <= self.capacity and self.total + amount <= MAX_OVERCOMMIT * self.capacity

    def add(self, client: str, amount: int) -> None:
        """Change what the client holds; a negative amount gives some back."""
        self.total += amount
        held = self._held.pop(client, 0) + amount
        if held:
            self._held[client] = held

    def of(self, client: str) -> int:
        return self._held.get(client, 0)


class SearchLimit:
    """Bounds the searches that run or wait at once, and charges for them."""

    def __init__(self, capacity: int, metrics: Metrics, rates: RateLimiter) -> None:
        self._shares, self._metrics, self._rates = Shares(capacity), metrics, rates

    @property
    def active(self) -> int:
        return self._shares.total

    @contextmanager
    def enter(self, client: str, searches: int = 1, cost: int = 1) -> Iterator[None]:
        """Raises Problem where too many are inside. `cost` is that of the request, in tokens of the rate: one was taken
        when it arrived."""
        # A batch larger than the capacity passes when it is alone.
        if not self._shares.fits(client, searches):
            self._metrics.count("penstock_refused_total", reason="queue")
            own = self._shares.of(client)
            raise too_many_requests(f"{self.active} searches are in progress already, {own} of them yours", 1)
        self._rates.charge(client, cost - 1)
        self._shares.add(client, searches)
        try:
            yield
        finally:
            self._shares.add(client, -searches)
