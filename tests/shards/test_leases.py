"""One worker a shard; leases of dead workers expire; a worker wrongly presumed dead does no harm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from penstock.core.schema import VectorSpec, single
from penstock.shards import store as stores
from penstock.shards import verify
from penstock.shards.embed import _Worker
from penstock.shards.folder import Folder
from penstock.shards.leases import Lease, LeaseLost, Leases
from penstock.shards.writer import Writer

from .world import embedded, everything, pictures, uris


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder.begin(stores.at(tmp_path / "out"), single(VectorSpec("m", 3, "f")), 4, "here")


def elsewhere(folder: Folder, lease: Lease) -> None:
    """Make it a lease of another machine, whose process cannot be looked for."""
    name = f"_leases/{lease.name}"
    facts = json.loads(folder.store.read(name) or b"")
    folder.store.put(name, json.dumps(facts | {"machine": "another"}).encode())


def test_one_of_many_takes_the_lease(folder: Folder) -> None:
    """However many try at once."""
    found: list[Lease | None] = []
    barrier = threading.Barrier(12)

    def ask() -> None:
        leases = Leases(folder)
        barrier.wait()
        found.append(leases.take(2))

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (lease,) = [one for one in found if one is not None]
    assert (lease.shard, lease.term) == (2, 1)
    lease.check()
    lease.release()
    again = Leases(folder).take(2)
    assert again is not None
    assert again.term == 2, "what is let go is free at once, under a new number"
    again.release()


def test_a_lease_that_is_not_renewed_expires(folder: Folder) -> None:
    """By the clock of the worker that watches it; a renewed one does not."""
    dead = Lease(folder, 1, 1, ttl=0.2, token="x")
    dead._over.set()  # its thread ends at once, as if the machine had gone
    dead.begin()
    elsewhere(folder, dead)
    live = Lease(folder, 2, 1, ttl=0.2, token="y")
    live.begin()
    leases = Leases(folder)
    assert leases.take(1) is None
    assert leases.take(2) is None
    time.sleep(0.4)
    taken = leases.take(1)
    assert taken is not None
    assert taken.term == 2
    assert leases.take(2) is None
    with pytest.raises(LeaseLost, match="taken over"):
        dead.check()
    live.release()
    taken.release()


def test_the_lease_of_a_dead_process_expires_at_once(folder: Folder) -> None:
    """That of a living one does not."""
    code = "import os, sys; from penstock.shards import leases; print(os.getpid(), leases._machine())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    pid, _, machine = done.stdout.strip().partition(" ")
    facts = {"token": "x", "turn": 0, "released": False, "ttl": 60, "machine": machine, "pid": int(pid)}
    folder.store.put("_leases/0003-000007.json", json.dumps(facts).encode())
    if not machine:
        pytest.skip("this system does not say which machine it is")
    lease = Leases(folder).take(3)
    assert lease is not None
    assert lease.term == 8
    folder.store.put("_leases/0004-000001.json", json.dumps(facts | {"pid": os.getpid()}).encode())
    assert Leases(folder).take(4) is None
    lease.release()


def test_a_lease_that_cannot_be_read_is_waited_for(folder: Folder) -> None:
    """It may be half written, on a file system that shows such."""
    folder.store.put("_leases/0001-000001.json", b"")
    leases = Leases(folder, ttl=0.1)
    assert leases.take(1) is None
    time.sleep(0.15)
    lease = leases.take(1)
    assert lease is not None
    lease.release()


def test_terms_never_repeat(folder: Folder) -> None:
    """Not even if the leases were removed: parts have the terms in their names."""
    folder.store.put("part-0001-000005-000001.parquet", b"")
    lease = Leases(folder).take(1)
    assert lease is not None
    assert lease.term == 6
    lease.release()


def test_a_worker_without_its_lease_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Overtaken in the middle of its shard: the other worker finishes it, and no image has two rows."""
    source, out, log = pictures(tmp_path / "in", 40), tmp_path / "out", tmp_path / "log"
    cut, others = Writer._cut, []

    def overtaken(self: Writer) -> None:
        if self._number == 3 and not others:
            # As if this machine had stood still for a long time.
            others.append(True)
            monkeypatch.setattr(_Worker, "_wait", lambda self: None)
            lease = Folder.open(stores.at(out)).store
            name = f"_leases/0001-{self.term:06}.json"
            lease.put(name, json.dumps({"released": True, "ttl": 1}).encode())
            assert embedded(source, out, log).finished == 1
        cut(self)

    monkeypatch.setattr(Writer, "_cut", overtaken)
    done = embedded(source, out, log)
    assert (done.lost, done.finished, done.open) == (1, 0, 0)
    assert uris(out) == sorted(path.as_uri() for path in source.rglob("*.png"))
    assert verify(out).ok
    assert len(log.read_text().splitlines()) <= 48, "it cost more than a part"


def test_a_late_part_does_not_count(tmp_path: Path) -> None:
    """Written between the check of the lease and the put: the record does not list it, verify names it, and the next
    worker on the shard does not take it in."""
    source, out = pictures(tmp_path / "in", 40), tmp_path / "out"
    embedded(source, out)
    folder = Folder.open(stores.at(out))
    before = uris(out)
    late = "part-0001-000001-009999.parquet"
    folder.store.put(late, folder.store.read(folder.part_names()[1]) or b"")
    found = verify(out)
    assert found.troubles == (f"{late} does not count, as its writer had lost the lease: remove it",)
    folder.store.remove("_done/0001-000001.json")
    assert embedded(source, out).ok
    assert verify(out).ok
    assert late not in folder.part_names(), "what does not count is taken away with the next record"
    assert uris(out) == before
    assert len(everything(out)) == len({part.name for part in everything(out)})


def test_a_late_worker_removes_its_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Overtaken between the check of the lease and the put, by a worker that has finished the shard since."""
    source, out = pictures(tmp_path / "in", 40), tmp_path / "out"
    put, others = stores.Folder.put, []

    def late(self: stores.Folder, name: str, data: bytes) -> None:
        if name.endswith("000003.parquet") and not others:
            others.append(name)
            self.put("_leases/0001-000001.json", json.dumps({"released": True, "ttl": 1}).encode())
            assert embedded(source, out).finished == 1
        put(self, name, data)

    monkeypatch.setattr(stores.Folder, "put", late)
    assert embedded(source, out).lost == 1
    assert not (out / others[0]).exists()
    assert uris(out) == sorted(path.as_uri() for path in source.rglob("*.png"))
    assert verify(out).ok


def test_a_late_record_does_not_count(tmp_path: Path) -> None:
    """Written by a worker that was stopped for a while: the record of the newer lease is read."""
    source, out = pictures(tmp_path / "in", 20), tmp_path / "out"
    embedded(source, out)
    folder = Folder.open(stores.at(out))
    old = folder.store.read("_done/0001-000001.json") or b""
    folder.store.remove("_done/0001-000001.json")
    assert embedded(source, out).finished == 1
    folder.store.put("_done/0001-000001.json", old.replace(b'"embedded": 20', b'"embedded": 19'))
    done = folder.done(1)
    assert done is not None
    assert (done.term, done.counts["embedded"]) == (2, 20)
    assert verify(out).ok


def test_claims_take_over_expired_leases(tmp_path: Path) -> None:
    """Shards of dead workers on other machines are waited for, and then finished."""
    source, out = pictures(tmp_path / "in", 30), tmp_path / "out"
    embedded(source, out, claim=True, pieces=3)
    folder = Folder.open(stores.at(out))
    for shard in (1, 3):
        folder.store.remove(f"_done/{shard:04}-000001.json")
        facts: dict[str, Any] = {"released": False, "ttl": 0.3, "machine": "gone", "pid": 1}
        folder.store.put(f"_leases/{shard:04}-000009.json", json.dumps(facts).encode())
    began = time.monotonic()
    done = embedded(source, out, claim=True, pieces=3, ttl=0.3)
    assert (done.finished, done.open) == (2, 0)
    assert time.monotonic() - began > 0.3
    assert verify(out).ok
