"""Bodies of requests: their size, the memory that all of them hold, and clients that leave while they wait."""

from __future__ import annotations

import asyncio
from collections import deque

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from penstock.server.clients import client_of
from penstock.server.problems import Problem, too_many_requests
from penstock.server.rates import BODY_UNIT, RateLimiter
from penstock.server.shares import Shares
from penstock.support.fair import Neighbours

MAX_HELD = 256 << 20
"""Bytes of all requests in progress; a larger one passes alone."""
LARGE = 1 << 16
"""Bytes from which a body is one of the large ones."""
MAX_LARGE = 2
"""Large bodies of one client that are read, or answered, at once: its further connections wait, unread."""
MAX_LARGE_BYTES = 16 << 20
"""Bytes of these bodies together; a larger one is read alone. Each takes several times as much until it is parsed."""
MAX_SPEED = 32 << 20
"""Bytes a second of a large body that are read beside other clients, whom reading it at full speed would slow down."""


class Gone(Exception):
    """The client has closed its connection before it had an answer."""


class _Large:
    """The large bodies of one client: those that are read or answered, and those that wait, in line."""

    def __init__(self) -> None:
        self._count = self._bytes = 0
        self._line: deque[tuple[int, asyncio.Future[None]]] = deque()

    def __bool__(self) -> bool:
        return bool(self._count or self._line)

    async def enter(self, size: int) -> None:
        granted = asyncio.get_running_loop().create_future()
        self._line.append((size, granted))
        self._grant()
        try:
            await granted
        except BaseException:
            if not granted.cancelled():  # it was granted just before
                self.leave(size)
            self._grant()
            raise

    def leave(self, size: int) -> None:
        self._count -= 1
        self._bytes -= size
        self._grant()

    def shrink(self, size: int) -> None:
        self._bytes -= size
        self._grant()

    def _grant(self) -> None:
        self._line = deque(one for one in self._line if not one[1].cancelled())
        while self._line and self._fits(self._line[0][0]):
            size, granted = self._line.popleft()
            self._count += 1
            self._bytes += size
            granted.set_result(None)

    def _fits(self, size: int) -> bool:
        return not self._count or (self._count < MAX_LARGE and self._bytes + size <= MAX_LARGE_BYTES)


class Bodies:
    """What the bodies of all requests in progress hold, and whose large ones are read."""

    def __init__(self, max_size: int, rates: RateLimiter, neighbours: Neighbours | None = None) -> None:
        self.max_size, self.rates = max_size, rates
        self.held, self.neighbours = Shares(MAX_HELD), neighbours or Neighbours()
        self._large: dict[str, _Large] = {}

    async def enter(self, client: str, size: int) -> None:
        """Wait until the client's large bodies leave room for one of so many bytes. `leave` has to follow."""
        try:
            await self._large.setdefault(client, _Large()).enter(size)
        except BaseException:
            self._forget(client)
            raise

    def shrink(self, client: str, size: int) -> None:
        """A body has come, and has so many bytes less than it might have had."""
        self._large[client].shrink(size)

    def leave(self, client: str, size: int) -> None:
        self._large[client].leave(size)
        self._forget(client)

    def _forget(self, client: str) -> None:
        if not self._large.get(client, True):  # of two that end at once, one may have been the last
            del self._large[client]


class Body:
    """Refuses a body that is too large, by its Content-Length or as it comes in; and one too many for the memory."""

    def __init__(self, scope: Scope, receive: Receive, bodies: Bodies) -> None:
        self._scope, self._receive, self._bodies, self.size, self._arrived = scope, receive, bodies, 0, 0
        headers = Headers(scope=scope)
        self._content_length = headers.get("content-length", "")
        self._empty = self._content_length in ("", "0") and "transfer-encoding" not in headers
        self._expected = int(self._content_length) if self._content_length.isdecimal() else 0
        self._complete, self._gone = asyncio.Event(), asyncio.Event()
        self._answered = self._given_up = False
        self._reserved = 0
        """Bytes of the client's large bodies that it has; those of a body in chunks are known when it has come."""
        if self._empty:
            self._complete.set()

    @property
    def client(self) -> str:
        return client_of(self._scope).name

    async def __call__(self) -> Message:
        if self._empty:
            self._empty = False
            return {"type": "http.request", "body": b"", "more_body": False}
        if self._complete.is_set():
            await self._gone.wait()
            return {"type": "http.disconnect"}
        if max(self.size, self._expected) > LARGE and not self._reserved:
            size = self._expected or self._bodies.max_size
            await self._bodies.enter(self.client, size)
            self._reserved = size
        if self._reserved and self._bodies.neighbours.several:
            await asyncio.sleep(self._arrived / MAX_SPEED)
        message = await self._receive()
        self._count(len(message.get("body", b"")))
        if message["type"] == "http.request" and not message.get("more_body"):
            self._complete.set()
            if self._reserved > self.size:
                self._bodies.shrink(self.client, self._reserved - self.size)
                self._reserved = self.size
            self._bodies.rates.charge(self.client, self.size // BODY_UNIT)
        return message

    async def run(self, app: ASGIApp, send: Send, seconds: float) -> None:
        """Have the app answer. Raises TimeoutError after so many seconds, and Gone where nobody waits for the answer
        any more: what it has in queues leaves them then."""
        if self._expected > self._bodies.max_size:
            raise self._too_large()
        self._bodies.neighbours.note(self.client)

        async def sending(message: Message) -> None:
            self._answered = True
            await send(message)

        try:
            async with asyncio.timeout(seconds) as limit:
                watch = asyncio.create_task(self._watch(limit))
                try:
                    await app(self._scope, self, sending)
                finally:
                    watch.cancel()
        except TimeoutError:
            if self._given_up:
                raise Gone from None
            raise

    def release(self) -> None:
        """Hold nothing any more."""
        if self._reserved:
            self._bodies.leave(self.client, self._reserved)
        if self.size:
            self._bodies.held.add(self.client, -self.size)

    async def _watch(self, limit: asyncio.Timeout) -> None:
        await self._complete.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone.set()
        if not self._answered:
            self._given_up = True
            limit.reschedule(asyncio.get_running_loop().time())

    def _count(self, arrived: int) -> None:
        held, self._arrived = self._bodies.held, arrived
        fits = held.fits(self.client, arrived) or held.total == self.size
        held.add(self.client, arrived)
        self.size += arrived
        if self.size > self._bodies.max_size:
            raise self._too_large()
        if not fits:
            raise too_many_requests("the requests in progress are too large together", 1)

    def _too_large(self) -> Problem:
        message = f"the request has more than {self._bodies.max_size:,} bytes"
        return Problem(413, "too_large", message, {"Connection": "close"})
