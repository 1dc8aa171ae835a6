"""A web host on loopback whose answers are as bad as those of the web: slow, endless, cut, compressed to nothing.

with HostileHost() as host:
    host.pages["/a"] = content(b"<p>hello", ETag='"1"')
    host.pages["/b"] = endless_body()
    host.pages["/robots.txt"] = content(status=503)
"""

from __future__ import annotations

import gzip
import itertools
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from email.parser import BytesHeaderParser
from typing import Self

_POLL = 0.02
_HEAD = 1 << 16


class Gone(Exception):
    """Whoever asked has gone, or the host is being closed."""


@dataclass(frozen=True)
class Exchange:
    """A request, and the connection that it came by."""

    path: str
    headers: Message
    _connection: socket.socket = field(repr=False)
    _closing: threading.Event = field(repr=False)
    _begins: Callable[[Exchange], None] = field(repr=False)

    def send(self, data: bytes) -> None:
        """Raises Gone."""
        self._begins(self)
        try:
            self._connection.sendall(data)
        except OSError:
            raise Gone from None

    def wait(self, seconds: float) -> None:
        """Raises Gone, soon after that is so."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self._closing.wait(min(left, _POLL)):
                raise Gone
            self._connection.setblocking(False)
            try:
                if not self._connection.recv(1):
                    raise Gone
            except BlockingIOError:
                pass
            except OSError:
                raise Gone from None
            finally:
                self._connection.settimeout(30)


Answer = Callable[[Exchange], None]


class HostileHost:
    """Answers each path as `pages` says, all others as `other` does: with 404. A connection has one request."""

    def __init__(
        self, address: str = "127.0.0.1", wrap: Callable[[socket.socket], socket.socket] | None = None
    ) -> None:
        """`wrap` a connection, in TLS for example."""
        self.pages: dict[str, Answer] = {}
        self.other: Answer = content(status=404)
        self.asked: list[str] = []
        """Paths, in order."""
        self.requests: list[Exchange] = []
        self.busiest = 0
        """The most requests that waited for the first byte of their answers at once."""
        self._wrap = wrap
        self._unanswered: set[int] = set()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._listening = socket.create_server((address, 0), backlog=128)
        self.address, self.port = self._listening.getsockname()[:2]
        self._listening.settimeout(0.1)
        self._threads: set[threading.Thread] = set()
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        self._listening.close()
        for thread in list(self._threads):
            thread.join()

    def url(self, path: str, scheme: str = "http") -> str:
        return f"{scheme}://{self.address}:{self.port}{path}"

    def count(self, path: str) -> int:
        """How often it was asked for."""
        return self.asked.count(path)

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._listening.accept()
            except TimeoutError:
                continue
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.add(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            connection.settimeout(30)
            if self._wrap is not None:
                connection = self._wrap(connection)
            exchange = self._read(connection)
            with self._lock:
                self.asked.append(exchange.path)
                self.requests.append(exchange)
                self._unanswered.add(id(exchange))
                self.busiest = max(self.busiest, len(self._unanswered))
            try:
                self.pages.get(exchange.path, self.other)(exchange)
            finally:
                self._begin(exchange)
        except (Gone, OSError, ValueError):
            pass  # it is the client that is tested
        finally:
            connection.close()
            self._threads.discard(threading.current_thread())

    def _begin(self, exchange: Exchange) -> None:
        with self._lock:
            self._unanswered.discard(id(exchange))

    def _read(self, connection: socket.socket) -> Exchange:
        head = b""
        while b"\r\n\r\n" not in head:
            if not (piece := connection.recv(_HEAD)):
                raise Gone
            head += piece
        line, _, rest = head.partition(b"\r\n")
        headers = BytesHeaderParser().parsebytes(rest)
        return Exchange(line.split()[1].decode(), headers, connection, self._closing, self._begin)


# ---------------------------------------------------------------- answers


def head(status: int = 200, headers: Mapping[str, object] | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in (headers or {}).items())]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode("utf-8")


def content(body: bytes = b"", status: int = 200, **headers: object) -> Answer:
    """As a good host answers; an underscore in a header's name stands for a hyphen."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = head(status, {"Content-Type": "text/html", "Content-Length": len(body), **named}) + body
    return lambda exchange: exchange.send(answer)


def compressed(body: bytes, coding: str = "gzip") -> Answer:
    """By gzip, deflate or `bare` deflate."""
    if coding == "gzip":
        return content(gzip.compress(body), Content_Encoding="gzip")
    packer = zlib.compressobj(wbits=-15 if coding == "bare" else 15)
    return content(packer.compress(body) + packer.flush(), Content_Encoding="deflate")


def conditional(body: bytes, etag: str, modified: str = "") -> Answer:
    """304 where the etag is known, or the date."""

    def answer(exchange: Exchange) -> None:
        known = exchange.headers["If-None-Match"] == etag or (
            modified and exchange.headers["If-Modified-Since"] == modified
        )
        validators = {"ETag": etag} | ({"Last-Modified": modified} if modified else {})
        if known:
            exchange.send(head(304, validators))
        else:
            content(body, 200, **validators)(exchange)

    return answer


def moved(to: str, status: int = 302) -> Answer:
    return content(status=status, Location=to)


def hanging(seconds: float = 3600.0) -> Answer:
    """No answer at all."""
    return lambda exchange: exchange.wait(seconds)


def slow_head(pause: float = 0.05) -> Answer:
    """A byte of the head now and then."""

    def answer(exchange: Exchange) -> None:
        for byte in itertools.chain(b"HTTP/1.1 200 OK\r\nX-Header: ", itertools.repeat(120)):
            exchange.send(bytes([byte]))
            exchange.wait(pause)

    return answer


def slow_body(pause: float = 0.05) -> Answer:
    """A byte of the body now and then."""

    def answer(exchange: Exchange) -> None:
        exchange.send(head(200, {"Content-Type": "text/html"}))
        while True:
            exchange.send(b"x")
            exchange.wait(pause)

    return answer


def endless_body(media_type: str = "text/html", *, chunked: bool = False) -> Answer:
    def answer(exchange: Exchange) -> None:
        exchange.send(head(200, {"Content-Type": media_type} | ({"Transfer-Encoding": "chunked"} if chunked else {})))
        piece = b"x" * 16_384
        while True:
            exchange.send(b"4000\r\n" + piece + b"\r\n" if chunked else piece)

    return answer


def endless_head() -> Answer:
    """Headers without an end."""

    def answer(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\n")
        for number in itertools.count():
            exchange.send(f"X-{number}: {'x' * 1000}\r\n".encode())

    return answer


def endless_continue() -> Answer:
    """A status 100 after the other."""

    def answer(exchange: Exchange) -> None:
        while True:
            exchange.send(head(100))

    return answer


def bomb(size: int) -> Answer:
    """Zeros, compressed to a thousandth."""
    packer = zlib.compressobj(9, wbits=31)
    zeros = b"\0" * (1 << 20)
    body = b"".join(packer.compress(zeros) for _ in range(size >> 20)) + packer.flush()
    return content(body, Content_Encoding="gzip")


def cut(body: bytes, after: int, **headers: object) -> Answer:
    """It says how long it is, and ends before."""
    whole = {"Content-Type": "text/html", "Content-Length": len(body)}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda exchange: exchange.send(head(200, whole | named) + body[:after])


def cut_chunk(body: bytes) -> Answer:
    """A chunk that ends before its end."""
    begins = head(200, {"Content-Type": "text/html", "Transfer-Encoding": "chunked"})
    return lambda exchange: exchange.send(begins + f"{len(body) + 9:x}\r\n".encode() + body)


def raw(data: bytes) -> Answer:
    """Whatever it is."""
    return lambda exchange: exchange.send(data)


def in_turn(*answers: Answer) -> Answer:
    """One after the other, and the last for good."""
    following: Iterator[Answer] = itertools.chain(answers, itertools.repeat(answers[-1]))
    lock = threading.Lock()

    def answer(exchange: Exchange) -> None:
        with lock:
            chosen = next(following)
        chosen(exchange)

    return answer
