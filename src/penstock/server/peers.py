"""The open connections by the networks that they come from, and which of them makes room for another."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Protocol

from penstock.server.problems import Problem, too_many_requests

MAX_CONNECTIONS = 800
"""Connections at once. Many systems give a process 1024 files, and the index needs some."""
MAX_EACH = 256
"""Connections of one network at once, but for trusted proxies."""
MAX_REFUSED = 32
"""Connections beyond these numbers that are told why they are refused; further ones are just closed."""
MIN_IDLE = 5.0
"""Seconds idle after which a connection makes room for another when there are too many."""


class Peer(Protocol):
    """A connection, as seen from here."""

    network: str
    trusted: bool

    @property
    def idle(self) -> float:
        """Seconds since the last request was answered to the last byte; below 0 where one is in progress."""

    @property
    def unused(self) -> bool:
        """Whether no request is complete: closing it drops none."""

    @property
    def unread(self) -> int:
        """Bytes of responses that wait to be read."""

    def drop(self) -> None: ...


class _Group(set[Peer]):
    """The connections of one network."""

    looked, longest = float("-inf"), 0.0
    """When the longest idle was looked for, and how long that had been."""


class Peers:
    def __init__(self) -> None:
        self._groups: dict[str, _Group] = {}
        self._count = 0

    def enter(self, peer: Peer) -> Problem | None:
        """Count a new connection, and close another for it if there are too many. Returns why it is refused, if so."""
        own = self._groups.setdefault(peer.network, _Group())
        own.add(peer)
        self._count += 1
        if not peer.trusted and len(own) > MAX_EACH and not self._drop_idle(own):
            return too_many_requests(f"there are {MAX_EACH} connections of your address already", 1)
        if self._count <= MAX_CONNECTIONS:
            return None
        groups = sorted(self._groups.values(), key=len, reverse=True)
        if any(map(self._drop_idle, groups)):
            return None
        # One that holds most of the connections does not keep others out, not even with connections that are new.
        for group in groups:
            if len(group) > 2 * len(own) and self._drop_unused(group):
                return None
        return too_many_requests(f"there are {MAX_CONNECTIONS} connections already", 1)

    def crowded(self, network: str, own: int = 0, all: int = 0) -> bool:
        """Whether there are too many even to tell them, with so many that wait to enter."""
        own += len(self._groups.get(network, ()))
        if own > MAX_EACH + MAX_REFUSED:
            return True
        if self._count + all <= MAX_CONNECTIONS + MAX_REFUSED:
            return False
        # One that has few may take the place of one that has many: see `enter`.
        return not any(len(group) > 2 * own for group in self._groups.values())

    def leave(self, peer: Peer) -> None:
        if peer in (group := self._groups.get(peer.network, _Group())):
            group.remove(peer)
            self._count -= 1
            if not group:
                del self._groups[peer.network]

    def of(self, network: str) -> Iterable[Peer]:
        return self._groups.get(network, ())

    def _drop_idle(self, group: _Group) -> bool:
        now = time.monotonic()
        if now - group.looked + group.longest < MIN_IDLE:
            return False  # none can be idle for long enough yet
        longest = max(group, key=lambda peer: peer.idle)
        group.looked, group.longest = now, max(0.0, longest.idle)
        if longest.idle < MIN_IDLE:
            return False
        longest.drop()
        self.leave(longest)
        return True

    def _drop_unused(self, group: set[Peer]) -> bool:
        unused = [peer for peer in group if peer.unused and not peer.trusted]
        if not unused:
            return False
        oldest = max(unused, key=lambda peer: peer.idle)
        oldest.drop()
        self.leave(oldest)
        return True
