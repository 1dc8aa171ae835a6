"""Fair shares of the event loop: who sends more than the others waits while they are served.

What a network has waiting stands in one line, and costs nothing until its turn. While others ask, it has one turn and
little time in a round of the loop.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Generator
from types import coroutine
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from penstock.server.clients import network
from penstock.support.latest import Latest

SHARE = 0.25
"""Share of the event loop's time that one network gets while others ask, beyond a burst."""
FLOODING = 0.1
"""The same of one that has several requests or connections waiting. Polling and threads take as much again."""
BURST = 0.25
"""Seconds of that share at once."""
ROUND = 0.005
"""Seconds of one round of the loop in which a network may begin requests: one that comes then waits for no more."""
ROUND_BESIDE = 0.002
"""Seconds of one round that answering takes while others ask, after which it goes on in the next."""
RECENT = 0.25
"""Seconds for which a network counts as asking after its last request."""
MAX_WAIT = 1.0
MAX_NETWORKS = 10_000
REQUEST = 0.0005
"""Seconds of the event loop that a request takes, at least."""
CONNECTION = 0.0005
"""Seconds of the event loop that it takes to open a connection, and to close it."""

Turn = Callable[[], object]


class Turns:
    def __init__(self) -> None:
        self._ready: Latest[str, float] = Latest(MAX_NETWORKS)
        """When the share that each network used is restored; the network that asked last comes last."""
        self._seen: Latest[str, float] = Latest(MAX_NETWORKS)
        self._active: Counter[str] = Counter()
        self._lines: dict[str, dict[object, Turn]] = {}
        """What waits, by network; each line has a timer."""
        self._round: dict[str, float] = {}
        """Seconds that each network had of this round of the loop."""

    def begin(self, network: str) -> None:
        self._active[network] += 1

    def end(self, network: str) -> None:
        self._active[network] -= 1
        if not self._active[network]:
            del self._active[network]
        self._seen[network] = time.monotonic()

    def spend(self, network: str, seconds: float) -> None:
        now = time.monotonic()
        share = FLOODING if len(self._lines.get(network, ())) > 1 else SHARE
        ready = max(now, self._ready.get(network, now)) + seconds / share
        self._ready[network] = min(ready, now + BURST + MAX_WAIT)
        if self._rival(network):
            self._count(network, seconds)

    def busy(self, network: str) -> bool:
        """Whether the network had its part of this round."""
        return self._round.get(network, 0.0) > ROUND_BESIDE and self._rival(network) is not None

    def take(self, network: str, turn: Turn) -> Callable[[], None] | None:
        """Ask for a turn. None: it is now; else `turn` is called when it has come, and what is returned gives it up."""
        self._seen[network] = time.monotonic()
        if network not in self._lines:
            if not (wait := self.wait(network)) and self._may(network):
                self._count(network, REQUEST)
                return None
            self._lines[network] = {}
            self._schedule(network, wait)
        line, place = self._lines[network], object()
        line[place] = turn

        def give_up() -> None:
            line.pop(place, None)

        return give_up

    def wait(self, network: str) -> float:
        """Seconds until the network's next turn."""
        if (rival := self._rival(network)) is None:
            return 0.0
        ready = self._ready.get(network, 0.0)
        return max(0.0, min(ready - time.monotonic() - BURST, ready - self._ready.get(rival, 0.0)))

    def _rival(self, network: str) -> str | None:
        """Another network that asks, or did just now."""
        if (other := next((name for name in self._active if name != network), None)) is not None:
            return other
        other = next((name for name in reversed(self._seen) if name != network), None)
        return None if other is None or time.monotonic() - self._seen[other] > RECENT else other

    def _may(self, network: str) -> bool:
        spent = self._round.get(network, 0.0)
        return not spent or (spent < ROUND and self._rival(network) is None)

    def _count(self, network: str, seconds: float) -> None:
        if not self._round:
            asyncio.get_running_loop().call_soon(self._round.clear)
        self._round[network] = self._round.get(network, 0.0) + seconds

    def _schedule(self, network: str, wait: float) -> None:
        asyncio.get_running_loop().call_later(wait, self._next, network)

    def _next(self, network: str) -> None:
        line, wait = self._lines[network], 0.0
        try:
            while line and not (wait := self.wait(network)) and self._may(network):
                self._count(network, REQUEST)
                line.pop(next(iter(line)))()
        finally:
            if line:
                self._schedule(network, wait)
            else:
                del self._lines[network]


class Metered:
    """An app whose clients spend of their share what answering them takes of the event loop, little in one round."""

    def __init__(self, app: ASGIApp, turns: Turns, trusts: Callable[[str], bool]) -> None:
        """`trusts`: whether an address is a proxy's, whose clients are many."""
        self._app, self._turns, self._trusts = app, turns, trusts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        address = str((scope.get("client") or ("?",))[0])
        if self._trusts(address):
            await self._app(scope, receive, send)
        else:
            await self._run(self._app(scope, receive, send).__await__(), network(address))

    @coroutine
    def _run(self, task: Generator[Any, Any, None], client: str) -> Generator[Any, Any, None]:
        paid, step, argument = REQUEST, task.send, None
        while True:
            began = time.thread_time()
            try:
                awaited = step(argument)
            except StopIteration:
                return
            finally:
                argument = None  # an error holds this frame, and so would not go with it
                paid -= time.thread_time() - began
                if paid < 0:  # what the request has paid is used up
                    self._turns.spend(client, -paid)
                    paid = 0.0
            try:
                yield awaited
                while self._turns.busy(client):
                    yield None
                step, argument = task.send, None
            except BaseException as error:  # of the awaited, or a cancellation: for the task to handle
                step, argument = task.throw, error
