"""Queues and threads that are fair between clients: none waits for the backlog of another."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from typing import Any, Generic, TypeVar

from penstock.support.cores import usable_cores

T = TypeVar("T")
R = TypeVar("R")

SERVER = ""
"""The server itself as a client, for its probes: they come before all others."""
MEMORY = 10.0
"""Seconds for which a client counts as active."""
MAX_TAGS = 1024
"""Clients that neither wait nor run whose past share is remembered."""


class Neighbours:
    """Whether several clients are active, wherever in the server: one that is alone is not kept from anything."""

    def __init__(self) -> None:
        self._latest = SERVER
        self._until = float("-inf")

    def note(self, client: str) -> None:
        """Say that the client asks for something."""
        if client not in (self._latest, SERVER):
            if self._latest != SERVER:
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
        return -1.0 if client == SERVER else max(self._now, self._shares.get(client, 0.0))

    def _pop(self, batch: Sequence[Entry[T]], joins: Callable[[Sequence[Entry[T]], Entry[T]], bool]) -> Entry[T] | None:
        busy: list[tuple[float, int, str]] = []
        most = self._most_beside if self.neighbours.several else self._most
        try:
            while self._turns:
                start, number, client = heappop(self._turns)
                mine = self._waiting[client]
                if not mine:
                    del self._waiting[client]
                elif start < (due := self._shares.get(client, 0.0)) and client != SERVER:
                    heappush(self._turns, (due, number, client))  # it was served more than expected meanwhile
                elif self._running.get(client, 0) >= most and client != SERVER:
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


@dataclass(frozen=True, slots=True)
class _Task:
    run: Callable[[], Any]
    future: Future[Any]


class FairPool:
    """Threads that clients get in turns, by the time that their tasks take. One client never has all of them; beside
    others it has a quarter at most, and no more than half of the cores.

    `rest` is how many seconds a thread rests for each second of work, for work that holds Python's lock.
    """

    def __init__(self, name: str, threads: int, rest: float = 0.0, neighbours: Neighbours | None = None) -> None:
        quarter = max(1, threads // 4)
        self._queue: FairQueue[_Task] = FairQueue(
            max(1, threads - quarter), min(quarter, max(1, usable_cores() // 2)), neighbours
        )
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=f"penstock-{name}")
        self._rest = rest

    def submit(self, client: str, run: Callable[[], R]) -> Future[R]:
        """One that is cancelled before it has begun leaves the queue."""
        future: Future[R] = Future()
        discard = self._queue.put(client, _Task(run, future), cost=0.0)
        future.add_done_callback(lambda done: discard() if done.cancelled() else None)
        try:
            self._threads.submit(self._work)
        except BaseException:
            discard()
            raise
        return future

    def close(self) -> None:
        """Cancel what waits, and end the threads when they have finished."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for entry in self._queue.drain():
            entry.item.future.cancel()

    @property
    def depth(self) -> int:
        return len(self._queue)

    def _work(self) -> None:
        # A task that was kept back, because its client was in enough threads, is done by one of these.
        while batch := self._queue.take(wait=False):
            began = time.perf_counter()
            _run(batch[0].item)
            took = time.perf_counter() - began
            self._queue.finish(batch, took)
            if self._rest:
                time.sleep(took * self._rest)


def _run(task: _Task) -> None:
    if not task.future.set_running_or_notify_cancel():
        return
    try:
        result = task.run()
    except BaseException as error:
        task.future.set_exception(error)
    else:
        task.future.set_result(result)
