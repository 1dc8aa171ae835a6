"""Leases: which worker has a shard.

A lease is a file that can be created only once: `0003-000002.json` is the second one of shard 3. Its holder rewrites it
at intervals. A worker that sees it unchanged for its `ttl`, by its own clock, creates the third: clocks are never
compared. If the holder ran on the same machine, its process is looked for, and a dead one's lease expires at once.

A worker wrongly presumed dead sees the newer lease before it writes a part, and stops. A part written in the moment
between has the number of the old lease in its name, and the record of the shard does not list it.
"""

from __future__ import annotations

import json
import os
import threading
import time
from contextlib import suppress
from typing import Protocol
from uuid import uuid4

from penstock.core.errors import LockedError, PenstockError
from penstock.shards.folder import LEASES, RECORD, SENSELESS
from penstock.shards.store import Store, Taken

LONGEST = 24 * 3600.0
"""The most seconds that a lease may say of itself: one that never expires would keep its shard for ever."""
HELD, RELEASED, EXPIRED = "held", "released", "expired"
TTL = 60.0
"""Seconds after which a lease that is not renewed expires."""


class Leased(Protocol):
    """Where shards are that are leased."""

    @property
    def store(self) -> Store: ...

    def part_names(self, shard: int) -> list[str]: ...


class LeaseLost(LockedError):
    """Another worker has taken the shard over."""


class Lease:
    """A lease that is held: renewed by a thread, until `release`."""

    def __init__(self, folder: Leased, shard: int, term: int, ttl: float, token: str) -> None:
        self.shard, self.term = shard, term
        self.after_death = False
        """Whoever had the shard before ended without giving it back."""
        self._folder, self._ttl, self._token = folder, ttl, token
        self._turn = 0
        self._lost = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="penstock-lease", daemon=True)

    @property
    def name(self) -> str:
        return _name(self.shard, self.term)

    def begin(self) -> None:
        self._folder.store.create(f"{LEASES}/{self.name}", self._content())
        self._thread.start()

    def check(self) -> None:
        """Raises LeaseLost unless this is the latest lease of the shard."""
        names = _names(self._folder, self.shard)
        if self._lost or not names or names[-1] != self.name:
            self._lost = True
            raise LeaseLost(
                f"shard {self.shard} was taken over by another worker: this one did not renew its lease in time"
            )

    def release(self) -> None:
        """Free the shard at once; if the lease is lost, do nothing."""
        self._over.set()
        self._thread.join()
        with suppress(PenstockError):  # then it expires
            self.check()
            self._folder.store.put(f"{LEASES}/{self.name}", self._content(released=True))

    def _renew(self) -> None:
        while not self._over.wait(self._ttl / 4):
            try:
                self.check()
                self._turn += 1
                self._folder.store.put(f"{LEASES}/{self.name}", self._content())
            except LeaseLost:
                return  # the next check says so
            except PenstockError:
                pass  # the store is away: if it stays away the lease expires, and a check finds the newer one

    def _content(self, released: bool = False) -> bytes:
        facts = {"token": self._token, "turn": self._turn, "released": released, "ttl": self._ttl, **_process()}
        return json.dumps(facts).encode()


class Leases:
    """The leases of a folder, as one worker has observed them."""

    def __init__(self, folder: Leased, ttl: float = TTL) -> None:
        self._folder, self._ttl = folder, ttl
        self._seen: dict[str, tuple[bytes, float]] = {}

    def take(self, shard: int) -> Lease | None:
        """Take the shard, unless another worker has it. Call it again at intervals: leases expire between two calls."""
        store = self._folder.store
        names = _names(self._folder, shard)
        state = self._state(names[-1]) if names else RELEASED
        if state == HELD:
            return None
        # The number of a lease that was removed must not occur again.
        terms = [*map(_term, names), *(int(name.split("-")[2]) for name in self._folder.part_names(shard))]
        lease = Lease(self._folder, shard, max(terms, default=0) + 1, self._ttl, uuid4().hex)
        try:
            lease.begin()
        except Taken:
            return None
        lease.after_death = state == EXPIRED
        for name in names:
            store.remove(f"{LEASES}/{name}")
        return lease

    def _state(self, name: str) -> str:
        content = self._folder.store.read(f"{LEASES}/{name}") or b""
        before = self._seen.get(name)
        if before is None or before[0] != content:
            self._seen[name] = (content, time.monotonic())
        try:
            facts = json.loads(content)
            ttl = float(facts["ttl"])
            if facts["released"]:
                return RELEASED
            if _dead(facts):
                return EXPIRED
            if not 0 <= ttl <= LONGEST:
                ttl = self._ttl
        except (*SENSELESS, OverflowError):
            ttl = self._ttl  # torn, on a file system without renames
        return EXPIRED if time.monotonic() - self._seen[name][1] > ttl else HELD


def _names(folder: Leased, shard: int) -> list[str]:
    """The leases of a shard, the latest last; other files may lie beside them."""
    return [name for name in folder.store.names(LEASES, f"{shard:04}-") if RECORD.fullmatch(name)]


def latest_terms(store: Store) -> dict[int, int]:
    """By shard that was ever taken: the term of its latest lease."""
    names = [name for name in store.names(LEASES) if RECORD.fullmatch(name)]
    return {int(name.partition("-")[0]): _term(name) for name in names}  # sorted: of a shard the last one counts


def _term(name: str) -> int:
    return int(name.partition("-")[2].partition(".")[0])


def _name(shard: int, term: int) -> str:
    return f"{shard:04}-{term:06}.json"


def _process() -> dict[str, str | int]:
    return {"machine": _machine(), "pid": os.getpid()}


def _machine() -> str:
    """An id of this machine's boot and this container; empty where there is none."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _dead(facts: dict[str, object]) -> bool:
    """Whether the holder was a process of this machine that has ended."""
    machine, pid = facts.get("machine"), facts.get("pid")
    if not machine or machine != _machine() or not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
