"""`qdrant://` keeps the promises of a sink: in a folder with the client's own engine, over REST with an emulator."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest

from penstock.core.errors import MissingExtra, Rejected, SinkError, TooLarge, Transient, UsageError
from penstock.core.records import VECTOR, Dense, MultiVector, Point, Sparse, Vector
from penstock.core.schema import Manifest
from penstock.sinks.lengths import key
from penstock.sinks.qdrant import QdrantIndex, QdrantSink, wire
from penstock.sinks.qdrant.points import original
from penstock.testing.emulators import qdrant as emulating
from penstock.testing.emulators.qdrant import Emulator
from penstock.testing.sink_suite import (
    DIM,
    Aliased,
    MakeIndex,
    MakeSink,
    SinkSuite,
    holds,
    point,
    respec,
    silent_port,
    similarity,
    unreachable,
)
from tests.sinks.overlapping import Overlapping

pytest.importorskip("qdrant_client")
pytestmark = pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection:UserWarning")

SECRET = "a-key-not-to-be-told"


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(SECRET) as server:
        yield server


@pytest.fixture
def server(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    monkeypatch.setenv("QDRANT_API_KEY", SECRET)
    emulator.collections.clear()
    emulator.aliases.clear()
    emulator.requests.clear()
    return emulator


def at(server: Emulator, name: str = "notes") -> str:
    return f"qdrant://127.0.0.1:{server.port}/{name}"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where there is such a file system: the local mode syncs after each point."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path) as made:
        yield Path(made)


class TestFolder(SinkSuite):
    shared = False

    @pytest.fixture
    def make_sink(self, folder: Path) -> MakeSink:
        return lambda: QdrantSink(f"qdrant://{folder}/in dex/notes")

    @pytest.fixture
    def make_index(self, folder: Path) -> MakeIndex:
        return lambda: QdrantIndex(f"qdrant://{folder}/in dex/notes")

    @pytest.fixture
    def aliased(self, folder: Path) -> Aliased:
        def stands_for(alias: str) -> int:
            kept = json.loads((folder / "in dex/meta.json").read_text())
            return ["notes", "notes_1"].index(kept["aliases"][alias])

        return stands_for


class TestServer(SinkSuite):
    secret = SECRET

    @pytest.fixture
    def make_sink(self, server: Emulator) -> MakeSink:
        return lambda: QdrantSink(at(server))

    @pytest.fixture
    def make_index(self, server: Emulator) -> MakeIndex:
        return lambda: QdrantIndex(at(server))

    @pytest.fixture
    def aliased(self, server: Emulator) -> Aliased:
        return lambda alias: ["notes", "notes_1"].index(server.aliases[alias])


class TestFolderMultiVector(TestFolder):
    kind = MultiVector


class TestFolderSparse(Overlapping, TestFolder):
    kind = Sparse


DENSE = TestFolder().manifest


@pytest.fixture(params=["folder", "server"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "server":
        return at(request.getfixturevalue("server"))
    return f"qdrant://{request.getfixturevalue('folder')}/notes"


def given(id: str, values: object) -> Point:
    made = point(1)
    return Point(replace(made.chunk, id=id), {VECTOR: Dense(np.array(values, np.float32))})


# ---------------------------------------------------------------- what comes back


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_vectors_of_any_length_stay_as_they_are(url: str, metric: str) -> None:
    """To the bit, with the score of the metric: small, huge, denormal, zero and minus zero."""
    rng = np.random.default_rng(3)
    vectors = [rng.standard_normal(DIM) * 10.0**n for n in (-40, -20, -3, 0, 3, 15)] + [np.zeros(DIM), -np.zeros(DIM)]
    points = [given(f"point {n}", values) for n, values in enumerate(vectors)] + [point(7)]
    manifest = Manifest(respec(DENSE.schema, metric=metric))
    with QdrantSink(url) as sink, QdrantIndex(url) as index:
        sink.open(manifest)
        sink.write(points)
        holds(sink, points)
        index.open()
        query = Dense(3 * rng.standard_normal(DIM).astype(np.float32))
        hits = index.search(query, k=4, where={"id": ["point 2", "point 3", "point 4", points[-1].id]})
    a = query.values.astype(np.float64)
    wanted = {}
    for p in points:
        b = p.vectors[VECTOR].values.astype(np.float64)
        scores = {"dot": a @ b, "l2": -np.linalg.norm(a - b), "cosine": 0.0}
        if metric == "cosine" and b.any():
            scores["cosine"] = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        wanted[p.id] = scores[metric]
    assert [hit.score for hit in hits] == pytest.approx([wanted[hit.chunk.id] for hit in hits], rel=1e-4, abs=1e-6)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_a_vector_is_kept_twice_only_where_it_must_be(server: Emulator) -> None:
    """One of length 1 lies there as it is; of another, its bytes are in the payload."""
    with QdrantSink(at(server)) as sink:
        sink.open(DENSE)
        sink.write([point(1), given("long", np.full(DIM, 2.0))])
    kept = server.collections["notes"].points
    assert original(VECTOR) not in kept[key(point(1).id)][1]
    assert original(VECTOR) in kept[key("long")][1]


@pytest.mark.parametrize("kind", [MultiVector, Sparse])
def test_other_kinds_over_rest(server: Emulator, kind: type[Vector]) -> None:
    """Many vectors a point, and sparse ones: written, replaced, read and found."""
    points = [point(n, kind=kind) for n in range(50)]
    with QdrantSink(at(server)) as sink, QdrantIndex(at(server)) as index:
        sink.open(Manifest(respec(DENSE.schema, kind=kind.__name__)))
        sink.write([point(n, kind=kind, version=1) for n in range(50)])
        sink.write(points)
        holds(sink, points)
        index.open()
        query = point(5, kind=kind, version=2).vectors[VECTOR]
        hits = index.search(query, k=3)
    wanted = sorted((similarity(query, p.vectors[VECTOR]) for p in points), reverse=True)[:3]
    assert [hit.score for hit in hits] == pytest.approx(wanted, abs=1e-5)


IDS = ["", "a", "A" * 32, "{" + "a" * 32 + "}", "a" * 32, "0" * 31, "x" * 3000, "🌊 it's", "../..", "7"]


def test_any_id_will_do(url: str) -> None:
    """Ids that are no UUIDs, or look like one to the driver, are ids apart."""
    points = [given(id, point(n).vectors[VECTOR].values) for n, id in enumerate(IDS)]
    with QdrantSink(url) as sink, QdrantIndex(url) as index:
        sink.open(DENSE)
        sink.write(points)
        holds(sink, points)
        index.open()
        for id in IDS:
            assert [hit.chunk.id for hit in index.search(points[0].vectors[VECTOR], where={"id": id})] == [id]
        assert sink.fetch(["\ud800"]) == []
        sink.delete(["\ud800", *IDS[:5]])
        holds(sink, points[5:])


def test_filters_at_the_edge(url: str) -> None:
    """What no store of texts can hold equals nothing; texts have no order here."""
    points = [point(n, text=f"text {n % 2}") for n in range(4)]
    with QdrantSink(url) as sink, QdrantIndex(url) as index:
        sink.open(DENSE)
        sink.write(points)
        index.open()
        query = points[0].vectors[VECTOR]
        assert index.search(query, where={"uri": "\ud800"}) == []
        assert index.search(query, where={"uri": ["\ud800"]}) == []
        assert len(index.search(query, where={"uri": {"$ne": "\ud800"}})) == 4
        assert len(index.search(query, where={"text": "text 1"})) == 2
        assert index.search(query, k=0) == []
        for where in ({"uri": {"$lt": "x"}}, {"ordinal": {"$lt": 2**60}}):
            with pytest.raises(UsageError):
                index.search(query, where=where)


def test_too_few_are_looked_for_exactly(server: Emulator) -> None:
    """Where the first answer has fewer than asked for, the second asks for all of them to be compared."""
    with QdrantSink(at(server)) as sink, QdrantIndex(at(server)) as index:
        sink.open(DENSE)
        sink.write([point(n) for n in range(5)])
        index.open()
        before = len(server.requests)
        assert len(index.search(point(1).vectors[VECTOR], k=5)) == 5
        assert len(server.requests) - before == 1
        assert len(index.search(point(1).vectors[VECTOR], k=6)) == 5
        assert len(server.requests) - before == 3


# ---------------------------------------------------------------- refusals


def test_one_bad_point_does_not_stop_the_others(url: str) -> None:
    """A point that Qdrant refuses is named; the rest of the batch is there."""
    points = [point(n, kind=MultiVector) for n in range(9)]
    empty = Point(points[4].chunk, {VECTOR: MultiVector(np.empty((0, DIM), np.float32))})
    with QdrantSink(url) as sink:
        sink.open(Manifest(respec(DENSE.schema, kind="MultiVector")))
        with pytest.raises(Rejected) as raised:
            sink.write([*points[:4], empty, *points[5:]])
        assert raised.value.reasons.keys() == {empty.id}
        holds(sink, points[:4] + points[5:])


def test_a_batch_that_is_refused_altogether_ends_the_run(server: Emulator) -> None:
    """If every point is refused it is not the points."""
    with QdrantSink(at(server)) as sink:
        sink.open(DENSE)
        server.collections["notes"].vectors.clear()
        with pytest.raises(SinkError, match="Not existing vector name") as raised:
            sink.write([point(1), point(2)])
        assert not isinstance(raised.value, Rejected)


@pytest.mark.parametrize(
    "wrong",
    [
        "qdrant://",
        "qdrant://host",
        "qdrant://host/a/b",
        "qdrant://host:port/notes",
        "qdrant://host/notes?speed=1",
        "qdrant://user@host/notes",
        "qdrant://user:secret@host/notes",
        "qdrant://host/a%2Fb",
        "qdrant://./stores/a:b",
        "qdrant://./..",
        f"qdrant://host/{'x' * 256}",
    ],
)
def test_urls_that_cannot_be_meant(wrong: str) -> None:
    """They are refused at once, without the password."""
    for make in (QdrantSink, QdrantIndex):
        with pytest.raises(UsageError) as raised:
            make(wrong)
        assert "secret" not in str(raised.value)


def test_a_missing_driver_unreachable(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the line that installs it."""
    monkeypatch.setitem(sys.modules, "qdrant_client", None)
    with pytest.raises(MissingExtra, match=r"penstock\[qdrant\]"):
        QdrantSink(url).open(DENSE)


def test_no_server_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing listens a later try may do."""
    monkeypatch.setenv("QDRANT_API_KEY", SECRET)
    with silent_port() as port:
        url = f"qdrant://127.0.0.1:{port}/notes"
        unreachable(QdrantSink(url), QdrantIndex(url), SECRET)
        with pytest.raises(Transient, match="cannot be reached"):
            QdrantSink(url).manifest()


def test_a_server_that_does_not_answer_is_transient(server: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call ends in time."""
    monkeypatch.setattr(wire, "TIMEOUT", 1)
    with QdrantSink(at(server)) as sink:
        sink.open(DENSE)
        server.stall(5)
        with pytest.raises(Transient, match="ReadTimeout"):
            sink.write([point(1)])


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_transient(server: Emulator, status: int) -> None:
    """The same call succeeds later, whichever it was."""
    with QdrantSink(at(server)) as sink:
        sink.open(DENSE)
        calls: list[Callable[[], object]] = [
            lambda: sink.write([point(1)]),
            lambda: sink.delete(["x"]),
            sink.count,
            sink.manifest,
            lambda: list(sink.ids()),
            lambda: sink.fetch(["x"]),
            lambda: sink.replace_manifest(DENSE),
        ]
        for call in calls:
            server.fail(status)
            with pytest.raises(Transient):
                call()
            call()
        holds(sink, [point(1)])


def test_too_large_a_request_is_told_apart(server: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine then tries smaller batches."""
    with QdrantSink(at(server)) as sink:
        sink.open(DENSE)
        monkeypatch.setattr(emulating, "LARGEST", 2000)
        with pytest.raises(TooLarge):
            sink.write([point(n) for n in range(20)])
        sink.write([point(1)])
        holds(sink, [point(1)])


@pytest.mark.parametrize(("secret", "error"), [("wrong-key", SinkError), ("", SinkError), ("a\nb-key", UsageError)])
def test_a_wrong_key_is_not_told(
    server: Emulator, monkeypatch: pytest.MonkeyPatch, secret: str, error: type[Exception]
) -> None:
    """One line says where the key belongs, and not what it is; nothing is made."""
    monkeypatch.setenv("QDRANT_API_KEY", secret)
    for call in (QdrantSink(at(server)).manifest, lambda: QdrantSink(at(server)).open(DENSE)):
        with pytest.raises(error, match="QDRANT_API_KEY") as raised:
            call()
        assert not isinstance(raised.value, Transient)
        assert "-key" not in str(raised.value)
        assert "\n" not in str(raised.value)
    assert not server.collections


def test_another_collection_is_left_alone(url: str, folder: Path, server: Emulator) -> None:
    """One that is not Penstock's is refused, and stays as it was."""
    from qdrant_client import QdrantClient, models

    size = {"theirs": models.VectorParams(size=3, distance=models.Distance.COSINE)}
    if "127.0.0.1" in url:
        client = QdrantClient(
            host="127.0.0.1", port=server.port, https=False, api_key=SECRET, check_compatibility=False
        )
    else:
        client = QdrantClient(path=str(folder))
    client.create_collection("notes", vectors_config=size)
    client.close()
    sink = QdrantSink(url)
    for call in (sink.manifest, lambda: sink.open(DENSE), sink.drop, QdrantIndex(url).open):
        with pytest.raises(SinkError, match="not Penstock's"):
            call()
    if "127.0.0.1" in url:
        assert server.collections["notes"].metadata is None
        assert not server.collections["notes"].indexes


def test_the_alias_gives_way_to_nothing_and_goes_with_its_place(url: str) -> None:
    """A collection of its name is left alone; and what the alias stands for takes the alias along."""
    with QdrantSink(url) as sink, QdrantSink(url).generation(1) as beside, QdrantSink(f"{url}_live") as theirs:
        sink.open(DENSE)
        beside.open(DENSE)
        theirs.open(DENSE)
        with pytest.raises(SinkError, match="already exists"):
            sink.alias(1)
        theirs.drop()
        assert sink.alias(1) == "notes_live"
        if "127.0.0.1" in url:
            assert theirs.manifest() == DENSE
            with pytest.raises(SinkError, match="an alias"):
                theirs.drop()
        beside.drop()
        theirs.open(DENSE)


def test_a_name_without_room_for_another(folder: Path) -> None:
    """That is told before anything is made."""
    for name in ("n" * 252, "n" * 254):
        with pytest.raises(UsageError, match="no such name"):
            QdrantSink(f"qdrant://{folder}/{name}").generation(1)
    assert not list(folder.iterdir())


def test_a_server_without_metadata_is_too_old() -> None:
    """It is told, and the collection that was made for nothing is gone again."""
    with Emulator(keeps_metadata=False) as old:
        with pytest.raises(SinkError, match=r"1\.16"):
            QdrantSink(at(old)).open(DENSE)
        assert not old.collections


def test_the_first_to_make_it_made_it(server: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs that create the collection at once share the first one's."""
    with QdrantSink(at(server)) as first, QdrantSink(at(server)) as second:
        first.open(DENSE)
        look, looked = wire.Collection.info, []
        monkeypatch.setattr(
            wire.Collection,
            "info",
            lambda self: look(self) if looked else looked.append(1),  # not there yet
        )
        second.open(Manifest(DENSE.schema, owners={"": "ledger 2"}))
        assert second.manifest() == DENSE


class _Other(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if "ok" in self.path else 404)
        self.end_headers()
        self.wfile.write(b"<html>hello</html>")

    def log_message(self, format: str, *args: object) -> None: ...


def test_what_is_not_qdrant_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another server at that address, and one without TLS."""
    monkeypatch.delenv("QDRANT_API_KEY", raising=False)
    with HTTPServer(("127.0.0.1", 0), _Other) as other:
        threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            for name in ("ok", "missing", "notes?tls=1"):
                with pytest.raises(SinkError) as raised:
                    QdrantSink(f"qdrant://127.0.0.1:{other.server_port}/{name}").manifest()
                assert not isinstance(raised.value, Transient), name
                assert "\n" not in str(raised.value)
        finally:
            other.shutdown()


# ---------------------------------------------------------------- clients and folders


def test_a_given_client_is_used_and_left_open(folder: Path) -> None:
    """It serves sink and index; it is not closed, and does not travel."""
    from qdrant_client import QdrantClient

    client = QdrantClient(":memory:")
    url = f"qdrant://{folder}/nowhere/notes"
    with QdrantSink(url, client) as sink, QdrantIndex(url, client) as index:
        sink.open(DENSE)
        sink.write([point(1)])
        index.open()
        assert index.count() == 1
        with pytest.raises(UsageError, match="client"):
            pickle.dumps(sink)
    assert client.count("notes").count == 1
    assert not (folder / "nowhere").exists()
    client.close()


_HOLD = """
import sys
from qdrant_client import QdrantClient
client = QdrantClient(path=sys.argv[1])
print(1, flush=True)
input()
"""


@pytest.mark.filterwarnings("ignore:.*[.]lock:pytest.PytestUnraisableExceptionWarning")  # the driver leaves it open
def test_a_folder_in_use_unreachable(folder: Path) -> None:
    """Another process has it: one line says so; when that one ends it opens."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        try:
            assert holder.stdout
            assert holder.stdout.readline() == b"1\n"
            with pytest.raises(SinkError, match="another process"):
                QdrantSink(f"qdrant://{folder}/notes").open(DENSE)
        finally:
            holder.kill()
    with QdrantSink(f"qdrant://{folder}/notes") as sink:
        sink.open(DENSE)
        assert sink.count() == 0


def test_threads_take_turns_in_a_folder(folder: Path) -> None:
    """One writes and deletes while others read and search."""
    url, errors, done = f"qdrant://{folder}/notes", list[BaseException](), threading.Event()
    with QdrantSink(url) as sink:
        sink.open(DENSE)

        def read() -> None:
            try:
                with QdrantIndex(url) as index:
                    index.open()
                    while not done.is_set():
                        index.search(point(1).vectors[VECTOR])
                        list(sink.ids())
            except BaseException as error:
                errors.append(error)

        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        for n in range(20):
            sink.write([point(n * 10 + m) for m in range(10)])
            sink.delete([point(n * 10).id])
        done.set()
        for reader in readers:
            reader.join()
        assert not errors
        assert sink.count() == 180


def test_the_emulator_is_strict(server: Emulator) -> None:
    """Fields, paths and parameters that the requests on record do not have are refused."""
    import httpx

    wrong = [
        ("PUT", "/collections/notes", {"vectors": {}, "shards": 1}, 400),
        ("PUT", "/collections/notes?waits=true", {"vectors": {}}, 400),
        ("GET", "/collections/notes", None, 404),
        ("GET", "/points", None, 404),
        ("POST", "/collections/made/points/search", {}, 404),
        ("POST", "/collections/made/points/query", {"query": [1.0]}, 400),
        ("POST", "/collections/made/points/count", {"filter": {"should_not": []}}, 400),
        ("PUT", "/collections/made/points", {"points": [{"id": "no uuid", "vector": {}, "payload": {}}]}, 400),
        ("PUT", "/collections/made/points", {"points": [{"id": -1, "vector": {}, "payload": {}}]}, 400),
    ]
    with QdrantSink(at(server, "made")) as sink:
        sink.open(DENSE)
        sink.write([point(1)])
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", headers={"api-key": SECRET}) as client:
        for method, path, body, status in wrong:
            assert client.request(method, path, json=body).status_code == status, path
        assert client.get("/collections/made", headers={"api-key": "x"}).status_code == 401
