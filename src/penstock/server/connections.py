"""Connections: how many there are, how long a client may take to say what it wants, and how much it may say until it
is heard. What uvicorn leaves to a proxy, which not everybody has."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from penstock.server.problems import Problem, busy

MOST = 800
"""Connections at once. Many systems give a process 1024 files, and the index needs some."""
HEAD = 64 << 10
"""Bytes of a request's line and headers."""
LEFT = 16 << 20
"""Bytes beside a request's body: what its chunks are wrapped in, and what comes in when it has been answered."""
PATIENCE = 10.0
"""Seconds for a head to come in, from its first byte, and for an answer to be fetched."""

PACE = 64 << 10
"""Bytes of an answer that are fetched in that time, at least."""
KEPT = 75
"""Seconds an idle connection stays open: longer than most clients and load balancers keep theirs (60, as a rule), or a
request would be sent into a door that is just closing."""
SPARED = 5.0
"""Seconds idle after which a connection makes room for another when there are too many."""

_Protocol: Any = AutoHTTPProtocol


class Connection(_Protocol):  # type: ignore[misc]  # which of two it is, uvicorn finds out
    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._unheard, self._since, self._unfetched = 0, self.loop.time(), 0
        self._clock = self.loop.call_later(PATIENCE, self._look)
        if len(self.connections) > MOST:
            self._make_room()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._since, self._unfetched = self.loop.time(), 0

    def connection_lost(self, exc: Exception | None) -> None:
        self._clock.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        heard = self.cycle
        whole = heard is None or not heard.more_body
        body = 0 if heard is None else len(heard.body)
        super().data_received(data)
        if self.cycle is not heard or not (whole or heard.more_body):
            self._unheard = 0  # a head or a body has come to its end
            return
        if not self._unheard:
            self._since = self.loop.time()
        # What has become body is counted where it is read. All else is the next head, or sizes and trailers of chunks,
        # or what is left of a body that nobody wants any more.
        self._unheard += len(data) - (0 if heard is None else len(heard.body) - body)
        if self._unheard > (most := HEAD if whole else LEFT):
            self._refuse(Problem(431, "too_large", f"the request has more than {most:,} bytes beside its body"))

    def send_400_response(self, msg: str) -> None:
        self._refuse(Problem(400, "bad_request", "this is no request of HTTP/1.1"))

    @property
    def _idle(self) -> bool:
        return self.cycle is None or bool(self.cycle.response_complete)

    @property
    def _waiting(self) -> bool:
        """Whether it has been answered, to the last byte, and has said nothing since."""
        if self.cycle is None or self.transport.is_closing() or self.transport.get_write_buffer_size():
            return False
        return self._idle and not self._unheard

    def _make_room(self) -> None:
        waiting = [one for one in self.connections if one._waiting]
        longest = min(waiting, key=lambda one: one._since, default=None)
        if longest is not None and self.loop.time() - longest._since >= SPARED:
            longest.transport.close()
        else:
            self._refuse(busy(f"there are {MOST} connections already", 1))

    def _refuse(self, why: Problem) -> None:
        """Where an answer is half sent, there is nothing more to say."""
        if self.transport.is_closing():
            return
        if self._idle or not self.cycle.response_started:
            answer = why.response()
            lines = [f"HTTP/1.1 {why.status} {HTTPStatus(why.status).phrase}".encode()]
            lines += [name + b": " + value for name, value in answer.raw_headers]
            self.transport.write(b"\r\n".join([*lines, b"connection: close", b"", bytes(answer.body)]))
        self.transport.close()

    def _look(self) -> None:
        self._clock = self.loop.call_later(PATIENCE, self._look)
        closing = self.transport.is_closing()
        # While an answer is being made, how much of it waits says nothing.
        left = self.transport.get_write_buffer_size() if closing or self._idle else 0
        before, self._unfetched = self._unfetched, left
        if left and before and before - left < PACE:
            self.transport.abort()
        elif closing or not self._idle or self.loop.time() - self._since < PATIENCE:
            return
        elif self._unheard or self.cycle is None:
            self._refuse(Problem(408, "timeout", "it took too long to say what is wanted"))
