"""Connections: slow clients, endless requests, unread responses, too many at once."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from penstock.server import connections, peers
from penstock.server import turns as shares
from penstock.server.bodies import Body
from penstock.server.turns import Metered, Turns
from penstock.sinks.memory import forget
from tests.live import until
from tests.server.raw import HEALTH, line, reply, rest
from tests.server.serving import chunk, fill, served, with_settings

URL = "memory://serve-connections"


@pytest.fixture(autouse=True)
def index() -> Iterator[None]:
    fill(URL, [chunk(n, f"line {n}") for n in range(5)])
    yield
    forget(URL)


CHUNKED = (
    b"POST /v1/search HTTP/1.1",
    b"Host: localhost",
    b"Content-Type: application/json",
    b"Transfer-Encoding: chunked",
)


@pytest.mark.parametrize(
    ("begins", "repeated"),
    [
        (HEALTH, b"X: " + b"y" * 1000 + b"\r\n"),
        ((b"GET /",), b"y" * 1000),
        ((*CHUNKED, b"", b"0", b"X: "), b"y" * 1000),
        ((b"POST /healthz HTTP/1.1", b"Host: localhost", b"Transfer-Encoding: chunked", b"", b""), b"4\r\nbody\r\n"),
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
                    assert b" 200 " in reply(connection)
                    connection.sendall(late)
                head, _, content = rest(connection).rpartition(b"\r\n\r\n")
                assert b"HTTP/1.1 408 Request Timeout" in head
                assert json.loads(content)["error"]["type"] == "timeout"
        with line(client, *HEALTH, b"") as connection:
            time.sleep(0.7)
            connection.sendall(b"\r\n".join((*HEALTH, b"")))
            time.sleep(0.2)
            connection.sendall(b"\r\n".join((HEALTH[0], b"Host: localhost", b"Connection: close", b"", b"")))
            assert rest(connection).count(b" 200 ") == 3, "a client that continues in time is not slow"
        chunked = (
            b"POST /v1/search HTTP/1.1",
            b"Host: localhost",
            b"Content-Type: application/json",
            b"Transfer-Encoding: chunked",
        )
        with line(client, *chunked, b"", b"11", b'{"text": "otters') as connection:
            time.sleep(0.1)
            connection.sendall(b'"\r\n1\r\n}\r\n')
            time.sleep(0.1)
            connection.sendall(b"0\r\n\r\n")
            assert b" 200 " in reply(connection)
            connection.settimeout(0.7)
            with pytest.raises(TimeoutError):
                connection.recv(1)  # the body is complete: no more is expected


@pytest.mark.parametrize("ends", [b"Connection: close\r\n", b""], ids=["closed", "kept"])
def test_a_response_that_is_not_read_is_dropped(monkeypatch: pytest.MonkeyPatch, ends: bytes) -> None:
    """Its connection is not idle, so makes no room. A client that reads slowly gets all of it."""
    monkeypatch.setattr(connections, "TIMEOUT", 0.2)
    monkeypatch.setattr(peers, "MAX_CONNECTIONS", 1)
    monkeypatch.setattr(peers, "MIN_IDLE", 0.0)
    fill(URL, [chunk(n, "first " + "long " * 20_000) for n in range(90, 190)])
    asked = b"GET /v1/search?q=first&k=100 HTTP/1.1\r\nHost: localhost\r\n" + ends
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
    monkeypatch.setattr(peers, "MAX_CONNECTIONS", 4)
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


def test_connections_wait_to_be_accepted_while_the_server_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """More of them than are accepted at once, which are few, so that many new ones hold nobody up."""
    busy, free = threading.Event(), threading.Event()
    enter = peers.Peers.enter

    def blocked(self: peers.Peers, peer: peers.Peer) -> Any:
        busy.set()
        free.wait(30)
        return enter(self, peer)

    with served(URL) as client, ExitStack() as stack:
        monkeypatch.setattr(peers.Peers, "enter", blocked)
        first = stack.enter_context(line(client))
        assert busy.wait(10)
        others = [stack.enter_context(line(client)) for _ in range(100)]
        free.set()
        for one in (first, *others):
            one.sendall(b"\r\n".join([*HEALTH, b""]))
            assert reply(one).startswith(b"HTTP/1.1 200")


def test_the_longest_idle_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle connection gives way to a new one, but not at once; one with a request in progress does not."""
    monkeypatch.setattr(peers, "MAX_CONNECTIONS", 3)
    monkeypatch.setattr(peers, "MIN_IDLE", 3600.0)  # however slow the machine is
    with served(URL) as client, ExitStack() as held:
        first, second = (held.enter_context(line(client, *HEALTH, b"")) for _ in range(2))
        for connection in (first, second):
            assert b" 200 " in reply(connection)
        speaking = held.enter_context(line(client, *HEALTH))
        with line(client) as early:
            assert b" 429 " in rest(early)
        second.sendall(b"\r\n".join((*HEALTH, b"")))
        assert b" 200 " in reply(second)
        monkeypatch.setattr(peers, "MIN_IDLE", 0.0)
        late = held.enter_context(line(client, *HEALTH, b""))
        assert b" 200 " in reply(late)
        assert first.recv(1) == b""
        for connection, more in ((second, b"\r\n".join((*HEALTH, b""))), (speaking, b"\r\n")):
            connection.sendall(more)
            assert b" 200 " in reply(connection)


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


def test_one_address_does_not_shut_others_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a limit of its own, and its own idle connections make room for it first."""
    monkeypatch.setattr(peers, "MAX_EACH", 3)
    monkeypatch.setattr(peers, "MIN_IDLE", 3600.0)
    with served(URL) as client, ExitStack() as held:
        own = [held.enter_context(line(client, *HEALTH, b"", source="127.0.0.2")) for _ in range(3)]
        for connection in own:
            assert b" 200 " in reply(connection)
        with line(client, source="127.0.0.2") as late:
            assert b"3 connections of your address already" in rest(late)
        other = held.enter_context(line(client, *HEALTH, b"", source="127.0.0.3"))
        assert b" 200 " in reply(other)
        monkeypatch.setattr(peers, "MIN_IDLE", 0.0)
        with line(client, *HEALTH, b"", source="127.0.0.2") as late:
            assert b" 200 " in reply(late)
        assert own[0].recv(1) == b""
        other.sendall(b"\r\n".join((*HEALTH, b"")))
        assert b" 200 " in reply(other)


def test_many_silent_connections_make_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """All connections are one address's, busy as it seems: others are let in, each for one that has asked nothing."""
    monkeypatch.setattr(peers, "MAX_CONNECTIONS", 10)
    with served(URL) as client, ExitStack() as held:
        silent = [held.enter_context(line(client, b"GET / HT", source="127.0.0.2")) for _ in range(10)]
        time.sleep(0.2)
        for n in range(3):
            other = held.enter_context(line(client, *HEALTH, b"", source=f"127.0.0.{n + 3}"))
            assert b" 200 " in reply(other)
        with line(client, source="127.0.0.2") as late:
            assert b" 429 " in rest(late), "it cannot push anyone out, itself included"
        time.sleep(0.1)
        gone = 0
        for connection in silent:
            connection.setblocking(False)
            with suppress(BlockingIOError):
                gone += connection.recv(1) == b""
        assert gone == 3


def test_trusted_proxies_have_no_limit_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "MAX_EACH", 3)
    with served(URL, with_settings(trusted_proxies=("127.0.0.2",))) as client, ExitStack() as held:
        for _ in range(6):
            assert b" 200 " in reply(held.enter_context(line(client, *HEALTH, b"", source="127.0.0.2")))


@pytest.mark.parametrize("reads", ["quickly", "slowly", "never"])
def test_pipelined_requests_are_not_read_ahead(reads: str) -> None:
    """However many a client sends, they wait in its own socket: 8.5 GB before."""
    many = b"\r\n".join((*HEALTH, b"")) * 5000
    memory = psutil.Process().memory_info
    with served(URL) as client, line(client) as connection:
        assert client.get("/healthz").status_code == 200
        before, sent, until = memory().rss, 0, time.monotonic() + 2.5
        connection.settimeout(0.05)
        while time.monotonic() < until:
            with suppress(TimeoutError):
                sent += connection.send(many)
            if reads != "never":
                with suppress(TimeoutError):
                    connection.recv(1 << 16 if reads == "quickly" else 500)
        assert memory().rss - before < 50 << 20
        assert sent < 32 << 20, "sockets hold some"
        assert client.get("/healthz").status_code == 200


def test_every_pipelined_request_is_answered_in_order() -> None:
    targets = [f"/v1/points/{n:032x}" for n in (3, 1, 4, 1, 0, 2)]
    many = b"".join(b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % target.encode() for target in targets * 20)
    last = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with served(URL) as client, line(client, many + last) as connection:
        answers = rest(connection)
    assert [int(one) for one in re.findall(rb'"text":"line (\d)"', answers)] == [3, 1, 4, 1, 0, 2] * 20
    assert answers.endswith(b'{"status":"alive"}')


def test_a_large_body_passes_in_pieces() -> None:
    """As one, in chunks, and with its next request behind it: more than any buffer holds."""
    body = b'{"text": "line 1", "k": 1' + b" " * 3_000_000 + b"}"
    chunks = b"".join(
        b"%x\r\n%s\r\n" % (len(body[at : at + 999]), body[at : at + 999]) for at in range(0, len(body), 999)
    )
    kind = b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    whole = kind + b"Content-Length: %d\r\n\r\n" % len(body) + body
    chunked = kind + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    last = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with served(URL) as client, line(client, whole + chunked + whole + last) as connection:
        answers = rest(connection)
    assert answers.count(b'"uri":"doc:1"') == 3
    assert answers.endswith(b'{"status":"alive"}')


def test_a_connection_that_ends_lets_go_of_its_body(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, and not when the collector comes: it is seldom, and connections may be many."""
    opened: list[connections.Connection] = []
    done = threading.Event()
    made = connections.Connection.connection_made

    def noted(self: connections.Connection, transport: Any) -> None:
        opened.append(self)
        made(self, transport)

    async def unread(self: Body) -> Any:
        while not done.is_set():
            await asyncio.sleep(0.01)
        return {"type": "http.disconnect"}

    monkeypatch.setattr(connections.Connection, "connection_made", noted)
    monkeypatch.setattr(Body, "__call__", unread)
    with served(URL) as client:
        with line(client, *CHUNKED[:3], b"Content-Length: 200000", b"", b" " * 90_000):
            until(lambda: opened and opened[0].cycle and len(opened[0].cycle.body) > 60_000)
            done.set()
        until(lambda: opened[0].transport.is_closing() and not opened[0].cycle.body)


@pytest.mark.parametrize("smuggled", [False, True])
def test_a_body_of_many_lines_ends_where_it_ends(smuggled: bool) -> None:
    """Its end is not cut in two; what comes behind it is a request like any other."""
    body = b"1\r\n\n\r\n" * 85 + b"0\r\n\r\n"  # 257 lines in 515 bytes
    head = b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += b"Transfer-Encoding: chunked\r\n\r\n"
    behind = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
    behind += (b"Host: other\r\n" if smuggled else b"") + b"Connection: close\r\n\r\n"
    with served(URL) as client, line(client, head + body + behind) as connection:
        answers = rest(connection)
    assert answers.count(b"HTTP/1.1 400") == 1 + smuggled
    assert answers.count(b'{"status":"alive"}') == (not smuggled)


def test_tiny_chunks_are_refused() -> None:
    """Six bytes for one: sixteen times as much work a byte as a body."""
    head = b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += b"Transfer-Encoding: chunked\r\n\r\n"
    with served(URL) as client:
        for chunk_ in (b"1\r\n \r\n", b"1;" + b"a" * 1000 + b"\r\n \r\n"):
            with line(client, head) as connection:
                answer = b""
                with suppress(ConnectionError):
                    for _ in range(200):
                        connection.sendall(chunk_ * 500)
                    answer = rest(connection)
                assert not answer or b" 431 " in answer
        with line(client, head) as connection:
            connection.sendall(b"".join(b"1\r\n%c\r\n" % byte for byte in b'{"text": "line 1"}') + b"0\r\n\r\n")
            assert b" 200 " in reply(connection), "few of them are no harm"


@pytest.mark.parametrize(
    ("unread", "trusted", "closed"),
    [((30, 30), False, True), ((20, 20), False, False), ((60,), False, False), ((30, 30), True, False)],
)
def test_responses_that_one_address_does_not_read_are_bounded(
    unread: tuple[int, ...], trusted: bool, closed: bool
) -> None:
    """Beyond the limit a connection is closed, unless it is the only one, or a trusted proxy's."""
    aborted: list[bool] = []
    connection: Any = connections.Connection.__new__(connections.Connection)
    connection.network, connection.trusted = "10.0.0.1", trusted
    connection.transport = SimpleNamespace(abort=lambda: aborted.append(True))
    connection._peers = SimpleNamespace(of=lambda network: [SimpleNamespace(unread=size << 20) for size in unread])
    connection._bound_unread()
    assert bool(aborted) is closed


def test_who_asks_much_waits_while_others_are_served() -> None:
    async def task() -> None:
        turns, order = Turns(), list[str]()
        for _ in range(1000):
            assert turns.wait("a") == 0, "alone it has all"
            turns.spend("a", 0.01)
        assert turns.take("b", list) is None
        assert 0 < turns.wait("a") <= 1.0
        give_up = turns.take("a", lambda: order.append("given up"))
        assert give_up is not None
        assert turns.take("a", lambda: order.append("first")) is not None
        assert turns.take("a", lambda: order.append("second")) is not None
        give_up()
        for _ in range(10):
            await asyncio.sleep(0)
            assert turns.take("b", list) is None
            turns.spend("b", 0.001)
        assert not order
        while len(order) < 2:
            await asyncio.sleep(0.01)
        assert order == ["first", "second"]
        await asyncio.sleep(0.01)
        assert not turns._lines

    asyncio.run(asyncio.wait_for(task(), 30))


def test_a_network_has_one_turn_in_a_round_while_others_ask() -> None:
    """And a few while it is alone, so that one who comes waits for no more than these."""

    async def task() -> None:
        turns, most = Turns(), round(shares.ROUND / shares.REQUEST)
        assert [turns.take("a", list) is None for _ in range(most + 2)][:most] == [True] * most
        assert turns.take("a", list) is not None
        while turns._lines or turns._round:
            await asyncio.sleep(0)
        assert turns.take("b", list) is None
        assert [turns.take("a", list) is None for _ in range(2)] == [True, False]

    asyncio.run(task())


def test_answers_to_a_network_go_on_in_the_next_round_while_others_ask() -> None:
    """As many as are ready at once: of two that are one network's, and take long, each round has one."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await ready.wait()
        rounds.append(number[0])
        end = time.thread_time() + 2 * shares.ROUND_BESIDE
        while time.thread_time() < end:
            pass

    async def nothing(*message: Any) -> Any: ...

    async def count() -> None:
        while len(rounds) < 3:
            number[0] += 1
            await asyncio.sleep(0)

    async def task() -> None:
        turns = Turns()
        turns.begin("10.0.0.2")
        answers = [
            Metered(app, turns, lambda address: False)({"type": "http", "client": ("10.0.0.1", 1)}, nothing, nothing)
            for _ in range(3)
        ]
        running = [asyncio.ensure_future(one) for one in (*answers, count())]
        await asyncio.sleep(0)
        ready.set()
        await asyncio.gather(*running)

    ready, rounds, number = asyncio.Event(), list[int](), [0]
    asyncio.run(asyncio.wait_for(task(), 30))
    assert len(set(rounds)) == 3


def test_a_turn_that_fails_ends_no_line() -> None:
    async def task() -> None:
        turns, done = Turns(), asyncio.Event()
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        while turns.take("a", list) is None:
            pass
        turns.take("a", lambda: 1 / 0)
        turns.take("a", done.set)
        await done.wait()

    asyncio.run(asyncio.wait_for(task(), 30))


def test_what_answering_takes_is_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step of it, whatever it awaits; errors and cancellations reach it."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(2):
            end = time.thread_time() + 0.03
            while time.thread_time() < end:
                pass
            await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.sleep(30)
        with pytest.raises(ZeroDivisionError):
            await asyncio.gather(fail())
        seen.append(scope["type"])

    async def fail() -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    async def nothing(*message: Any) -> Any: ...

    spent: list[tuple[str, float]] = []
    seen: list[str] = []
    turns = Turns()
    monkeypatch.setattr(turns, "spend", lambda *spending: spent.append(spending))
    asyncio.run(Metered(app, turns, lambda address: False)({"type": "http", "client": ("::1", 1)}, nothing, nothing))
    assert seen == ["http"]
    assert {network for network, _ in spent} == {"::/64"}
    assert 0.04 < sum(seconds for _, seconds in spent) < 5.0


def test_a_flood_takes_its_share_only_while_another_searches() -> None:
    """Counted, not timed: a busy machine answers fewer."""
    many, stop = b"\r\n".join((*HEALTH, b"")) * 200, threading.Event()
    with served(URL) as client, line(client, source="127.0.0.2") as connection, ThreadPoolExecutor(1) as pool:

        def search() -> int:
            count = 0
            while not stop.is_set():
                count += bool(client.found(text="line 1", k=1))
            return count

        searches = pool.submit(search)
        time.sleep(0.3)
        connection.settimeout(0.05)
        answers, began = b"", time.monotonic()
        try:
            while time.monotonic() - began < 2.0:
                with suppress(TimeoutError):
                    connection.send(many)
                with suppress(TimeoutError):
                    answers += connection.recv(1 << 16)
        finally:
            stop.set()
        seconds = time.monotonic() - began
        assert answers.count(b" 200 ") < (seconds + shares.BURST) * shares.SHARE / shares.REQUEST * 1.5
        assert searches.result() > 5


def test_networks_of_turns_are_remembered_in_bounds() -> None:
    async def task() -> Turns:
        turns = Turns()
        for n in range(30_000):
            turns.take(f"network {n}", list)
            turns.spend(f"network {n}", 0.01)
        return turns

    turns = asyncio.run(task())
    assert len(turns._ready) <= 10_000
    assert len(turns._seen) <= 10_000
