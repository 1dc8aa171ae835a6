"""Asking Hacker News' API, over connections that are kept: each answer is bounded in bytes and time."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from penstock.core.errors import Transient

BYTES = 8 << 20
LINE = 1 << 16
"""Of an event stream, at most."""
SECONDS = 10.0
"""The most that an answer may take."""


class Away(Transient):
    """No answer, or one that says to come again."""


class Garbage(Transient):
    """An answer that is none."""


class Api:
    """Safe to use from several threads: each has a connection of its own."""

    def __init__(self, base: str, seconds: float = SECONDS) -> None:
        parts = urlsplit(base)
        self._secure, self._host, self._port = parts.scheme == "https", parts.hostname or "", parts.port
        self._path, self._seconds = parts.path.rstrip("/"), seconds
        self._own = threading.local()
        self._lock = threading.Lock()
        self._lines: dict[http.client.HTTPConnection, socket.socket] = {}
        """Kept here, as a connection lets go of its own while the answer is still being read."""
        self._closed = False

    def get(self, name: str) -> Any:
        """The value at `name` (`item/8863`, `maxitem`). Raises Away or Garbage."""
        end = time.monotonic() + self._seconds
        try:
            status, headers, data = self._ask(name, end)
        except (OSError, http.client.HTTPException) as error:
            self._drop()
            raise Away(f"no answer from {self._host} ({type(error).__name__})") from None
        if status != 200:
            raise Away(f"{self._host} answers with status {status}", retry_after=_seconds(headers.get("Retry-After")))
        try:
            return json.loads(data, parse_constant=_refuse)
        except (ValueError, RecursionError):
            raise Garbage(f"{self._host} answers with no JSON") from None

    def stream(self, name: str, seconds: float) -> Iterator[bytes]:
        """The lines of a value's event stream, as they come. `seconds`: the longest silence. Raises Away."""
        connection = None
        try:
            connection = self._connection(seconds)
            headers = {"User-Agent": "penstock", "Accept": "text/event-stream"}
            connection.request("GET", f"{self._path}/{name}.json", headers=headers)
            with connection.getresponse() as response:
                if response.status != 200 or "event-stream" not in response.getheader("Content-Type", ""):
                    raise Away(f"{self._host} has no event stream: status {response.status}")
                while line := response.readline(LINE):
                    yield line
            raise Away(f"{self._host} ended its event stream")
        except (OSError, http.client.HTTPException) as error:
            raise Away(f"{self._host} broke its event stream off ({type(error).__name__})") from None
        finally:
            if connection is not None:
                self._forget(connection)

    def close(self) -> None:
        """End the requests under way: they raise Away."""
        with self._lock:
            self._closed = True
            for line in self._lines.values():
                with suppress(OSError):  # it has ended meanwhile
                    line.shutdown(socket.SHUT_RDWR)

    def _ask(self, name: str, end: float) -> tuple[int, http.client.HTTPMessage, bytes]:
        connection = getattr(self._own, "connection", None)
        if connection is not None:
            # One that was kept may have been closed by the server meanwhile.
            with suppress(http.client.RemoteDisconnected, ConnectionError):
                return self._exchange(connection, name, end)
            self._drop()
        self._own.connection = connection = self._connection(self._seconds)
        return self._exchange(connection, name, end)

    def _exchange(
        self, connection: http.client.HTTPConnection, name: str, end: float
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        connection.request("GET", f"{self._path}/{name}.json", headers={"User-Agent": "penstock"})
        with connection.getresponse() as response:
            pieces, size = [], 0
            while piece := response.read1(1 << 16):
                pieces.append(piece)
                size += len(piece)
                if time.monotonic() > end:
                    raise TimeoutError
                if size > BYTES:
                    self._drop()
                    raise Garbage(f"{self._host} answers with more than {BYTES:,} bytes")
            if response.length:
                raise http.client.IncompleteRead(b"", response.length)
            if response.will_close:
                self._drop()
            return response.status, response.headers, b"".join(pieces)

    def _connection(self, seconds: float) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection
        if self._secure:
            connection = http.client.HTTPSConnection(self._host, self._port, timeout=seconds, context=_tls())
        else:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=seconds)
        connection.connect()
        with self._lock:
            closed = self._closed
            if not closed:
                self._lines[connection] = connection.sock
        if closed:
            connection.close()
            raise ConnectionAbortedError
        return connection

    def let_go(self) -> None:
        """Close the connection of this thread."""
        self._drop()

    def _drop(self) -> None:
        if (connection := getattr(self._own, "connection", None)) is not None:
            self._own.connection = None
            self._forget(connection)

    def _forget(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            self._lines.pop(connection, None)
        connection.close()


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not a JSON number")


def _seconds(header: str | None) -> float | None:
    return float(header) if header and header.strip().isdigit() and len(header) < 6 else None
