"""A channel bounded in bytes.

What a channel holds is charged from `put` until the consumer *releases* it, not until `get`: a piece that is being
worked on still takes memory. So the bytes in flight of a whole flow are the sum over its channels, and each
channel's share of the budget is the only bound needed. A piece larger than the share passes when it is alone.

A consumer holds its input while it waits to put its output further down. Channels form a line without cycles, so
that cannot deadlock, as a pool of credits shared between stages could.

The ends of a channel:
    Closed   put on a channel that its producer closed (a mistake in the wiring)
    Ended    get from a channel that is closed and empty: the work is done
    Broken   put or get after `fail`: somebody else failed, let go
    Empty    get(wait=False) found nothing now
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


class Closed(Exception): ...


class Ended(Exception): ...


class Broken(Exception): ...


class Empty(Exception): ...


@dataclass(frozen=True, slots=True)
class ChannelStats:
    name: str
    pieces: int
    """Waiting to be taken."""
    bytes: int
    """Charged: waiting or being worked on."""
    capacity: int
    peak: int
    largest: int
    """The largest single piece seen: peak <= max(capacity, largest)."""
    passed: int
    full_s: float
    """Producers' time spent waiting for room, summed over producers."""


class Channel(Generic[T]):
    def __init__(self, name: str, capacity: int) -> None:
        self.name, self.capacity = name, capacity
        self._pieces: deque[tuple[T, int]] = deque()
        lock = threading.Lock()
        self._room = threading.Condition(lock)
        self._some = threading.Condition(lock)
        self._waiting = 0  # producers that wait for room: mostly none, and nobody need be woken
        self._bytes = self._peak = self._largest = self._passed = 0
        self._full_s = 0.0
        self._closed = self._broken = False

    @property
    def bytes(self) -> int:
        """What is charged now."""
        return self._bytes

    def charge(self, size: int) -> None:
        """Take room for something that is worked on without ever being put. Waits like `put`."""
        with self._room:
            self._charge(size)

    def put(self, piece: T, size: int) -> None:
        with self._room:
            self._charge(size)
            self._pieces.append((piece, size))
            self._passed += 1
            self._some.notify()

    def _charge(self, size: int) -> None:
        if self._bytes and self._bytes + size > self.capacity:
            began = time.monotonic()
            self._waiting += 1
            self._room.wait_for(lambda: self._broken or not self._bytes or self._bytes + size <= self.capacity)
            self._waiting -= 1
            self._full_s += time.monotonic() - began
        if self._broken:
            raise Broken(self.name)
        if self._closed:
            raise Closed(self.name)
        self._bytes += size
        self._peak = max(self._peak, self._bytes)
        self._largest = max(self._largest, size)

    def get(self, wait: bool = True, timeout: float | None = None) -> tuple[T, int]:
        """The next piece and its size, charged until `release(size)`. With a timeout, Empty when it has passed."""
        with self._some:
            if wait and not self._pieces:
                self._some.wait_for(lambda: self._pieces or self._closed or self._broken, timeout)
            if self._broken:
                raise Broken(self.name)
            if self._pieces:
                return self._pieces.popleft()
            raise Ended(self.name) if self._closed else Empty(self.name)

    def release(self, size: int) -> None:
        with self._room:
            self._bytes -= size
            if self._waiting:
                self._room.notify_all()

    def __iter__(self) -> Iterator[T]:
        """Every piece until the end; each is released when the next is asked for."""
        while True:
            try:
                piece, size = self.get()
            except Ended:
                return
            try:
                yield piece
            finally:
                self.release(size)

    def close(self) -> None:
        """No more will be put. Consumers drain what is there."""
        with self._room:
            self._closed = True
            self._some.notify_all()
            self._room.notify_all()

    def drop(self) -> None:
        """Forget everything that nobody has taken yet: the run is being stopped."""
        with self._room:
            self._bytes -= sum(size for _, size in self._pieces)
            self._pieces.clear()
            self._room.notify_all()

    def fail(self) -> None:
        """Wake everybody with Broken."""
        with self._room:
            self._broken = True
            self._pieces.clear()
            self._some.notify_all()
            self._room.notify_all()

    def stats(self) -> ChannelStats:
        with self._room:
            return ChannelStats(
                name=self.name,
                pieces=len(self._pieces),
                bytes=self._bytes,
                capacity=self.capacity,
                peak=self._peak,
                largest=self._largest,
                passed=self._passed,
                full_s=self._full_s,
            )
