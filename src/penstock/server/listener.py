"""Accepts connections: few in a round of the event loop, and those of a client that opens too many in its turn."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from penstock.server.clients import network
from penstock.server.peers import Peers
from penstock.server.turns import CONNECTION, Turns

ACCEPTED = 8
"""Connections that are accepted before anything else is done."""
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
PAUSE = 1.0
"""Seconds without accepting when the system has no more files or memory."""
RETRY = 0.01
"""Seconds without accepting after an error of the network."""

log = logging.getLogger("penstock.server")

Connect = Callable[[], asyncio.BaseProtocol]


class Listener:
    """Has `connect` make the protocol of each connection; closed like an asyncio server."""

    def __init__(
        self, listener: socket.socket, connect: Connect, peers: Peers, turns: Turns, trusts: Callable[[str], bool]
    ) -> None:
        self._listener, self._connect, self._peers, self._turns, self._trusts = listener, connect, peers, turns, trusts
        self._waiting: dict[socket.socket, Callable[[], None]] = {}
        self._held: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting = asyncio.get_running_loop().create_task(self._accept())

    def close(self) -> None:
        """Stop accepting, and close what has not had its turn."""
        self._accepting.cancel()
        for connection, give_up in self._waiting.items():
            give_up()
            connection.close()
        self._waiting.clear()
        self._held.clear()

    async def wait_closed(self) -> None:
        await asyncio.gather(self._accepting, *self._tasks, return_exceptions=True)

    async def _accept(self) -> None:
        loop, count, told = asyncio.get_running_loop(), 0, False
        while True:
            try:
                connection, address = await loop.sock_accept(self._listener)
            except OSError as error:
                if not isinstance(error, ConnectionError):
                    if not told:  # once, until there is a connection again
                        log.warning("no connections can be accepted: %s", error.strerror or error)
                    told = True
                    await asyncio.sleep(PAUSE if error.errno in EXHAUSTED else RETRY)
            else:
                told = False
                try:
                    self._admit(connection, str(address[0]) if address else "?")
                except Exception:
                    log.exception("a connection could not be opened")
                    connection.close()
            if not (count := (count + 1) % ACCEPTED):
                await asyncio.sleep(0)

    def _admit(self, connection: socket.socket, address: str) -> None:
        source = network(address)
        if self._trusts(address):
            self._open(connection, source)
        elif self._peers.crowded(source, self._held[source], len(self._waiting)):
            connection.close()
        elif give_up := self._turns.take(source, partial(self._take_turn, connection, source)):
            self._waiting[connection] = give_up
            self._held[source] += 1
        else:
            self._open(connection, source)

    def _take_turn(self, connection: socket.socket, source: str) -> None:
        del self._waiting[connection]
        self._held[source] -= 1
        if not self._held[source]:
            del self._held[source]
        self._open(connection, source)

    def _open(self, connection: socket.socket, source: str) -> None:
        self._turns.spend(source, CONNECTION)
        task = asyncio.get_running_loop().create_task(self._hand_over(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _hand_over(self, connection: socket.socket) -> None:
        with suppress(OSError):
            await asyncio.get_running_loop().connect_accepted_socket(self._connect, connection)
