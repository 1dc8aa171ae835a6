"""Connections: slow clients, endless requests, unread responses, too many at once."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from penstock.server import connections
from penstock.sinks.memory import forget
from tests.server.serving import Client, chunk, fill, served, with_settings

URL = "memory://serve-connections"


@pytest.fixture(autouse=True)
def index() -> Iterator[None]:
    fill(URL, [chunk(n, f"line {n}") for n in range(5)])
    yield
    forget(URL)


@contextmanager
def line(client: Client, *begins: bytes) -> Iterator[socket.socket]:
    """A plain socket."""
    with socket.create_connection((client.base_url.host, client.base_url.port or 80)) as connection:
        connection.settimeout(10)
        connection.sendall(b"\r\n".join(begins))
        yield connection


def rest(connection: socket.socket) -> bytes:
    """All bytes until the server closes; those before a reset may be lost."""
    whole = b""
    with suppress(ConnectionResetError):
        while piece := connection.recv(1 << 16):
            whole += piece
    return whole


HEALTH = (b"GET /healthz HTTP/1.1", b"Host: x", b"")


CHUNKED = (b"POST /v1/search HTTP/1.1", b"Host: x", b"Content-Type: application/json", b"Transfer-Encoding: chunked")


@pytest.mark.parametrize(
    ("begins", "repeated"),
    [
        (HEALTH, b"X: " + b"y" * 1000 + b"\r\n"),
        ((b"GET /",), b"y" * 1000),
        ((*CHUNKED, b"", b"0", b"X: "), b"y" * 1000),
        ((b"POST /healthz HTTP/1.1", b"Host: x", b"Transfer-Encoding: chunked", b"", b""), b"4\r\nbody\r\n"),
    ],
    ids=["headers", "address", "trailers", "unwanted body"],
)
def test_endless_requests_are_cut(begins: tuple[bytes, ...], repeated: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing accumulates beside the body, and other clients are served."""
    monkeypatch.setattr(connections, "MAX_OVERHEAD", 1 << 20)
    sent = 0
    with served(URL) as client, line(client, *begins) as connection:
        with suppress(ConnectionError):
            while sent < 64 << 20:
                connection.sendall(repeated * 64)
                sent += len(repeated) * 64
        assert sent < 16 << 20, "sockets hold some"
        assert client.get("/healthz").status_code == 200


def test_slow_clients_are_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    """No byte, half a head, or half a head after a whole one: a readable error, and the connection is closed."""
    monkeypatch.setattr(connections, "TIMEOUT", 0.2)
    with served(URL) as client:
        for begins, late in (((), b""), (HEALTH, b""), ((*HEALTH, b""), b"GET /")):
            with line(client, *begins) as connection:
                if late:
                    assert b" 200 " in connection.recv(1000)
                    connection.sendall(late)
                head, _, content = rest(connection).rpartition(b"\r\n\r\n")
                assert b"HTTP/1.1 408 Request Timeout" in head
                assert json.loads(content)["error"]["type"] == "timeout"
        with line(client, *HEALTH, b"") as connection:
            time.sleep(0.7)
            connection.sendall(b"\r\n".join((*HEALTH, b"")))
            time.sleep(0.2)
            assert connection.recv(2000).count(b" 200 ") == 2, "a client that continues in time is not slow"
        chunked = (
            b"POST /v1/search HTTP/1.1",
            b"Host: x",
            b"Content-Type: application/json",
            b"Transfer-Encoding: chunked",
        )
        with line(client, *chunked, b"", b"11", b'{"text": "otters') as connection:
            time.sleep(0.1)
            connection.sendall(b'"\r\n1\r\n}\r\n')
            time.sleep(0.1)
            connection.sendall(b"0\r\n\r\n")
            assert b" 200 " in connection.recv(100_000)
            connection.settimeout(0.7)
            with pytest.raises(TimeoutError):
                connection.recv(1)  # the body is complete: no more is expected


@pytest.mark.parametrize("ends", [b"Connection: close\r\n", b""], ids=["closed", "kept"])
def test_a_response_that_is_not_read_is_dropped(monkeypatch: pytest.MonkeyPatch, ends: bytes) -> None:
    """Its connection is not idle, so makes no room. A client that reads slowly gets all of it."""
    monkeypatch.setattr(connections, "TIMEOUT", 0.2)
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 1)
    monkeypatch.setattr(connections, "MIN_IDLE", 0.0)
    fill(URL, [chunk(n, "first " + "long " * 20_000) for n in range(90, 190)])
    asked = b"GET /v1/search?q=first&k=100 HTTP/1.1\r\nHost: x\r\n" + ends
    with served(URL, with_settings(seconds=5)) as client:
        with line(client, asked) as connection:
            connection.sendall(b"\r\n")
            time.sleep(0.1)
            with line(client) as late:
                assert b" 429 " in rest(late)
            connection.recv(1, socket.MSG_PEEK)  # the response has begun, however busy the machine is
            time.sleep(1.3)
            assert len(rest(connection)) < 100 * 100_000
        time.sleep(0.1)
        with line(client, asked, b"") as connection:
            fetched = 0
            while fetched < 100 * 100_000:
                piece = connection.recv(1 << 20)
                assert piece
                fetched += len(piece)
                time.sleep(0.02)


def test_connections_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one is refused with Retry-After, and accepted when another has closed."""
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 4)
    with served(URL) as client, ExitStack() as held:
        first, *_ = [held.enter_context(line(client)) for _ in range(4)]
        time.sleep(0.2)
        with line(client) as late:
            response = rest(late)
        assert b" 429 " in response
        assert b"retry-after: 1" in response
        assert b"4 connections already" in response
        first.close()
        time.sleep(0.2)
        assert client.get("/healthz").status_code == 200


def test_the_longest_idle_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle connection gives way to a new one, but not at once; one with a request in progress does not."""
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 3)
    monkeypatch.setattr(connections, "MIN_IDLE", 3600.0)  # however slow the machine is
    with served(URL) as client, ExitStack() as held:
        first, second = (held.enter_context(line(client, *HEALTH, b"")) for _ in range(2))
        for connection in (first, second):
            assert b" 200 " in connection.recv(10_000)
        speaking = held.enter_context(line(client, *HEALTH))
        with line(client) as early:
            assert b" 429 " in rest(early)
        second.sendall(b"\r\n".join((*HEALTH, b"")))
        assert b" 200 " in second.recv(10_000)
        monkeypatch.setattr(connections, "MIN_IDLE", 0.0)
        late = held.enter_context(line(client, *HEALTH, b""))
        assert b" 200 " in late.recv(10_000)
        assert first.recv(1) == b""
        for connection, more in ((second, b"\r\n".join((*HEALTH, b""))), (speaking, b"\r\n")):
            connection.sendall(more)
            assert b" 200 " in connection.recv(10_000)


def test_invalid_http_is_refused_and_not_logged(capfd: pytest.CaptureFixture[str]) -> None:
    with served(URL) as client:
        for begins in (
            (b"\x16\x03\x01\x02", b"GET /\xe9 HTTP/1.1", b"NONE / HTTP/1.1"),
            (*CHUNKED, b"", b"zz", b"", b""),
        ):
            with line(client, *begins, b"", b"") as connection:
                head, _, content = rest(connection).rpartition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 400 ")
            assert json.loads(content)["error"]["type"] == "bad_request"
    assert capfd.readouterr().err == ""
