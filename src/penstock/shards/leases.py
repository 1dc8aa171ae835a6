"""Leases: whose a piece is, for now.

A lease is a file that can be made only once: `0003-000002.json` is the second one of piece 3. Its holder writes it anew
now and then. Whoever sees it unchanged for a while, by its own clock, makes the third: no two clocks are ever
compared. Of a holder on the same machine it is known at once whether it lives.

Who was taken for dead and is not finds that there is a later lease before it writes a part. Should it write one all the
same, in the moment between, its name bears the number of the old lease, and the record of the piece does not list it.
"""

from __future__ import annotations

import json
import os
import threading
import time
from contextlib import suppress
from uuid import uuid4

from penstock.core.errors import LockedError, PenstockError
from penstock.shards.folder import LEASES, Folder
from penstock.shards.store import Taken

TTL = 60.0
"""Seconds without a sign of life after which a holder is taken for dead."""


class LeaseLost(LockedError):
    """Another worker has taken the piece over."""


class Lease:
    """Held from `take` on, by a thread that renews it, until `release`."""

    def __init__(self, folder: Folder, piece: int, term: int, ttl: float, token: str) -> None:
        self.piece, self.term = piece, term
        self._folder, self._ttl, self._token = folder, ttl, token
        self._turn = 0
        self._lost = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="penstock-lease", daemon=True)

    @property
    def name(self) -> str:
        return _name(self.piece, self.term)

    def begin(self) -> None:
        self._folder.store.create(f"{LEASES}/{self.name}", self._content())
        self._thread.start()

    def check(self) -> None:
        """Raises LeaseLost unless this is the latest lease of the piece."""
        names = self._folder.store.names(LEASES, f"{self.piece:04}-")
        if self._lost or not names or names[-1] != self.name:
            self._lost = True
            raise LeaseLost(f"piece {self.piece} was taken over by another worker, as this one gave no sign of life")

    def release(self) -> None:
        """Let another one have it, at once. Nothing if it is lost."""
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
                pass  # the store is away: if it stays so, the lease expires, and a check will find that out

    def _content(self, released: bool = False) -> bytes:
        told = {"token": self._token, "turn": self._turn, "released": released, "ttl": self._ttl, **_me()}
        return json.dumps(told).encode()


class Leases:
    """What one worker knows of the leases of a folder."""

    def __init__(self, folder: Folder, ttl: float = TTL) -> None:
        self._folder, self._ttl = folder, ttl
        self._seen: dict[str, tuple[bytes, float]] = {}

    def take(self, piece: int) -> Lease | None:
        """The piece, if nobody has it. Call it now and then: a holder is dead if it did nothing in the meantime."""
        store = self._folder.store
        names = store.names(LEASES, f"{piece:04}-")
        if names and not self._free(names[-1]):
            return None
        # A lease that was cleared away must not give its number again.
        terms = [int(name[5:11]) for name in names] + [int(name[10:16]) for name in self._folder.part_names(piece)]
        lease = Lease(self._folder, piece, max(terms, default=0) + 1, self._ttl, uuid4().hex)
        try:
            lease.begin()
        except Taken:
            return None
        for name in names:
            store.remove(f"{LEASES}/{name}")
        return lease

    def _free(self, name: str) -> bool:
        content = self._folder.store.read(f"{LEASES}/{name}") or b""
        before = self._seen.get(name)
        if before is None or before[0] != content:
            self._seen[name] = (content, time.monotonic())
        try:
            told = json.loads(content)
            ttl = float(told["ttl"])
            if told["released"] or _dead(told):
                return True
        except (ValueError, KeyError, TypeError):
            ttl = self._ttl  # torn, on a file system without renames
        return time.monotonic() - self._seen[name][1] > ttl


def _name(piece: int, term: int) -> str:
    return f"{piece:04}-{term:06}.json"


def _me() -> dict[str, str | int]:
    return {"machine": _machine(), "pid": os.getpid()}


def _machine() -> str:
    """This machine since it was started, and this container of it; nothing where that cannot be told."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _dead(told: dict[str, object]) -> bool:
    machine, pid = told.get("machine"), told.get("pid")
    if not machine or machine != _machine() or not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
