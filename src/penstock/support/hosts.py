"""Hosts that pages are fetched from: how many connections each gets, how fast they follow each other, and when one that
fails is left alone. A host that hangs holds few threads, and none once it has failed often enough."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf

from penstock.core.errors import ParseError, SourceError
from penstock.support.fetching import AT_ONCE, LONGEST, HostAway, HostBusy, Manners, NotPublic, NotStored, Refused

FAILURES = 5
"""Failures in a row after which a host is left alone."""
FIRST_AWAY = 30.0
"""Seconds for which a host is left alone at first; each failed trial doubles them."""
LONGEST_AWAY = 600.0
"""The most seconds for which a host is left alone for its failures: so long after it is back it may go unnoticed."""
STALLED = 3.0
"""Seconds after which a request is slow: no thread begins to wait behind it, where threads must not wait long."""
SOON = 0.1
"""Seconds after which a host may have room for another thread."""
SHORT_WAIT = 2.0
"""The most seconds for which a thread waits for a host that asked for it, where threads must not wait long."""
LONGEST_DELAY = 60.0
"""The most seconds between two requests, whatever a host asks for."""
HOSTS = 4096
"""The most hosts that are remembered; the one used longest ago is forgotten first."""


@dataclass(slots=True)
class _Host:
    begun: list[float] = field(default_factory=list)
    """When each request that is in progress began."""
    waiting: int = 0
    next: float = 0.0
    """Until then no request begins."""
    delay: float = 0.0
    failures: int = 0
    """In a row."""
    until: float = 0.0
    """Until then it is left alone, by its own wish or for its failures."""
    away: float = 0.0
    """Seconds for which it was left alone last for its failures."""

    @property
    def idle(self) -> bool:
        return not self.begun and not self.waiting


class Hosts(Manners):
    """Limits for each host: `at_once` connections, `pause` seconds or more between two requests, `failures` in a row
    until it is left alone. Safe to use from several threads, which wait for their turn here.

    - A host that failed is asked by one thread at a time. After `failures` in a row nobody asks it, for a time that
      grows; then one request tries, and the others wait for how it ends.
    - With `waiting`, no more than so many threads wait for one host, and none behind a request that is slow; others
      get HostAway at once. So one host never holds all threads of a pool. Without it they wait as long as it takes.
    """

    def __init__(
        self,
        *,
        at_once: int = AT_ONCE,
        pause: float = 0.0,
        waiting: int | None = None,
        failures: int | None = FAILURES,
        first_away: float = FIRST_AWAY,
    ) -> None:
        super().__init__()
        self._at_once, self._pause, self.waiting = at_once, pause, waiting
        self._failures, self._first_away = failures or inf, first_away
        self._hosts: OrderedDict[str, _Host] = OrderedDict()
        self._interruptions = 0
        if waiting is not None:
            self.longest_wait = SHORT_WAIT

    @contextmanager
    def turn(self, host: str) -> Iterator[None]:
        """Wait for a turn with the host. Raises HostAway where it is left alone, or has enough threads waiting."""
        with self._changed:
            interruptions = self._interruptions
            begun = self._begin(host)
        success = failure = False
        try:
            yield
            success = True
        except (HostAway, NotPublic, NotStored):
            raise  # it says nothing of the host
        except (ParseError, Refused):
            success = True
            raise
        except (SourceError, TimeoutError):
            failure = True
            raise
        finally:
            with self._changed:
                state = self._state(host)
                state.begun.remove(begun)
                if success:
                    state.failures, state.away = 0, 0.0
                elif failure and interruptions == self._interruptions:
                    self._failed(state)
                self._changed.notify_all()

    def set_delay(self, host: str, seconds: float) -> None:
        """The least seconds between two requests that the host asks for."""
        with self._changed:
            self._state(host).delay = min(seconds, LONGEST_DELAY)

    def leave_alone(self, host: str, seconds: float) -> None:
        with self._changed:
            self._state(host).until = time.monotonic() + min(seconds, LONGEST)

    def wait(self, host: str) -> float:
        with self._changed:
            return max(0.0, self._state(host).until - time.monotonic())

    def rest(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        with self._changed:
            while (left := end - time.monotonic()) > 0:
                self._wait(left)

    def interrupt(self) -> None:
        """Have all that wait here give up: they raise HostAway. What then fails is no failure of its host."""
        with self._changed:
            self._interruptions += 1
            self._changed.notify_all()

    def _state(self, host: str) -> _Host:
        if (state := self._hosts.get(host)) is None:
            state = self._hosts[host] = _Host()
            if len(self._hosts) > HOSTS:
                oldest = next(name for name, other in self._hosts.items() if other.idle)
                del self._hosts[oldest]
        self._hosts.move_to_end(host)
        return state

    def _begin(self, host: str) -> float:
        """Wait until a request may begin, and note it; returns the time."""
        state = self._state(host)
        waits = False
        try:
            while seconds := self._seconds_to_wait(state):
                self._check_queue(state, seconds, waits)
                state.waiting, waits = state.waiting + (not waits), True
                self._wait(min(seconds, STALLED))
        finally:
            state.waiting -= waits
        now = time.monotonic()
        state.begun.append(now)
        state.next = now + max(state.delay, self._pause)
        return now

    def _seconds_to_wait(self, state: _Host) -> float:
        """Until a request may begin: not at all, until then, or until another one has ended. Raises HostAway."""
        now = time.monotonic()
        if state.until > now and (state.away or state.until - now > self.longest_wait):
            seconds = state.until - now
            kind = HostAway if state.away else HostBusy
            raise kind(f"host is away, again in {seconds:.0f} s", retry_after=seconds)
        if len(state.begun) >= (1 if state.failures else self._at_once):
            return inf
        return max(0.0, state.next - now, state.until - now)

    def _check_queue(self, state: _Host, seconds: float, waits: bool) -> None:
        """Raise HostAway where no thread may wait so long."""
        if self.waiting is None:
            return
        if seconds == inf:
            long = bool(state.failures) or time.monotonic() - max(state.begun) > STALLED
        else:
            long = seconds > self.longest_wait
        if long or (not waits and state.waiting >= self.waiting):
            again = seconds if seconds < inf else STALLED if long else SOON
            raise HostBusy(f"host is busy, again in {again:.1f} s", retry_after=again)

    def _wait(self, seconds: float) -> None:
        interruptions = self._interruptions
        self._changed.wait(seconds)
        if interruptions != self._interruptions:
            raise HostAway("fetching was interrupted")

    def _failed(self, state: _Host) -> None:
        state.failures += 1
        if state.failures >= self._failures:
            state.away = min(state.away * 2 or self._first_away, LONGEST_AWAY)
            state.until = max(state.until, time.monotonic() + state.away)
