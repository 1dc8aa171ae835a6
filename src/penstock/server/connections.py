"""Connections: strict requests one at a time, bounded memory, and limits of how slow a client may be.

A request is parsed when the one before it is answered. Until then it waits in a small buffer, and the rest of what the
client sends in the kernel's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from penstock.server.clients import network
from penstock.server.heads import END, MAX_HEAD, check_head, check_start, malformed
from penstock.server.peers import Peers
from penstock.server.problems import Problem
from penstock.server.turns import REQUEST, Turns

MAX_OVERHEAD = 64 << 10
"""Bytes of chunk sizes and trailers, beyond as many as the body has."""
MAX_UNWANTED = 1 << 20
"""Bytes of a body that come in after the request was answered."""
TIMEOUT = 10.0
"""Seconds for a head to come in, from its first byte; and between two checks that a response is being read."""
MIN_READ = 64 << 10
"""Bytes of a response that a client reads in that time, at least."""
MAX_UNREAD = 48 << 20
"""Bytes of responses that wait for one network to read them; a larger one waits alone."""
KEEP_ALIVE = 75
"""Seconds an idle connection stays open: longer than most clients and load balancers keep theirs (60, as a rule), so
that none sends a request just as it is closed."""
REFUSE_AFTER = 0.3
"""Seconds until a connection too many is told so."""
PIECE = 64 << 10
"""Bytes read from a socket, and parsed, at once."""
CHUNKED_PIECE = 8 << 10
"""The same where each few bytes may be a chunk, which takes as long as many bytes."""
CHUNKED_LINES = 256
"""Lines of such a piece, about."""


class _Flow(FlowControl):
    """Continues with what is buffered when a request wants more of its body."""

    def __init__(self, transport: asyncio.Transport, wanted: Callable[[], None]) -> None:
        super().__init__(transport)
        self._wanted = wanted

    def resume_reading(self) -> None:
        super().resume_reading()
        self._wanted()


class Connection(HttpToolsProtocol):
    def __init__(
        self, *arguments: Any, peers: Peers, turns: Turns, trusts: Callable[[str], bool], **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self._peers, self._turns, self._trusts = peers, turns, trusts
        self.network, self.trusted = "?", False
        self._entered = self._begun = False
        self._buffer = bytearray()
        self._checked = 0
        self._in_body, self._chunked, self._left = False, False, 0
        self._overhead = self._arrived = 0
        self._turn: Callable[[], None] | None = None
        self._granted = False
        self._timer: asyncio.TimerHandle | None = None
        self._refusal: asyncio.TimerHandle | None = None
        self._since, self._unread = self.loop.time(), 0

    # ------------------------------------------------------------ begin and end

    def enter(self, transport: asyncio.Transport) -> Problem | None:
        """Count the connection from when it is accepted: with TLS, long before a request. Returns why it is refused."""
        address = str((transport.get_extra_info("peername") or ("?",))[0])
        self.transport, self.network, self.trusted = transport, network(address), self._trusts(address)
        self._entered = True
        self.connections.add(self)  # those that are closed when the server stops
        return self._peers.enter(self)

    def leave(self) -> None:
        self.connections.discard(self)
        self._peers.leave(self)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        problem = None if self._entered else self.enter(transport)
        super().connection_made(transport)
        self.flow = _Flow(transport, self._wanted)
        if hasattr(transport, "max_size"):
            transport.max_size = PIECE  # 256 KiB otherwise, in each connection
        self._since = self.loop.time()
        self._timer = self.loop.call_later(TIMEOUT, self._check)
        if problem is None:
            return
        if self._peers.crowded(self.network):
            transport.abort()
        else:  # who comes again at once waits a little
            self._timer.cancel()
            self.flow.pause_reading()
            self._refusal = self.loop.call_later(REFUSE_AFTER, self._refuse, problem)

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._timer, self._refusal):
            if timer is not None:
                timer.cancel()
        if self._turn is not None:
            self._turn()
        self.leave()
        self._end()
        self._buffer.clear()
        super().connection_lost(exc)
        if self.cycle is not None:  # a connection and its transport hold each other until the collector comes
            self.cycle.body = bytearray()

    def _end(self) -> None:
        if self._begun:
            self._begun = False
            self._turns.end(self.network)

    def shutdown(self) -> None:
        if self._turn is not None:  # a complete request is not dropped
            self._take_turn()
        super().shutdown()

    # ------------------------------------------------------------ reading

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if not self._buffer and not self._in_body:
            self._since = self.loop.time()
        self._buffer += data
        self._advance()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._wanted()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._end()
        self._since, self._unread = self.loop.time(), 0
        if self.transport.get_write_buffer_size() > HIGH_WATER_LIMIT:
            self._bound_unread()
        self._wanted()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_body = False

    def _wanted(self) -> None:
        if self._buffer:
            self.loop.call_soon(self._advance)

    def _advance(self) -> None:
        """Parse what is buffered, as far as it is wanted; then read on, or stop reading until more is wanted."""
        try:
            while self._buffer and not self.transport.is_closing():
                if not (self._body() if self._in_body else self._head()):
                    break
        except Problem as problem:
            self._refuse(problem)

    def _head(self) -> bool:
        """Begin the next request, if it is complete and its turn has come."""
        if not self._idle or self.transport.get_write_buffer_size() > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
            return False
        if not self._checked and self._buffer.startswith(b"\r\n"):
            del self._buffer[:2]  # after the body of a request, old clients send it
            if not self._buffer:
                return False
        if self._buffer == b"\r":  # half of one
            self._read_on()
            return False
        end = self._buffer.find(END, max(0, self._checked - 3))
        if end < 0 or end > MAX_HEAD:
            if len(self._buffer) > MAX_HEAD:
                raise Problem(431, "too_large", f"the request has more than {MAX_HEAD:,} bytes of headers")
            if b"\n" in self._buffer[max(0, self._checked - 1) :] or not self._checked:
                check_start(bytes(self._buffer))
            self._checked = len(self._buffer)
            self._read_on()
            return False
        if self._waits():
            self.flow.pause_reading()
            return False
        self._begin(end)
        return True

    def _waits(self) -> bool:
        """Whether others have their turn first."""
        if self._granted:
            self._granted = False
        elif self._turn is None and not self.trusted:
            self._turn = self._turns.take(self.network, self._take_turn)
        return self._turn is not None

    def _begin(self, end: int) -> None:
        head = bytes(self._buffer[: end + len(END)])
        framing = check_head(head[:end])
        self._checked = 0
        del self._buffer[: len(head)]
        self._unset_keepalive_if_required()
        self._in_body, self._chunked, self._left = True, framing.chunked, framing.length
        self._overhead = self._arrived = 0
        before = self.cycle
        self._begun = True
        self._turns.begin(self.network)
        self._feed(head, REQUEST)
        if self.transport.is_closing():
            return
        if self.cycle is before or self._in_body != bool(framing.chunked or framing.length):
            raise malformed("HTTP/1.1")
        self._read_on()

    def _take_turn(self) -> None:
        if self._turn is not None:
            self._turn()
        self._turn, self._granted = None, True
        self._since = self.loop.time()
        self._advance()
        self._granted = False

    def _body(self) -> bool:
        """Pass on a piece of the body, unless the request holds enough that it has not taken."""
        answered = self.cycle.response_complete
        if self._full or self._waits():
            self.flow.pause_reading()
            return False
        if self._chunked:
            # A message can only end where two line ends meet: a piece ends there, or before what could be one.
            end = self._buffer.find(END, 0, CHUNKED_PIECE + len(END) - 1)
            size = end + len(END) if end >= 0 else min(CHUNKED_PIECE, len(self._buffer) - len(END) + 1)
            if size <= 0:
                self._read_on()
                return False
            if (lines := self._buffer.count(b"\n", 0, size)) > CHUNKED_LINES:
                size = min(size * CHUNKED_LINES // lines, end if end >= 0 else size)
        else:
            size = min(self._left, PIECE, len(self._buffer))
            self._left -= size
        piece = bytes(self._buffer[:size])
        del self._buffer[:size]
        held = len(self.cycle.body)
        self._feed(piece)
        if self.transport.is_closing():
            return False
        arrived = len(self.cycle.body) - held
        self._arrived += arrived
        self._overhead += size - arrived
        if self._overhead > (MAX_UNWANTED if answered else MAX_OVERHEAD + self._arrived):
            raise Problem(431, "too_large", "the request has too many bytes beside its body: expected larger chunks")
        if not self._chunked and self._in_body != bool(self._left):
            raise malformed("HTTP/1.1")
        self._read_on()
        return True

    def _feed(self, data: bytes, least: float = 0.0) -> None:
        began = time.thread_time()
        super().data_received(data)
        self._turns.spend(self.network, least + time.thread_time() - began)

    def _read_on(self) -> None:
        if self.flow.read_paused and not self.transport.is_closing() and not self._full:
            FlowControl.resume_reading(self.flow)

    # ------------------------------------------------------------ limits

    @property
    def _idle(self) -> bool:
        return self.cycle is None or bool(self.cycle.response_complete)

    @property
    def _full(self) -> bool:
        """Whether the request in progress has a body that it does not take."""
        return not self._idle and len(self.cycle.body) > HIGH_WATER_LIMIT

    @property
    def unused(self) -> bool:
        return self._idle and self._turn is None

    @property
    def idle(self) -> float:
        if self.cycle is None or not self.unused or self._buffer or self._in_body or self.unread:
            return -1.0
        return self.loop.time() - self._since

    @property
    def unread(self) -> int:
        return self.transport.get_write_buffer_size()

    def drop(self) -> None:
        self.transport.close()

    def _bound_unread(self) -> None:
        peers = list(self._peers.of(self.network))
        if not self.trusted and len(peers) > 1 and sum(peer.unread for peer in peers) > MAX_UNREAD:
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        self._refuse(malformed("HTTP/1.1"))

    def _refuse(self, problem: Problem) -> None:
        """Close the connection, with a response unless another one is half sent, or the request was answered."""
        if self.transport.is_closing():
            return
        answered = self._in_body and self.cycle is not None and self.cycle.response_complete
        if not answered and (self._idle or not self.cycle.response_started):
            response = problem.response()
            lines = [f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}".encode()]
            lines += [name + b": " + value for name, value in response.raw_headers]
            self.transport.write(b"\r\n".join([*lines, b"connection: close", b"", bytes(response.body)]))
        if not self._idle:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._buffer.clear()
        self.transport.close()

    def _check(self) -> None:
        self._timer = self.loop.call_later(TIMEOUT, self._check)
        closing = self.transport.is_closing()
        # While a response is being produced, the size of the buffer says nothing about the client.
        left = self.unread if closing or self._idle else 0
        before, self._unread = self._unread, left
        if left and before and before - left < MIN_READ:
            self.transport.abort()
        elif closing or not self.unused or left or self.loop.time() - self._since < TIMEOUT:
            return
        elif self._buffer or self._in_body or self.cycle is None:
            self._refuse(Problem(408, "timeout", "the request took too long to arrive"))
