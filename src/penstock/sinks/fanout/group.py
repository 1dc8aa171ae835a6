"""The members of a fan-out: their states, what the ledger records of them, and calls of all at once."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from penstock.core.contracts import Sink
from penstock.core.errors import PenstockError, Rejected, SinkError, SinkUnavailable, TooLarge, Transient
from penstock.core.records import Point
from penstock.sinks.bisect import in_halves

T = TypeVar("T")

UP, JOINING, BEHIND = "up", "joining", "behind"
SELDOM = 20
"""Pauses between two tries grow to so many times the first one."""


class Comparison(Protocol):
    def orphans(self) -> Iterator[str]: ...
    def close(self) -> None: ...


class Counts(Protocol):
    @property
    def acknowledged(self) -> int: ...


class Book(Protocol):
    """The part of `penstock.ledger.Ledger` that a fan-out uses."""

    def counts(self) -> Counts: ...
    def members(self) -> Mapping[str, int | None]: ...
    def enlist(self, members: Mapping[str, int | None]) -> None: ...
    def fell_behind(self, url: str, ids: Sequence[str] = ()) -> None: ...
    def undeleted(self, url: str, limit: int) -> Sequence[str]: ...
    def deleted(self, url: str, ids: Sequence[str]) -> None: ...
    def missed(self, since: int, after: tuple[int, bytes], limit: int) -> Sequence[tuple[int, bytes, bool]]: ...
    def caught_up(self, url: str) -> None: ...
    def lose(self, rows: Iterable[tuple[int, bytes]]) -> None: ...
    def refuse(self, url: str, reasons: Mapping[str, tuple[str, str]]) -> None: ...
    def accept(self, url: str, ids: Sequence[str]) -> None: ...
    def refused(self, url: str) -> int: ...
    def compare(self, pages: Iterable[Sequence[str]]) -> Comparison: ...


@dataclass(slots=True, eq=False)
class Member:
    sink: Sink
    state: str = UP
    since: int = 0
    """The run since which it may lack something, while it is not up; 0 where the ledger does not know it."""
    opened: bool = False
    had_index: bool = False
    """It held an index when it was opened."""
    refuses: bool = False
    """It has refused points, which it may take in a later version."""
    refused: int = 0
    due: float = 0.0
    """When it is tried again, during a run."""
    tries: int = 0
    steps: Iterator[None] | None = None
    """The steps by which it catches up, while it does."""

    @property
    def url(self) -> str:
        return self.sink.url

    def wait(self, pause: float) -> None:
        self.due = time.monotonic() + pause * min(2**self.tries, SELDOM)
        self.tries = min(self.tries + 1, SELDOM)


class Group:
    """The members. Without a ledger none falls behind: a call fails where one of them does."""

    def __init__(self, sinks: Sequence[Sink], grace: float, again: float) -> None:
        self.members = [Member(sink) for sink in sinks]
        self.grace, self.again = grace, again
        self.ledger: Book | None = None
        self.turns = Turns()
        self.mutex = threading.RLock()
        self.unflushed: list[str] = []
        """Ids deleted since the last flush, so perhaps not for good."""
        self.unseen = False
        """Something was written since the last flush, so perhaps it cannot be read yet."""
        self.notices: deque[str] = deque(maxlen=50)

    @property
    def up(self) -> list[Member]:
        return [member for member in self.members if member.state == UP]

    @property
    def names(self) -> str:
        return " + ".join(member.url for member in self.members)

    # ------------------------------------------------------------ all at once

    def everywhere(
        self, call: Callable[[Sink], T], named: Callable[[Member, BaseException], BaseException] | None = None
    ) -> dict[Member, T]:
        """Call every member that is not behind, at the same time. Those that are unavailable fall behind, but for the
        last one that is up. `named` gives the error to raise for that of a member."""
        active = [member for member in self.members if member.state != BEHIND]
        if not any(member.state == UP for member in active):
            raise SinkUnavailable(f"none of {self.names} is up to date")
        done: dict[Member, T] = {}
        failed: dict[Member, BaseException] = {}

        def work(member: Member) -> None:
            try:
                done[member] = self.patiently(partial(call, member.sink), lambda: member.state == BEHIND)
            except BaseException as error:
                failed[member] = error

        # Daemon threads, as the engine's: a second Ctrl-C ends the process, whatever a native call is doing.
        threads = [threading.Thread(target=work, args=(member,), daemon=True) for member in active[1:]]
        for thread in threads:
            thread.start()
        work(active[0])
        for thread in threads:
            thread.join()
        away = {member: error for member, error in failed.items() if isinstance(error, Transient)}
        for member, error in failed.items():
            if member not in away:
                raise (named or broken)(member, error)
        if away:
            with self.mutex:  # a member that has done it may have fallen behind in another thread
                if self.ledger is None or not any(member.state == UP for member in done):
                    raise next(iter(away.values()))
                for member, reason in away.items():
                    self.leave(member, reason)
        return {member: done[member] for member in active if member in done}

    def patiently(self, call: Callable[[], T], gave_up: Callable[[], bool] = lambda: False) -> T:
        until, pause = time.monotonic() + self.grace, 0.1
        while True:
            try:
                return call()
            except Transient:
                left = until - time.monotonic()
                if left <= 0 or gave_up():
                    raise
                time.sleep(min(pause, left))
                pause = min(2 * pause, 2.0)

    def flush(self) -> None:
        with self.mutex:
            count = len(self.unflushed)
        self.unseen = False  # set before: what is written meanwhile may not be part of the flush
        try:
            self.everywhere(lambda sink: sink.flush())
        except BaseException:
            self.unseen = True
            raise
        with self.mutex:
            del self.unflushed[:count]

    # ------------------------------------------------------------ records in the ledger

    def leave(self, member: Member, why: Transient) -> None:
        """Record that a member is behind, before writes of the others are acknowledged."""
        assert self.ledger is not None
        with self.mutex:
            self.ledger.fell_behind(member.url, self.unflushed)
            member.since = self.ledger.members()[member.url] or 0
            if member.state != BEHIND:
                self.miss(member, why)
            member.state = BEHIND
            member.wait(self.again)

    def miss(self, member: Member, why: Transient) -> None:
        reason = str(why) if member.url in str(why) else f"{member.url}: {why}"
        self.notices.append(f"{reason}; the others go on without it, and it catches up when it is back")

    def note(self, member: Member, points: Sequence[Point], reasons: Mapping[str, str]) -> None:
        """Record the points that a member refused, and those that it took after having refused them."""
        if self.ledger is None:
            return
        if member.refuses:
            self.ledger.accept(member.url, [point.id for point in points if point.id not in reasons])
        if reasons:
            uris = {point.id: point.chunk.uri for point in points}
            self.ledger.refuse(member.url, {id: (uris[id], why) for id, why in reasons.items()})
            with self.mutex:
                member.refuses, member.refused = True, member.refused + len(reasons)

    # ------------------------------------------------------------ read

    def sources(self, target: Member) -> list[Member]:
        """The members from which another one can get what it lacks."""
        return [member for member in self.up if member.sink.readable and member is not target]

    def readers(self) -> list[Member]:
        """The members that are up and can be read, or all if none can be. While none is up, those that are open."""
        candidates = self.up or [member for member in self.members if member.opened]
        readable = any(member.sink.readable for member in self.members)
        return [member for member in candidates if member.sink.readable or not readable]

    def gather(self, ids: Sequence[str], members: Sequence[Member]) -> dict[str, Point]:
        """The points, each from the first member that has it: one may have refused a point that another took."""
        found: dict[str, Point] = {}
        left = list(dict.fromkeys(ids))
        away: Transient | None = None
        for member in members:
            try:
                found.update((point.id, point) for point in member.sink.fetch(left))
            except Transient as error:
                away = error
            if not (left := [id for id in left if id not in found]):
                return found
        if away is not None:
            raise away
        return found


def put(sink: Sink, points: Sequence[Point]) -> dict[str, str]:
    """Write these, in parts where they are too many at once. Return the ids refused for good, and why."""

    def write(some: Sequence[Point]) -> list[tuple[str, str]]:
        try:
            sink.write(some)
        except Rejected as error:
            return list(error.reasons.items())
        except TooLarge as error:
            if len(some) > 1:
                raise
            return [(some[0].id, str(error))]
        return []

    return dict(in_halves(points, write, TooLarge))


def broken(member: Member, error: BaseException) -> BaseException:
    """The error that ends the run, with the member's url in it."""
    if not isinstance(error, Exception) or (isinstance(error, PenstockError) and member.url in str(error)):
        return error
    message = str(error) if isinstance(error, PenstockError) else f"{type(error).__name__}: {error}"
    named = SinkError(f"{member.url}: {message}")
    named.__cause__ = error
    return named


def unexpected(member: Member, error: BaseException) -> BaseException:
    """The same of a write, where an error that no contract names may be one document's: it does not end the run."""
    if isinstance(error, PenstockError | OSError | MemoryError) or not isinstance(error, Exception):
        return broken(member, error)
    named = RuntimeError(f"{member.url}: {type(error).__name__}: {error}")
    named.__cause__ = error
    return named


class Turns:
    """A lock that many share or one holds alone. A thread that waits for it alone goes before those that come later."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._many = self._waiting = 0
        self._alone = False

    @contextmanager
    def shared(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._alone and not self._waiting)
            self._many += 1
        try:
            yield
        finally:
            with self._changed:
                self._many -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            self._waiting += 1
            try:
                self._changed.wait_for(lambda: not self._alone and not self._many)
                self._alone = True
            finally:
                self._waiting -= 1
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()
