"""`milvus://` keeps the promises of a sink, in a file of Milvus Lite and over a server's protocol."""

from __future__ import annotations

import base64
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.core.errors import MissingExtra, Rejected, SinkError, SpaceMismatch, Transient, UsageError
from penstock.core.records import VECTOR, Dense, Point, Sparse
from penstock.core.schema import Manifest
from penstock.sinks.milvus import MilvusIndex, MilvusSink, wire
from penstock.sinks.milvus.points import VARCHAR
from penstock.testing.sink_suite import (
    Aliased,
    MakeIndex,
    MakeSink,
    SinkSuite,
    holds,
    point,
    respec,
    same,
    silent_port,
    unreachable,
    write_flush_and_die,
)
from tests.sinks.overlapping import Overlapping

grpc = pytest.importorskip("grpc")
MilvusClient = pytest.importorskip("pymilvus").MilvusClient
pytest.importorskip("milvus_lite")

KEY = "root:a-secret-42"
MANIFEST = SinkSuite().manifest


class TestFile(SinkSuite):
    collection = "notes"
    shared = False

    @pytest.fixture
    def make_sink(self, tmp_path: Path) -> MakeSink:
        return lambda: MilvusSink(f"milvus://{tmp_path}/in dex/notes.db/{self.collection}")

    @pytest.fixture
    def make_index(self, tmp_path: Path) -> MakeIndex:
        return lambda: MilvusIndex(f"milvus://{tmp_path}/in dex/notes.db/{self.collection}")

    @pytest.fixture
    def aliased(self, tmp_path: Path) -> Aliased:
        def stands_for(alias: str) -> int:
            kept = json.loads((tmp_path / "in dex/notes.db/aliases.json").read_text())
            return [self.collection, f"{self.collection}_1"].index(kept[alias])

        return stands_for


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The engine of Milvus Lite as a process of its own, which speaks the protocol of a Milvus server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("milvus")
    command = [sys.executable, "-m", "milvus_lite", "server", "--data-dir", str(folder / "served.db")]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen([*command, "--host", "127.0.0.1", "--port", str(port)], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 30
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, "the server does not come up"
            time.sleep(0.05)
        yield f"milvus://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait(10)


@pytest.fixture
def place(server: str) -> str:
    return f"{server}/t{uuid.uuid4().hex}"


class TestServer(SinkSuite):
    secret = KEY

    @pytest.fixture
    def make_sink(self, place: str, monkeypatch: pytest.MonkeyPatch) -> MakeSink:
        monkeypatch.setenv("MILVUS_TOKEN", KEY)
        return lambda: MilvusSink(place)

    @pytest.fixture
    def make_index(self, place: str) -> MakeIndex:
        return lambda: MilvusIndex(place)

    @pytest.fixture
    def aliased(self, place: str) -> Aliased:
        server, _, name = place.replace("milvus:", "http:").rpartition("/")

        def stands_for(alias: str) -> int:
            client = MilvusClient(server, dedicated=True)
            found = client.describe_alias(alias)["collection_name"]
            client.close()
            return [name, f"{name}_1"].index(found)

        return stands_for


class TestSparseFile(Overlapping, TestFile):
    """Sparse vectors, as a file has them."""

    # The client remembers what a collection is by the server's port and its name, and ports come again.
    collection = "sparse"


@pytest.mark.heavy
class TestSparseServer(Overlapping, TestServer):
    """Sparse vectors, as a server has them."""


SPARSE = Manifest(respec(MANIFEST.schema, kind="Sparse", metric="dot"))


def sparse(n: int, indices: Sequence[int], values: Sequence[float]) -> Point:
    return replace(point(n), vectors={VECTOR: Sparse(np.array(indices, np.int32), np.array(values, np.float32))})


def test_sparse_vectors_of_any_size(place: str) -> None:
    """Subnormal and 20,000 values, in any order, at any index: as they were; and nothing is found by nothing."""
    last, many = 2**31 - 1, np.random.default_rng(3).random(20_000, dtype=np.float32) + 0.1
    points = [sparse(1, [0, 7, last], [0.1, 1e-45, 3e38]), sparse(2, range(0, 40_000, 2), many)]
    with MilvusSink(place) as sink, MilvusIndex(place) as index:
        sink.open(SPARSE)
        sink.write([*points, sparse(3, [9, 3], [0.25, 0.5])])
        holds(sink, [*points, sparse(3, [3, 9], [0.5, 0.25])])
        index.open()
        hits = index.search(Sparse(np.array([9, 5], np.int32), np.array([2, 0], np.float32)))
        assert [(h.chunk.id, h.score) for h in hits] == [(point(3).id, 0.5)]
        assert index.search(Sparse(np.array([9], np.int32), np.zeros(1, np.float32))) == []
        with pytest.raises(SinkError, match="negative"):
            index.search(Sparse(np.array([9], np.int32), -np.ones(1, np.float32)))
        sink.drop()


def test_sparse_vectors_that_cannot_be_kept_are_named(place: str) -> None:
    """A value below or of zero, no value, an index twice, NaN: by id, and the rest is written."""
    bad = [
        sparse(2, [1, 2], [-1.0, 1.0]),
        sparse(3, [1, 2], [0.0, 1.0]),
        sparse(4, [], []),
        sparse(5, [1, 1], [1.0, 1.0]),
        sparse(6, [1], [float("nan")]),
    ]
    with MilvusSink(place) as sink:
        sink.open(SPARSE)
        with pytest.raises(Rejected) as raised:
            sink.write([sparse(1, [1], [1.0]), *bad])
        assert raised.value.reasons.keys() == {p.id for p in bad}
        holds(sink, [sparse(1, [1], [1.0])])
        sink.drop()


@pytest.mark.parametrize("other", [{"kind": "MultiVector"}, {"metric": "l2"}])
def test_kinds_that_it_has_not(place: str, other: dict[str, str]) -> None:
    """Many vectors a point, sparse ones by distance: told before anything is made."""
    with MilvusSink(place) as sink:
        with pytest.raises(UsageError) as raised:
            sink.open(Manifest(respec(SPARSE.schema, **other)))
        told(raised)
        assert sink.manifest() is None


class Refusing(grpc.GenericRpcHandler):
    """A server that answers everything with one status, and keeps what it was told of keys."""

    def __init__(self, status: grpc.StatusCode | None) -> None:
        self.status, self.keys, self.let_go = status, set[str](), threading.Event()

    def service(self, call: Any) -> Any:
        self.keys |= {str(value) for key, value in call.invocation_metadata if key == "authorization"}
        return grpc.unary_unary_rpc_method_handler(self.answer)

    def answer(self, _request: bytes, context: Any) -> None:
        if self.status is None:
            self.let_go.wait(20)
        context.abort(self.status or grpc.StatusCode.CANCELLED, "auth check failure\nin two lines")


@contextmanager
def refusing(status: grpc.StatusCode | None) -> Iterator[tuple[str, Refusing]]:
    handler = Refusing(status)
    with ThreadPoolExecutor(4) as threads:
        server = grpc.server(threads, handlers=[handler])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"milvus://127.0.0.1:{port}/notes", handler
        finally:
            handler.let_go.set()
            server.stop(0).wait(5)


def told(error: pytest.ExceptionInfo[BaseException]) -> str:
    line = str(error.value)
    assert "\n" not in line
    assert KEY not in line
    return line


@pytest.mark.parametrize(
    "url",
    [
        "milvus://host",
        "milvus://host/two/names",
        "milvus://host/my-notes",
        "milvus://host/1st",
        "milvus://host/" + "n" * 256,
        "milvus://host:port/notes",
        "milvus://user@host/notes",
        "milvus://user:password@host/notes",
        "milvus://host/notes?ssl=1",
        "milvus://./notes",
        "milvus://./notes.db",
        "milvus://./folder/notes",
        "milvus://./notes.db/notes?tls=1",
        "qdrant://host/notes",
    ],
)
def test_urls_that_cannot_be_meant(url: str) -> None:
    """They are told at once, without a driver."""
    with pytest.raises(UsageError) as raised:
        MilvusSink(url)
    told(raised)


@pytest.mark.parametrize("missing", ["pymilvus", "milvus_lite.adapter.grpc.server"])
def test_a_missing_driver_unreachable(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the line that installs it, and nothing made."""
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtra, match=r"penstock\[milvus\]"):
        MilvusSink(f"milvus://{tmp_path}/notes.db/notes").open(MANIFEST)
    assert list(tmp_path.iterdir()) == []


def test_an_unreachable_server_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens there, which may pass."""
    monkeypatch.setenv("MILVUS_TOKEN", KEY)
    with silent_port() as port:
        url = f"milvus://127.0.0.1:{port}/notes"
        unreachable(MilvusSink(url), MilvusIndex(url), KEY)
        with pytest.raises(Transient):
            MilvusSink(url).manifest()


def test_a_silent_server_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody listens and never answers."""
    monkeypatch.setattr(wire, "CONNECT", 1)
    started = time.monotonic()
    with refusing(None) as (url, _), pytest.raises(Transient):
        MilvusIndex(url).open()
    assert time.monotonic() - started < 15


def test_a_refused_key_is_told_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key goes to the server, and the message says which variable holds it."""
    monkeypatch.setenv("MILVUS_TOKEN", KEY)
    with refusing(grpc.StatusCode.UNAUTHENTICATED) as (url, handler):
        with pytest.raises(SinkError, match="set MILVUS_TOKEN") as raised:
            MilvusSink(url).open(MANIFEST)
        assert not isinstance(raised.value, Transient)
        told(raised)
    assert handler.keys == {base64.b64encode(KEY.encode()).decode()}


def test_another_collection_is_left_alone(place: str) -> None:
    """One that Penstock did not make is refused, and a user's client is used and not closed."""
    client = MilvusClient(place.replace("milvus:", "http:").rpartition("/")[0], dedicated=True)
    name = place.rpartition("/")[2]
    client.create_collection(name, dimension=8)
    client.insert(name, [{"id": 1, "vector": [0.0] * 8}])
    with MilvusSink(place, client=client) as sink:
        for call in (lambda: sink.open(MANIFEST), sink.manifest, sink.drop):
            with pytest.raises(SinkError, match="not Penstock's"):
                call()
    assert [row["id"] for row in client.query(name, "id > 0", ["id"], consistency_level="Strong")] == [1]
    client.drop_collection(name)
    with MilvusSink(place, client=client) as sink:
        sink.open(MANIFEST)
        sink.write([point(1)])
        holds(sink, [point(1)])
    assert client.has_collection(name)
    client.close()


def test_the_alias_gives_way_to_nothing_and_goes_with_its_place(place: str) -> None:
    """A collection of its name is left alone; and what the alias stands for takes the alias along."""
    with MilvusSink(place) as sink, MilvusSink(place).generation(1) as beside, MilvusSink(f"{place}_live") as theirs:
        sink.open(MANIFEST)
        beside.open(MANIFEST)
        theirs.open(MANIFEST)
        with pytest.raises(SinkError, match="conflicts with an existing collection"):
            sink.alias(1)
        theirs.drop()
        assert sink.alias(1) == place.rpartition("/")[2] + "_live"
        assert theirs.manifest() == MANIFEST
        with pytest.raises(SinkError, match="an alias"):
            theirs.drop()
        beside.drop()
        theirs.open(MANIFEST)
        theirs.drop()


def test_dropping_where_there_is_no_file_makes_none(tmp_path: Path) -> None:
    """Nor does a name that has no room for another."""
    MilvusSink(f"milvus://{tmp_path}/notes.db/notes").drop()
    with pytest.raises(UsageError, match="Milvus allows"):
        MilvusSink(f"milvus://{tmp_path}/notes.db/{'n' * 252}").generation(1)
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_another_kind_is_left_alone(tmp_path: Path) -> None:
    """A file of the older Milvus Lite, or a folder of someone's."""
    (tmp_path / "old.db").write_bytes(b"SQLite format 3")
    (tmp_path / "theirs.db").mkdir()
    (tmp_path / "theirs.db" / "x").touch()
    for name in ("old", "theirs"):
        with pytest.raises(SinkError, match="not a database of Milvus Lite"):
            MilvusSink(f"milvus://{tmp_path}/{name}.db/notes").open(MANIFEST)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["old.db", "theirs.db", "x"]


def test_a_file_has_one_process(tmp_path: Path) -> None:
    """Another is told so while it is open here; when it is closed, and when a process was killed, it opens."""
    url = f"milvus://{tmp_path}/notes.db/notes"
    child = "import pickle, sys; sink, manifest, task = pickle.load(sys.stdin.buffer); sink.open(manifest); task(sink)"
    given = pickle.dumps((MilvusSink(url), MANIFEST, write_flush_and_die))

    def run() -> subprocess.CompletedProcess[bytes]:
        path = os.pathsep.join(filter(None, sys.path))
        env = {**os.environ, "PYTHONPATH": path}
        return subprocess.run([sys.executable, "-c", child], input=given, capture_output=True, env=env, timeout=60)

    with MilvusSink(url) as sink:
        sink.open(MANIFEST)
        done = run()
        assert b"one in at a time" in done.stderr.splitlines()[-1]
    assert run().returncode == -signal.SIGKILL
    with MilvusSink(url) as sink:
        sink.open(MANIFEST)
        holds(sink, [point(n) for n in range(100)])


def test_what_is_longer_than_a_field(place: str) -> None:
    """Texts, headings, metadata and images around the limit of a VARCHAR, and far beyond it, to the character."""
    points = [point(n, text="x" * (VARCHAR - 3 + n)) for n in range(6)]
    points += [point(10 + n, text="x" * n + "🌊é" * 60_000, headings=("H" * 70_000, "漢" * 50_000)) for n in range(4)]
    points.append(point(20, metadata={"k": ["v" * 300_000]}, image=bytes(range(256)) * 1000))
    with MilvusSink(place) as sink:
        sink.open(MANIFEST)
        sink.write(points)
        holds(sink, points)
    with MilvusIndex(place) as index:
        index.open()
        query = points[0].vectors[VECTOR]
        found = index.search(query, k=20, where={"text": {"$gt": "x" * 60_000}})
        meant = [p.id for p in points if p.chunk.text > "x" * 60_000]
        assert sorted(hit.chunk.id for hit in found) == meant
        with pytest.raises(UsageError, match="bytes at most"):
            index.search(query, where={"text": "x" * VARCHAR})


def test_ids_are_any_strings(place: str) -> None:
    """Quotes, escapes, line ends, NUL, nothing; and one without UTF-8 is nowhere."""
    odd = ["", "a'b", 'a"b', "a\\", "a\\n", "a\nb", "a\r\tb", "\x00", "漢字 🌊", "$meta", "%", "id in []", "z" * 60_000]
    points = [replace(point(n), chunk=replace(point(n).chunk, id=id, text=id)) for n, id in enumerate(odd)]
    with MilvusSink(place) as sink, MilvusIndex(place) as index:
        sink.open(MANIFEST)
        sink.write(points)
        holds(sink, points)
        index.open()
        for p in points:
            assert [hit.chunk.id for hit in index.search(p.vectors[VECTOR], where={"id": p.id, "text": p.id})] == [p.id]
        assert list(sink.fetch(["\ud800"])) == []
        with pytest.raises(UsageError):
            index.search(points[0].vectors[VECTOR], where={"id": "\ud800"})
        sink.delete([*odd[:-1], "\ud800"])
        holds(sink, points[-1:])


def test_what_cannot_be_written_is_named(place: str) -> None:
    """Uris longer than a field, numbers beyond 64 bits; the others are written."""
    good = point(1)
    bad = [point(2, uri="u" * (VARCHAR + 1)), point(3, page=1 << 63)]
    with MilvusSink(place) as sink:
        sink.open(MANIFEST)
        with pytest.raises(Rejected) as raised:
            sink.write([bad[0], good, bad[1]])
        assert raised.value.reasons.keys() == {p.id for p in bad}
        holds(sink, [good])


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_too_few_found_are_looked_for_one_by_one(metric: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an approximate index leaves out is found by comparing, with the same scores; lengths are kept."""
    rng = np.random.default_rng(0)
    vectors = [Dense((rng.standard_normal(8) * (n + 1)).astype(np.float32)) for n in range(40)]
    points = [Point(point(n, page=n % 4).chunk, {VECTOR: vector}) for n, vector in enumerate(vectors)]
    with MilvusSink(place) as sink, MilvusIndex(place) as index:
        sink.open(Manifest(respec(MANIFEST.schema, metric=metric)))
        sink.write(points)
        for found in sink.fetch([p.id for p in points]):
            same(found, points[found.chunk.ordinal])
        index.open()
        asked = [(query, where) for query in vectors[:5] for where in (None, {"page": 3})]
        whole = [index.search(query, k=8, where=where) for query, where in asked]
        collection = index._handle
        assert collection is not None
        search = collection.client.search
        monkeypatch.setattr(collection.client, "search", lambda **given: [search(**given)[0][:2]])
        again = [index.search(query, k=8, where=where) for query, where in asked]
    for one, other in zip(whole, again, strict=True):
        assert len(one) == 8
        assert [hit.chunk for hit in one] == [hit.chunk for hit in other]
        assert [hit.score for hit in one] == pytest.approx([hit.score for hit in other], rel=1e-4, abs=1e-4)


def test_a_run_cut_off_while_it_made_the_collection(place: str) -> None:
    """The collection is there, its index not yet: the next run makes it."""
    with MilvusSink(place) as sink:
        sink.open(MANIFEST)
        collection = sink._handle
        assert collection is not None
        collection.client.release_collection(collection.name)
        collection.client.drop_index(collection.name, VECTOR)
    with MilvusSink(place) as sink:
        with pytest.raises(SpaceMismatch):
            sink.open(Manifest(respec(MANIFEST.schema, dim=16)))
        sink.open(MANIFEST)
        sink.write([point(1)])
        holds(sink, [point(1)])
