"""Whole files or none, in a folder as in an object store; of two that create one, one does."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from penstock.compose import load
from penstock.core.errors import SinkError, Transient, UsageError
from penstock.core.schema import single
from penstock.shards import verify
from penstock.shards.embed import Options
from penstock.shards.leases import Leases
from penstock.shards.store import Folder, Store, Taken, at
from tests.s3 import moto

from .world import embedded, pictures, start, uris


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    pytest.importorskip("s3fs")
    with moto() as url:
        yield url


@pytest.fixture
def storage(server: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    import s3fs

    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    options = {"endpoint_url": server}
    fs = s3fs.S3FileSystem(**options)
    if not fs.exists("bucket"):
        fs.mkdir("bucket")
    for name in fs.find("bucket"):
        fs.rm_file(name)
    return options


@pytest.fixture(params=["folder", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return at(tmp_path / "out")
    if request.param == "memory":
        import fsspec

        fsspec.filesystem("memory").store.clear()
        return at("memory://bucket/out/")
    return at("s3://bucket/out", request.getfixturevalue("storage"))


def test_files_of_a_store(store: Store) -> None:
    """Put, read, listed and removed alike in every store."""
    assert store.names("") == []
    assert store.names("_leases", "0001-") == []
    assert store.read("a.json") is None
    store.remove("a.json")
    store.put("a.json", b"1")
    store.put("a.json", b"22")
    assert store.read("a.json") == b"22"
    store.create("_leases/0001-000002.json", b"x")
    with pytest.raises(Taken):
        store.create("_leases/0001-000002.json", b"y")
    assert store.read("_leases/0001-000002.json") == b"x"
    store.create("_leases/0001-000001.json", b"z")
    assert store.names("_leases", "0001-") == ["0001-000001.json", "0001-000002.json"]
    assert store.names("_leases", "0002-") == []
    assert store.names("") == ["a.json"]
    store.remove("a.json")
    assert store.names("") == []


def test_one_of_many_creates_a_file(store: Store) -> None:
    """At once."""
    barrier = threading.Barrier(8)
    made: list[int] = []

    def create(number: int) -> None:
        barrier.wait()
        with suppress(Taken):
            store.create("one", f"{number}".encode())
            made.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.read("one") == f"{made[0]}".encode()
    assert len(made) == 1 or "memory" in store.url, "fsspec's memory looks and then writes"


def test_a_folder_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mounted bucket: of two that create a file, still one does."""

    def link(*args: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    store = Folder(tmp_path)
    store.create("a", b"x")
    with pytest.raises(Taken):
        store.create("a", b"y")
    assert store.read("a") == b"x"
    assert os.listdir(tmp_path) == ["a"]


def test_a_failed_put_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no temporary file."""
    store = Folder(tmp_path)
    store.put("a", b"old")
    monkeypatch.setattr(os, "fsync", lambda number: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(SinkError, match="No space left"):
        store.put("a", b"new")
    assert store.read("a") == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_invalid_urls_are_refused() -> None:
    """With a message that says why."""
    with pytest.raises(UsageError, match="no folder for the parts"):
        at("")
    with pytest.raises(UsageError, match="nonsense"):
        at("nonsense://bucket/x")


def test_a_store_that_is_away_is_waited_for(tmp_path: Path) -> None:
    """A refused connection is Transient, and tried again."""
    import s3fs  # noqa: F401

    keys = {
        "key": "a",
        "secret": "b",
        "endpoint_url": "http://127.0.0.1:9",
        "config_kwargs": {"retries": {"max_attempts": 0}},
    }
    with pytest.raises(Transient):
        at("s3://bucket/out", keys).read("x")


def test_parts_in_a_bucket(tmp_path: Path, storage: dict[str, Any]) -> None:
    """Made by two workers, one of which is killed; proved, and loaded. One put a part: never half of one."""
    source, log = pictures(tmp_path / "in", 30), tmp_path / "log"
    url = "s3://bucket/parts"
    how = {"storage": storage, "claim": True, "pieces": 3, "ttl": 2.0}
    with start(source, url, log, moment=("penstock.shards.store:Bucket", "put", 2, True), **how) as worker:
        assert worker.wait(60) == -signal.SIGKILL
    options = Options(rows=8, memory="64MiB", ttl=2.0, storage=storage)
    done = embedded(source, url, log, claim=True, pieces=3, options=options)
    assert done.open == 0
    assert uris(url, **storage) == sorted(path.as_uri() for path in source.rglob("*.png"))
    found = verify(url, storage=storage)
    assert found.ok, found.troubles
    assert len(log.read_text().splitlines()) <= 38
    loaded = load(url, f"sqlite://{tmp_path}/index.db", storage=storage, state=tmp_path / "state")
    assert (loaded.switched, loaded.written) == (True, 30)


def test_leases_in_a_bucket(tmp_path: Path, storage: dict[str, Any]) -> None:
    """One of many workers gets a shard there, too."""
    from penstock.core.schema import VectorSpec
    from penstock.shards.folder import Folder as Parts

    parts = Parts.begin(at("s3://bucket/leases", storage), single(VectorSpec("m", 3, "f")), 4, "here")
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(Leases(parts).take(2))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (lease,) = [one for one in found if one is not None]
    facts = json.loads(parts.store.read(f"_leases/{lease.name}") or b"")
    assert facts["pid"] == os.getpid()
    lease.release()
