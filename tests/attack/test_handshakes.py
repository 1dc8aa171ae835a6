"""Handshakes of TLS, many at once, that never end and that do: others are answered, and memory does not grow."""

from __future__ import annotations

import itertools
import socket
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

from penstock.sinks.memory import forget
from tests.server.serving import chunk, fill, served
from tests.server.test_tls import certificate, hello

pytestmark = pytest.mark.attack

URL = "memory://attack-handshakes"
ATTACKER = "127.0.0.2"
SECONDS, MOST = 2.5, 4.0
"""Of an attack; and of a search beside it, which shows that it waited for the attack, however busy the machine is."""
EACH = 40
"""Connections of each of four attackers."""


def held(connection: socket.socket) -> None:
    """Send nothing."""


def half(connection: socket.socket) -> None:
    connection.sendall(hello()[:-50])


def unanswered(connection: socket.socket) -> None:
    connection.sendall(hello())


def dripping(connection: socket.socket) -> None:
    for byte in hello():
        connection.send(bytes([byte]))


def garbled(connection: socket.socket) -> None:
    sent = bytearray(hello())
    sent[50:60] = b"\xff" * 10
    connection.sendall(sent * 40)


def whole(connection: socket.socket) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.wrap_socket(connection).close()


@pytest.mark.parametrize("kind", [held, half, unanswered, dripping, garbled, whole], ids=lambda kind: kind.__name__)
def test_others_are_answered_beside_many_handshakes(
    tmp_path: Path, kind: Callable[[socket.socket], None], capfd: pytest.CaptureFixture[str]
) -> None:
    fill(URL, [chunk(n, f"line {n}") for n in range(20)])
    stop, memory = threading.Event(), psutil.Process().memory_info

    def attack(port: int) -> None:
        lines: list[socket.socket] = []
        for number in itertools.count():
            if stop.is_set():
                break
            with suppress(OSError):
                if len(lines) == EACH:
                    lines[number % EACH].close()
                    lines.pop(number % EACH)
                lines.append(socket.create_connection(("127.0.0.1", port), 5, (ATTACKER, 0)))
                kind(lines[-1])
        for line in lines:
            line.close()

    with (
        served(URL, certificate(tmp_path)) as client,
        ThreadPoolExecutor(4) as pool,
        httpx.Client(base_url=client.base_url, verify=False, trust_env=False, timeout=30) as other,
    ):
        assert other.get("/v1/search?q=line").status_code == 200
        before, slowest, end = memory().rss, 0.0, time.monotonic() + SECONDS
        running = [pool.submit(attack, client.base_url.port or 0) for _ in range(4)]
        try:
            while time.monotonic() < end:
                began = time.monotonic()
                assert other.get("/v1/search?q=line").status_code == 200
                with httpx.Client(base_url=client.base_url, verify=False, trust_env=False, timeout=30) as new:
                    assert new.get("/healthz").status_code == 200
                slowest = max(slowest, time.monotonic() - began)
        finally:
            stop.set()
        for one in running:
            one.result()
        grown = memory().rss - before
    forget(URL)
    assert slowest < MOST
    assert grown < 100 << 20
    assert capfd.readouterr().err == ""
