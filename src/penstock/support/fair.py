"""Queues that are fair between clients: none waits for the backlog of another."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")

AHEAD = ""
"""The client that comes before all others: a server's own probes."""
MEMORY = 10.0
"""Seconds for which a client counts as active."""
MAX_TAGS = 1024
"""Clients that neither wait nor run whose past share is remembered."""
LOOK = 0.1
"""Seconds between two looks whether a wait was given up."""


class Neighbours:
    """Whether several clients are active, wherever they are served: one that is alone is not kept from anything."""

    def __init__(self) -> None:
        self._latest = AHEAD
        self._until = float("-inf")

    def note(self, client: str) -> None:
        """Say that the client asks for something."""
        if client not in (self._latest, AHEAD):
            if self._latest != AHEAD:
                self._until = time.monotonic() + MEMORY
            self._latest = client

    @property
    def several(self) -> bool:
        return time.monotonic() < self._until


@dataclass(frozen=True, slots=True)
class Entry(Generic[T]):
    client: str
    item: T
    cost: float


def alone(batch: Sequence[Entry[T]], entry: Entry[T]) -> bool:
    """Take one entry at a time."""
    return not batch


class FairQueue(Generic[T]):
    """Items of several clients, in turns: each client gets the same share of the cost (start-time fair queueing).

    `most` is how many takes of one client may be in progress at once, so that a thread stays free for others; beside
    others it may be fewer, as they share the cores. Thread-safe.
    """

    def __init__(self, most: int = 1 << 30, most_beside: int = 1 << 30, neighbours: Neighbours | None = None) -> None:
        self._most, self._most_beside = most, min(most, most_beside)
        self.neighbours = neighbours or Neighbours()
        self._waiting: dict[str, OrderedDict[int, Entry[T]]] = {}
        """Exactly the clients that have a turn in `_turns`; one whose items were all discarded stays until its turn."""
        self._turns: list[tuple[float, int, str]] = []
        self._shares: dict[str, float] = {}
        """Cost that each client was served, on the clock of `_now`."""
        self._now = 0.0
        self._running: dict[str, int] = {}
        self._numbers = count()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, client: str, item: T, cost: float = 1.0) -> Callable[[], None]:
        """Returns a function that takes the item out again, if it still waits."""
        with self._changed:
            self.neighbours.note(client)
            number = next(self._numbers)
            if client not in self._waiting:
                self._waiting[client] = OrderedDict()
                heappush(self._turns, (self._due(client), number, client))
            self._waiting[client][number] = Entry(client, item, cost)
            self._changed.notify()
        return lambda: self._discard(client, number)

    def take(self, joins: Callable[[Sequence[Entry[T]], Entry[T]], bool] = alone, wait: bool = True) -> list[Entry[T]]:
        """The next items: the first, and those behind it as long as they join. Empty where nothing may be taken, or
        where the queue is closed and empty. `finish` has to follow."""
        with self._changed:
            while True:
                batch: list[Entry[T]] = []
                while (entry := self._pop(batch, joins)) is not None:
                    batch.append(entry)
                if batch or not wait or (self._closed and not self._waiting):
                    for client in {entry.client for entry in batch}:
                        self._running[client] = self._running.get(client, 0) + 1
                    return batch
                self._changed.wait()

    def finish(self, batch: Sequence[Entry[T]], cost: float = 0.0) -> None:
        """Say that what was taken is done, and what it cost each client beyond what was expected."""
        with self._changed:
            for client in {entry.client for entry in batch}:
                if (left := self._running.pop(client) - 1) > 0:
                    self._running[client] = left
                self._shares[client] = max(self._shares.get(client, 0.0), self._now) + cost
            if not self._waiting and not self._running:
                self._shares.clear()  # at rest all are even
            elif len(self._shares) > len(self._waiting) + len(self._running) + MAX_TAGS:
                here = self._waiting.keys() | self._running.keys()
                self._shares = {client: share for client, share in self._shares.items() if client in here}
            self._changed.notify_all()

    def close(self) -> None:
        """Let `take` end once nothing waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def drain(self) -> list[Entry[T]]:
        """Take everything out."""
        with self._changed:
            left = [entry for mine in self._waiting.values() for entry in mine.values()]
            self._waiting.clear()
            self._turns.clear()
            return left

    def __len__(self) -> int:
        with self._changed:
            return sum(map(len, self._waiting.values()))

    def _due(self, client: str) -> float:
        return -1.0 if client == AHEAD else max(self._now, self._shares.get(client, 0.0))

    def _pop(self, batch: Sequence[Entry[T]], joins: Callable[[Sequence[Entry[T]], Entry[T]], bool]) -> Entry[T] | None:
        busy: list[tuple[float, int, str]] = []
        most = self._most_beside if self.neighbours.several else self._most
        try:
            while self._turns:
                start, number, client = heappop(self._turns)
                mine = self._waiting[client]
                if not mine:
                    del self._waiting[client]
                elif start < (due := self._shares.get(client, 0.0)) and client != AHEAD:
                    heappush(self._turns, (due, number, client))  # it was served more than expected meanwhile
                elif self._running.get(client, 0) >= most and client != AHEAD:
                    busy.append((start, number, client))
                elif not joins(batch, entry := next(iter(mine.values()))):
                    busy.append((start, number, client))
                    return None
                else:
                    self._serve(mine, entry, start)
                    return entry
            return None
        finally:
            for turn in busy:
                heappush(self._turns, turn)

    def _serve(self, mine: OrderedDict[int, Entry[T]], entry: Entry[T], start: float) -> None:
        mine.popitem(last=False)
        self._now = max(self._now, start)
        self._shares[entry.client] = max(start, 0.0) + entry.cost
        if mine:
            heappush(self._turns, (self._due(entry.client), next(self._numbers), entry.client))
        else:
            del self._waiting[entry.client]

    def _discard(self, client: str, number: int) -> None:
        with self._changed:
            if (mine := self._waiting.get(client)) is not None:
                mine.pop(number, None)


class Places:
    """Places of which each is one client's at a time: those that wait get them in turns, as in a FairQueue."""

    def __init__(self, places: int) -> None:
        self._queue: FairQueue[threading.Event] = FairQueue()
        self._free = places
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @contextmanager
    def hold(self, client: str, cost: float, given_up: Callable[[], bool]) -> Iterator[None]:
        """Wait for a place, and hold it. Raises InterruptedError where that is `given_up` meanwhile."""
        granted = threading.Event()
        discard = self._queue.put(client, granted, cost)
        self._grant()
        while not granted.wait(LOOK):
            if given_up():
                with self._lock:  # a place is granted under it, too
                    discard()
                    if not granted.is_set():
                        raise InterruptedError("given up before its turn came")
        try:
            yield
        finally:
            self._queue.finish([Entry(client, granted, cost)])
            with self._lock:
                self._free += 1
            self._grant()

    def _grant(self) -> None:
        with self._lock:
            while self._free and (batch := self._queue.take(wait=False)):
                self._free -= 1
                batch[0].item.set()
