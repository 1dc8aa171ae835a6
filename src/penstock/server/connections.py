"""Limits of connections that uvicorn leaves to a proxy: their number, how slow a client may be, the size of heads."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from penstock.server.problems import Problem, too_many_requests

MAX_CONNECTIONS = 800
"""Connections at once. Many systems give a process 1024 files, and the index needs some."""
MAX_HEAD = 64 << 10
"""Bytes of a request's line and headers."""
MAX_OVERHEAD = 16 << 20
"""Bytes beside a request's body: chunk sizes and trailers, and what comes in after it was answered."""
TIMEOUT = 10.0
"""Seconds for a head to come in, from its first byte; and between two checks that a response is being read."""
MIN_READ = 64 << 10
"""Bytes of a response that a client reads in that time, at least."""
KEEP_ALIVE = 75
"""Seconds an idle connection stays open: longer than most clients and load balancers keep theirs (60, as a rule), so
that none sends a request just as it is closed."""
MIN_IDLE = 5.0
"""Seconds idle after which a connection makes room for another when there are too many."""

_Protocol: Any = AutoHTTPProtocol


class Connection(_Protocol):  # type: ignore[misc]  # uvicorn chooses one of two classes
    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._pending, self._since, self._unread = 0, self.loop.time(), 0
        self._timer = self.loop.call_later(TIMEOUT, self._check)
        if len(self.connections) > MAX_CONNECTIONS:
            self._make_room()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._since, self._unread = self.loop.time(), 0

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        complete = before is None or not before.more_body
        body = 0 if before is None else len(before.body)
        super().data_received(data)
        if self.cycle is not before or not (complete or before.more_body):
            self._pending = 0  # a head or a body is complete
            return
        if not self._pending:
            self._since = self.loop.time()
        # The body is counted where it is read. The rest is the next head, or sizes and trailers of chunks, or what is
        # left of a body that was refused.
        self._pending += len(data) - (0 if before is None else len(before.body) - body)
        if self._pending > (most := MAX_HEAD if complete else MAX_OVERHEAD):
            self._refuse(Problem(431, "too_large", f"the request has more than {most:,} bytes beside its body"))

    def send_400_response(self, msg: str) -> None:
        self._refuse(Problem(400, "bad_request", "invalid request: expected HTTP/1.1"))

    @property
    def _idle(self) -> bool:
        return self.cycle is None or bool(self.cycle.response_complete)

    @property
    def _waiting(self) -> bool:
        """Whether the last request is answered, to the last byte, and no other has begun."""
        if self.cycle is None or self.transport.is_closing() or self.transport.get_write_buffer_size():
            return False
        return self._idle and not self._pending

    def _make_room(self) -> None:
        waiting = [one for one in self.connections if one._waiting]
        longest = min(waiting, key=lambda one: one._since, default=None)
        if longest is not None and self.loop.time() - longest._since >= MIN_IDLE:
            longest.transport.close()
        else:
            self._refuse(too_many_requests(f"there are {MAX_CONNECTIONS} connections already", 1))

    def _refuse(self, problem: Problem) -> None:
        """Close the connection, with a response unless another one is half sent."""
        if self.transport.is_closing():
            return
        if self._idle or not self.cycle.response_started:
            response = problem.response()
            lines = [f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}".encode()]
            lines += [name + b": " + value for name, value in response.raw_headers]
            self.transport.write(b"\r\n".join([*lines, b"connection: close", b"", bytes(response.body)]))
        self.transport.close()

    def _check(self) -> None:
        self._timer = self.loop.call_later(TIMEOUT, self._check)
        closing = self.transport.is_closing()
        # While a response is being produced, the size of the buffer says nothing about the client.
        left = self.transport.get_write_buffer_size() if closing or self._idle else 0
        before, self._unread = self._unread, left
        if left and before and before - left < MIN_READ:
            self.transport.abort()
        elif closing or not self._idle or self.loop.time() - self._since < TIMEOUT:
            return
        elif self._pending or self.cycle is None:
            self._refuse(Problem(408, "timeout", "the request took too long to arrive"))
