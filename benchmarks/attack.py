"""Memory of the server, and another client's searches, while one client without a key attacks.

    python benchmarks/attack.py                                  # a minute each
    python benchmarks/attack.py --seconds 5 --only pipelined

A server as a process of its own, with a small index in memory; a client that searches by words, again and again; and an
attacker at another address (127.0.0.2), who does one thing as fast as a core allows, over as many connections as the
server grants. Linux only: elsewhere 127.0.0.2 is not an address of the machine. Of two cores the attacker takes its
part, too: the first line says how much slower the searches are beside a process that only computes.
Bar: less than 100 MiB more, and a p95 of at most three times that of a quiet server.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import selectors
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import httpx
import psutil
from figures import MISSED, record

from penstock.compose import open_index
from penstock.core.records import VECTOR, Chunk, Point
from penstock.core.schema import Manifest, single
from penstock.sinks.memory import MemorySink
from penstock.support.process import configure
from penstock.testing.embedders import HashingEmbedder

SHORT = 5.0
"""Seconds of an attack with fewer of which it is a trial: bars do not count."""
MEMORY, SLOWER = 100, 3.0
"""The bars: MiB, and times the quiet p95."""
ATTACKER = "127.0.0.2"
COMPUTING = "none: a process that only computes"
URL = "memory://attacked"
HOST = b"Host: localhost\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"
POST = b"POST /v1/search HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


def whole(body: bytes, path: bytes = b"/v1/search") -> bytes:
    head = POST.replace(b"/v1/search", path)
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


class Attack:
    """What each connection sends: first once, then `again` for ever, or a new connection where there is no `again`."""

    def __init__(self, first: bytes, again: bytes = b"", *, connections: int = 1, reads: bool = True) -> None:
        self.first, self.again, self.connections, self.reads = first, again, connections, reads


ATTACKS: dict[str, Attack] = {
    "pipelined requests, read": Attack(b"", HEALTH * 500),
    "pipelined requests, not read": Attack(b"", HEALTH * 500, reads=False),
    "pipelined requests, 300 connections": Attack(b"", HEALTH * 50, connections=300),
    "pipelined searches, 300 connections": Attack(b"", whole(b'{"text": "first"}') * 20, connections=300),
    "pipelined bodies": Attack(b"", whole(b'{"text": "' + b"a" * 15_000 + b'"}') * 4, connections=300),
    "bodies of 16 MB, 50 connections": Attack(POST + b"Content-Length: 16000000\r\n\r\n", b" " * 65536, connections=50),
    "bodies that never end, 300 connections": Attack(
        POST + b"Content-Length: 16000000\r\n\r\n" + b" " * 600_000, connections=300
    ),
    "JSON of empty objects": Attack(b"", whole(b'{"like": [' + b"{}," * 2_000_000 + b"{}]}"), connections=8),
    "JSON nested deeply": Attack(b"", whole(b"[" * 1_000_000), connections=8),
    "half heads, 300 connections": Attack(b"GET /healthz HTTP/1.1\r\nX: " + b"a" * 60_000, connections=300),
    "new connections": Attack(HEALTH, connections=50),
    "new connections, silent": Attack(b"", connections=300),
    "chunks of one byte": Attack(CHUNKED, b"1\r\n \r\n" * 1000, connections=20),
    "chunks of eight bytes": Attack(CHUNKED, b"8\r\n        \r\n" * 1000, connections=20),
    "long chunk extensions": Attack(CHUNKED, b"1;" + b"a" * 8000 + b"\r\n \r\n", connections=20),
    "trailers without an end": Attack(CHUNKED + b"0\r\n", b"X: " + b"a" * 8000 + b"\r\n", connections=20),
    "upgrade requests": Attack(
        b"", HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n") * 50
    ),
    "Expect: 100-continue": Attack(POST + b"Expect: 100-continue\r\nContent-Length: 9\r\n\r\n", connections=100),
    "HTTP/1.0 keep-alive": Attack(HEALTH.replace(b"1.1\r\n", b"1.0\r\nConnection: keep-alive\r\n"), connections=50),
    "preface of HTTP/2": Attack(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0" * 1000, connections=50),
    "128 headers each": Attack(
        b"", HEALTH.replace(b"\r\n\r\n", b"\r\n" + b"a: b\r\n" * 120 + b"\r\n") * 20, connections=50
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--points", type=int, default=2000)
    parser.add_argument("--only", default="", help="attacks whose names contain this")
    options = parser.parse_args()
    missed = False
    print(f"{'':42}{'memory MiB':>12}{'p95 ms':>9}{'x quiet':>9}{'refused':>9}")
    attacked(COMPUTING, options)
    for name in ATTACKS:
        if options.only in name:
            missed |= not attacked(name, options)
    sys.exit(MISSED if missed and options.seconds >= SHORT else 0)


def attacked(name: str, options: argparse.Namespace) -> bool:
    """Measure one attack, against a server of its own. Returns whether the bars are reached."""
    processes = multiprocessing.get_context("spawn")
    addresses: Any = processes.Queue()
    server = processes.Process(target=serve, args=(options.points, addresses), daemon=True)
    server.start()
    port = httpx.URL(addresses.get(timeout=120)).port
    assert port is not None
    attacker = processes.Process(target=run, args=(name, port), daemon=True)
    try:
        memory = psutil.Process(server.pid).memory_info
        search(port, 1.0)
        quiet, _, _ = search(port, max(1.0, min(10.0, options.seconds)))
        before = memory().rss
        attacker.start()
        time.sleep(0.7)  # a process starts, and the peers are known
        busy, peak, refused = search(port, options.seconds, lambda: memory().rss)
    finally:
        for process in (attacker, server):
            if process.pid is not None:
                process.terminate()
                process.join()
    grown, slower = (peak - before) / 2**20, busy / quiet
    print(f"{name:42}{grown:>12.0f}{busy * 1e3:>9.1f}{slower:>9.1f}{refused:>9}", flush=True)
    size = f"{name}, {options.seconds:g} s"
    floor = name == COMPUTING
    record(f"{size}: memory", grown, "MiB", bar=None if floor else MEMORY, better="lower")
    record(f"{size}: p95 of another's search", busy * 1e3, "ms", better="lower")
    record(f"{size}: that p95 by the quiet one", slower, bar=None if floor else SLOWER, better="lower")
    record(f"{size}: refused or failed searches of another", refused, bar=0, better="lower")
    return grown < MEMORY and slower <= SLOWER and not refused


def search(port: int, seconds: float, memory: Callable[[], int] = lambda: 0) -> tuple[float, int, int]:
    """p95 of searches, one after the other; the most memory meanwhile; and how many did not succeed."""
    times, peak, refused, end = [], memory(), 0, time.monotonic() + seconds
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as client:
        while time.monotonic() < end or not times:
            began = time.perf_counter()
            answer = client.post("/v1/search", json={"text": "a line of words", "k": 10})
            refused += answer.status_code != 200
            times.append(time.perf_counter() - began)
            peak = max(peak, memory())
            time.sleep(0.005)
    return sorted(times)[int(0.95 * len(times))], peak, refused


def serve(points: int, addresses: Any) -> None:
    from penstock.server import server
    from penstock.server.settings import Settings

    configure(long=True, serves=True)  # as the command line does
    with HashingEmbedder() as embedder, MemorySink(URL) as sink:
        sink.open(Manifest(single(embedder.describe())))
        chunks = [Chunk(f"{n:032x}", f"file:///{n}.txt", 0, f"line {n} of many words", (0, 1)) for n in range(points)]
        sink.write([Point(c, {VECTOR: v}) for c, v in zip(chunks, embedder.embed(chunks), strict=True)])
        sink.flush()
    server.serve(
        URL,
        Settings(port=0, drain=0.0),
        opener=lambda url: open_index(url, HashingEmbedder()),
        started=lambda _, at: addresses.put(at),
    )


def run(name: str, port: int) -> None:
    """Attack until terminated."""
    os.nice(19)  # it would be on another machine
    while name == COMPUTING:
        pass
    attack = ATTACKS[name]
    selector = selectors.DefaultSelector()
    for _ in range(attack.connections):
        connect(selector, port, attack)
    while True:
        for key, events in selector.select(0.5):
            if not serve_one(key.fileobj, key.data, events, attack):
                selector.unregister(key.fileobj)
                key.fileobj.close()  # type: ignore[union-attr]
                connect(selector, port, attack)
        if not selector.get_map():
            time.sleep(0.1)
            connect(selector, port, attack)


def connect(selector: selectors.BaseSelector, port: int, attack: Attack) -> None:
    with suppress(OSError):
        connection = socket.create_connection(("127.0.0.1", port), 5, (ATTACKER, 0))
        connection.setblocking(False)
        selector.register(connection, selectors.EVENT_READ | selectors.EVENT_WRITE, pieces(attack))


def pieces(attack: Attack) -> Iterator[bytes]:
    yield attack.first
    while attack.again:
        yield attack.again


def serve_one(connection: Any, left: Any, events: int, attack: Attack) -> bool:
    """Send and read what is possible; False where the connection ended, or has sent all."""
    try:
        if events & selectors.EVENT_READ and attack.reads and not connection.recv(1 << 16):
            return False
        if events & selectors.EVENT_WRITE:
            piece = next(left, None)
            if piece is None:
                return bool(attack.connections >= 300)  # those stay, silent
            connection.send(piece)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main()
