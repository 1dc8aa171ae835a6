"""Connections as they are accepted: those of an address that has used its share of the event loop wait unopened."""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from penstock.server import listener, peers
from penstock.server.bodies import Bodies
from penstock.server.listener import Listener
from penstock.server.peers import Peers
from penstock.server.rates import RateLimiter
from penstock.server.turns import Turns
from penstock.sinks.memory import forget
from tests.server.raw import HEALTH, line, reply
from tests.server.serving import chunk, fill, served, with_settings

URL = "memory://serve-listener"
FLOODER, OTHER = "127.0.0.2", "127.0.0.3"


@pytest.fixture(autouse=True)
def index() -> Iterator[None]:
    fill(URL, [chunk(0, "line")])
    yield
    forget(URL)


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Until it is set, FLOODER has no share left."""
    free = threading.Event()
    monkeypatch.setattr(Turns, "wait", lambda self, network: 0.01 if network == FLOODER and not free.is_set() else 0.0)
    return free


@pytest.fixture
def entered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The networks of the connections that were opened."""
    networks: list[str] = []
    enter = Peers.enter

    def noted(self: Peers, peer: Any) -> Any:
        networks.append(peer.network)
        return enter(self, peer)

    monkeypatch.setattr(Peers, "enter", noted)
    return networks


def test_connections_wait_for_their_turn_unopened(free: threading.Event, entered: list[str]) -> None:
    """A connection that is not opened costs next to nothing. Others are let in at once."""
    with served(URL) as client, ExitStack() as held:
        waiting = [held.enter_context(line(client, *HEALTH, b"", source=FLOODER)) for _ in range(5)]
        assert b" 200 " in reply(held.enter_context(line(client, *HEALTH, b"", source=OTHER)))
        assert FLOODER not in entered
        free.set()
        for one in waiting:
            assert b" 200 " in reply(one)


def test_so_many_wait_and_more_are_closed(
    free: threading.Event, entered: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And those that wait are closed when the server stops."""
    monkeypatch.setattr(peers, "MAX_EACH", 2)
    monkeypatch.setattr(peers, "MAX_REFUSED", 1)
    with ExitStack() as held:
        with served(URL) as client:
            waiting = [held.enter_context(line(client, source=FLOODER)) for _ in range(4)]
            more = held.enter_context(line(client, source=FLOODER))
            with suppress(ConnectionResetError):
                assert more.recv(1) == b""
            assert b" 200 " in reply(held.enter_context(line(client, *HEALTH, b"", source=OTHER)))
        for one in waiting:
            with suppress(ConnectionResetError):
                assert one.recv(1) == b""
    assert FLOODER not in entered


def test_trusted_proxies_do_not_wait(free: threading.Event) -> None:
    with (
        served(URL, with_settings(trusted_proxies=(FLOODER,))) as client,
        line(client, *HEALTH, b"", source=FLOODER) as connection,
    ):
        assert b" 200 " in reply(connection)


def test_accepting_goes_on_when_there_are_files_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "PAUSE", 0.01)
    failures = [errno.EMFILE, errno.ECONNABORTED, errno.ENFILE]

    class Failing(socket.socket):
        def accept(self) -> Any:
            if failures:
                raise OSError(failures.pop(), "")
            return super().accept()

    async def task() -> None:
        arrived = asyncio.Event()

        class Arrival(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                arrived.set()
                transport.close()

        with Failing() as accepting:
            accepting.bind(("127.0.0.1", 0))
            accepting.listen()
            accepting.setblocking(False)
            one = Listener(accepting, Arrival, Peers(), Turns(), lambda address: False)
            _, writer = await asyncio.open_connection(*accepting.getsockname())
            await arrived.wait()
            one.close()
            await one.wait_closed()
            writer.close()

    asyncio.run(asyncio.wait_for(task(), 30))
    assert not failures


def test_a_refused_connection_does_not_have_all_others_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are looked at again when one of them can have been idle for long enough."""
    looks, now, idle = [0], [100.0], [1.0]
    monkeypatch.setattr(peers.time, "monotonic", lambda: now[0])

    class Peer:
        network, trusted, unused, unread = FLOODER, False, True, 0

        @property
        def idle(self) -> float:
            looks[0] += 1
            return idle[0]

        def drop(self) -> None: ...

    every = Peers()
    for _ in range(peers.MAX_EACH):
        assert every.enter(Peer()) is None
    for _ in range(peers.MAX_REFUSED):
        refused = Peer()
        assert every.enter(refused) is not None
        every.leave(refused)
    assert looks[0] <= 2 * peers.MAX_EACH
    now[0] += peers.MIN_IDLE - 1.0
    idle[0] = peers.MIN_IDLE
    assert every.enter(Peer()) is None


def test_those_who_have_few_connections_are_let_in_where_others_have_many() -> None:
    class Peer:
        trusted, unused, idle = False, True, 0.0

        def __init__(self, network: str) -> None:
            self.network = network

        def drop(self) -> None: ...

    every = Peers()
    for network in ("a", "b", "c", "d"):
        for _ in range(peers.MAX_EACH):
            every.enter(Peer(network))
    waiting = peers.MAX_REFUSED + 1
    assert not every.crowded("honest", 0, waiting)
    assert every.enter(Peer("honest")) is None
    assert every.crowded("a", 0, waiting)


def test_of_two_large_bodies_that_are_given_up_at_once_neither_is_an_error() -> None:
    async def task() -> None:
        bodies = Bodies(1 << 24, RateLimiter(0))
        await bodies.enter("a", 1 << 24)
        waiting = asyncio.ensure_future(bodies.enter("a", 1 << 24))
        await asyncio.sleep(0)
        waiting.cancel()
        bodies.leave("a", 1 << 24)
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(task())


def test_a_body_in_chunks_gives_back_what_it_does_not_have() -> None:
    async def task() -> None:
        bodies = Bodies(1 << 24, RateLimiter(0))
        await bodies.enter("a", 1 << 24)
        waiting = asyncio.ensure_future(bodies.enter("a", 1 << 20))
        await asyncio.sleep(0)
        assert not waiting.done()
        bodies.shrink("a", (1 << 24) - (1 << 17))
        await asyncio.wait_for(waiting, 20)
        bodies.leave("a", 1 << 17)
        bodies.leave("a", 1 << 20)

    asyncio.run(task())
