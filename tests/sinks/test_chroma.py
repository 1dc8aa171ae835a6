"""`chroma://` keeps the promises of a sink: in a folder, and on a real server."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.core.errors import MissingExtra, Rejected, SinkError, SinkUnavailable, TooLarge, Transient, UsageError
from penstock.core.records import VECTOR, Dense, Metadata, Point
from penstock.core.schema import Manifest
from penstock.sinks.chroma import ChromaIndex, ChromaSink
from penstock.testing.sink_suite import MakeIndex, MakeSink, SinkSuite, holds, point, respec, silent_port, unreachable

chromadb = pytest.importorskip("chromadb")

MANIFEST = SinkSuite().manifest
TOKEN = "tok-secret-1234"
_number = count()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real server; the url to which a collection's name is added."""
    port, folder = free_port(), tmp_path_factory.mktemp("chroma")
    run = "from chromadb.cli.cli import app; app()"
    command = [sys.executable, "-c", run, "run", "--path", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, "the server did not start"
                assert time.monotonic() < deadline, "the server did not answer"
                time.sleep(0.05)
        yield f"chroma://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


class TestFolder(SinkSuite):
    shared = False

    @pytest.fixture
    def make_sink(self, tmp_path: Path) -> MakeSink:
        return lambda: ChromaSink(f"chroma://{tmp_path}/in dex/notes")

    @pytest.fixture
    def make_index(self, tmp_path: Path) -> MakeIndex:
        return lambda: ChromaIndex(f"chroma://{tmp_path}/in dex/notes")


class TestServer(SinkSuite):
    secret = TOKEN

    @pytest.fixture
    def place(self, server: str, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.setenv("CHROMA_TOKEN", TOKEN)
        return f"{server}/notes-{next(_number)}"

    @pytest.fixture
    def make_sink(self, place: str) -> MakeSink:
        return lambda: ChromaSink(place)

    @pytest.fixture
    def make_index(self, place: str) -> MakeIndex:
        return lambda: ChromaIndex(place)


@pytest.fixture(params=["folder", "server"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return f"chroma://{tmp_path}/notes"
    return f"{request.getfixturevalue('server')}/notes-{next(_number)}"


def index_of(url: str) -> ChromaIndex:
    index = ChromaIndex(url)
    index.open()
    return index


def test_vectors_keep_their_bits(place: str) -> None:
    """Not normalized, tiny, huge, of zeros and with a negative zero: Chroma's own copy is another, ours is not."""
    rng = np.random.default_rng(1)
    matrix = rng.standard_normal((40, 8)).astype(np.float32) * np.float32(37)
    matrix[0], matrix[1], matrix[2], matrix[3, 0] = 0, 1e-45, 1e30, -0.0
    points = [Point(point(n).chunk, {VECTOR: Dense(row)}) for n, row in enumerate(matrix)]
    with ChromaSink(place) as sink:
        sink.open(MANIFEST)
        sink.write(points)
        holds(sink, points)
        with index_of(place) as index:
            assert index.search(Dense(matrix[9] / 5), k=1)[0].score == pytest.approx(1)


@pytest.mark.parametrize("metric", ["dot", "l2"])
def test_other_metrics(tmp_path: Path, metric: str) -> None:
    """The nearest by inner product and by distance; larger scores are nearer."""
    url = f"chroma://{tmp_path}/notes"
    matrix = np.random.default_rng(2).standard_normal((50, 8)).astype(np.float32) * 3
    with ChromaSink(url) as sink:
        sink.open(Manifest(respec(MANIFEST.schema, metric=metric)))
        sink.write([Point(point(n).chunk, {VECTOR: Dense(row)}) for n, row in enumerate(matrix)])
        sink.flush()
        scores = matrix @ matrix[7] if metric == "dot" else -np.linalg.norm(matrix - matrix[7], axis=1)
        with index_of(url) as index:
            hits = index.search(Dense(matrix[7]), k=5)
    assert [h.chunk.ordinal for h in hits] == np.argsort(-scores)[:5].tolist()
    assert [h.score for h in hits] == pytest.approx(np.sort(scores)[::-1][:5].tolist(), rel=1e-4, abs=1e-4)


def test_any_string_is_an_id(place: str) -> None:
    """The empty one and those with NUL too; each is itself again."""
    ids = ["", "\0", "\0\0", "x", "ü 🌊 '\"$\\/", "a" * 2000]
    points = [Point(replace(point(n).chunk, id=id), point(n).vectors) for n, id in enumerate(ids)]
    with ChromaSink(place) as sink:
        sink.open(MANIFEST)
        sink.write(points)
        holds(sink, points)
        sink.delete(ids[:2])
        holds(sink, points[2:])


WHERE: tuple[Metadata, ...] = (
    {"uri": {"$lt": "doc:2"}},
    {"id": f"{4:032x}"},
    {"id": {"$nin": [f"{4:032x}"]}},
    {"text": "text 9, version 0"},
    {"$and": [{"id": {"$in": [f"{n:032x}" for n in range(9)]}}, {"uri": "doc:0"}, {"page": None}]},
    {"uri": None},
    {"$not": {"uri": None}},
    {"$not": {"page": {"$lt": 3}}},
    {"$not": {"page": []}},
    {"ordinal": list(range(6000))},
    {"$not": {"$not": {"$or": [{"uri": {"$gt": "doc:1"}}, {"page": 2}]}}},
    {"page": {"$gt": -(2**63) + 1, "$lt": 2**63 - 1}},
)
"""Such as Chroma cannot be asked, or makes other things of."""


def test_what_chroma_cannot_say(place: str) -> None:
    """Ids, texts, the order of strings, nulls and lists too long for its database: they mean the same."""
    from penstock.core.filters import DEPTH, parse, passes

    points = [point(n, page=n % 5 or None, uri=f"doc:{n // 10}") for n in range(40)]
    deep: Metadata = {"page": 1}
    for _ in range(DEPTH - 1):
        deep = {"$not": deep}
    with ChromaSink(place) as sink:
        sink.open(MANIFEST)
        sink.write(points)
        sink.flush()
        with index_of(place) as index:
            for where in (*WHERE, deep):
                wanted = parse(where)
                assert wanted is not None
                found = {hit.chunk.id for hit in index.search(points[3].vectors[VECTOR], k=100, where=where)}
                assert found == {p.id for p in points if passes(p.chunk, wanted)}, where


@pytest.mark.parametrize("where", [None, {"ordinal": {"$gte": 20}}], ids=str)
def test_as_many_as_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: Metadata | None) -> None:
    """Chroma's graph does not reach every point (1,495 of 1,500 near-duplicates): the rest is found all the same."""
    query = chromadb.Collection.query
    monkeypatch.setattr(
        chromadb.Collection, "query", lambda *a, n_results, **b: query(*a, n_results=n_results // 2, **b)
    )
    url = f"chroma://{tmp_path}/notes"
    points = [point(n) for n in range(60)]
    with ChromaSink(url) as sink:
        sink.open(MANIFEST)
        sink.write(points)
        sink.flush()
        with index_of(url) as index:
            hits = index.search(points[30].vectors[VECTOR], k=500, where=where)
    assert len(hits) == len({hit.chunk.id for hit in hits}) == (40 if where else 60)
    assert [h.score for h in hits] == sorted((h.score for h in hits), reverse=True)


def test_numbers_that_do_not_fit(place: str) -> None:
    """They are refused by id; the others of the batch are written."""
    with ChromaSink(place) as sink:
        sink.open(MANIFEST)
        with pytest.raises(Rejected) as raised:
            sink.write([point(1), point(2, page=2**63), point(3, page=-(2**63))])
        assert sorted(raised.value.reasons) == [f"{n:032x}" for n in (2, 3)]
        holds(sink, [point(1)])


# ------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    "url",
    [
        "chroma://",
        "chroma://host",
        "chroma://host/a/b",
        "chroma://./x/no",
        "chroma://h/-bad-",
        "chroma://u:pw@h/notes",
        "chroma://h/notes?key=1",
        "chroma://host:x/notes",
    ],
)
def test_urls_that_cannot_be_meant(url: str) -> None:
    """Told by the constructor, without the password."""
    with pytest.raises(UsageError) as raised:
        ChromaSink(url)
    assert "pw" not in str(raised.value)


def test_a_missing_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The install line, before a folder is made."""
    monkeypatch.setitem(sys.modules, "chromadb", None)
    with pytest.raises(MissingExtra, match=r"penstock\[chroma\]"):
        ChromaSink(f"chroma://{tmp_path}/in/notes").open(MANIFEST)
    assert list(tmp_path.iterdir()) == []


def test_an_unreachable_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens: worth another try."""
    monkeypatch.setenv("CHROMA_TOKEN", TOKEN)
    with silent_port() as port:
        url = f"chroma://127.0.0.1:{port}/notes"
        unreachable(ChromaSink(url), ChromaIndex(url), TOKEN)
        with pytest.raises(Transient):
            ChromaSink(url).manifest()


def test_dropping_where_there_is_no_folder_makes_none(tmp_path: Path) -> None:
    """Nor does a name that has no room for another; and another collection of the folder stays as it was."""
    ChromaSink(f"chroma://{tmp_path}/in/notes").drop()
    with pytest.raises(UsageError, match="3 to 512"):
        ChromaSink(f"chroma://{tmp_path}/in/{'n' * 511}").generation(1)
    assert list(tmp_path.iterdir()) == []
    with ChromaSink(f"chroma://{tmp_path}/in/notes") as sink, sink.generation(1) as beside:
        sink.open(MANIFEST)
        sink.write([point(1)])
        before = {path.name for path in (tmp_path / "in").iterdir()}
        beside.open(MANIFEST)
        beside.write([point(n) for n in range(1500)])  # enough for Chroma to write its index down
        assert any(path.is_dir() for path in (tmp_path / "in").iterdir())
        beside.drop()
        assert {path.name for path in (tmp_path / "in").iterdir()} == before
        with pytest.raises(SinkError, match="not open"):
            beside.count()
        sink.write([point(2)])
        holds(sink, [point(1), point(2)])


def test_a_silent_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the connection and says nothing: an error, not a wait for ever."""
    monkeypatch.setattr("penstock.sinks.chroma.wire.TIMEOUT", 0.2)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with pytest.raises(Transient):
            ChromaSink(f"chroma://127.0.0.1:{listener.getsockname()[1]}/notes").manifest()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (200, SinkError),
        (401, SinkError),
        (404, SinkError),
        (413, TooLarge),
        (429, SinkUnavailable),
        (503, SinkUnavailable),
    ],
)
def test_answers_of_others(status: int, kind: type[SinkError], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a proxy or another web server says is one clear line, which does not hold the token."""
    monkeypatch.setenv("CHROMA_TOKEN", TOKEN)

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["x-chroma-token"])
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"<html>\n no \n</html>")

        def log_message(self, *_: Any) -> None:
            """Tests are quiet."""

    seen: list[str] = []
    with HTTPServer(("127.0.0.1", 0), Page) as other:
        thread = threading.Thread(target=other.serve_forever, args=(0.01,))
        thread.start()
        try:
            with pytest.raises(SinkError) as raised:
                ChromaSink(f"chroma://127.0.0.1:{other.server_port}/notes").manifest()
        finally:
            other.shutdown()
            thread.join()
    assert type(raised.value) is kind
    assert seen == [TOKEN]
    assert "\n" not in str(raised.value)
    assert TOKEN not in str(raised.value)
    assert status != 401 or "CHROMA_TOKEN" in str(raised.value)


def test_a_request_too_large(server: str) -> None:
    """More than the server takes in one request: smaller batches may pass."""
    with ChromaSink(f"{server}/notes-{next(_number)}") as sink:
        sink.open(MANIFEST)
        with pytest.raises(TooLarge):
            sink.write([point(1, text="x" * (45 << 20))])


def test_no_such_database(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """CHROMA_DATABASE names one that is not there."""
    monkeypatch.setenv("CHROMA_DATABASE", "nowhere")
    with ChromaSink(f"{server}/notes-{next(_number)}") as sink, pytest.raises(SinkError):
        sink.open(MANIFEST)


def test_a_garbled_folder(tmp_path: Path) -> None:
    """A file that is no database where Chroma's should be."""
    (tmp_path / "chroma.sqlite3").write_bytes(b"hello" * 1000)
    with pytest.raises(SinkError, match="not a database"):
        ChromaSink(f"chroma://{tmp_path}/notes").manifest()


def test_a_foreign_collection(tmp_path: Path) -> None:
    """Someone else's collection is refused and left as it was; a client of the user's is not closed."""
    client = chromadb.PersistentClient(str(tmp_path), settings=chromadb.config.Settings(anonymized_telemetry=False))
    client.create_collection("notes", metadata={"mine": 1}, embedding_function=None)
    url = f"chroma://{tmp_path}/notes"
    for sink in (ChromaSink(url, client), ChromaSink(url)):
        with sink:
            for call in (lambda sink=sink: sink.open(MANIFEST), sink.drop):
                with pytest.raises(SinkError, match="not Penstock's"):
                    call()
    assert client.get_collection("notes", embedding_function=None).metadata == {"mine": 1}
    with ChromaSink(f"chroma://{tmp_path}/others", client) as sink:
        sink.open(MANIFEST)
        sink.write([point(1)])
    assert client.get_collection("others", embedding_function=None).count() == 1
    client.close()


# ------------------------------------------------------------ processes

_OPEN = """
import sys
import threading
from penstock.core.errors import SinkError
from penstock.sinks.chroma import ChromaIndex, ChromaSink
from penstock.testing.sink_suite import SinkSuite
try:
    ChromaSink(sys.argv[2]).open(SinkSuite().manifest) if sys.argv[1] == "sink" else ChromaIndex(sys.argv[2]).open()
except SinkError as error:
    print(error)
else:
    print("opened", sorted({"onnxruntime", "posthog", "tokenizers"} & sys.modules.keys()))
"""


def opened_elsewhere(what: str, url: str) -> str:
    done = subprocess.run([sys.executable, "-c", _OPEN, what, url], capture_output=True, text=True, timeout=60)
    return done.stdout.strip() or done.stderr


def test_a_folder_serves_one_process(tmp_path: Path) -> None:
    """A writer locks all others out, readers a writer; nothing of Chroma's embedding functions is loaded."""
    url = f"chroma://{tmp_path}/notes"
    with ChromaSink(url) as sink:
        sink.open(MANIFEST)
        with index_of(url):
            assert "chroma run" in opened_elsewhere("index", url)
        assert "chroma run" in opened_elsewhere("sink", url)
    with index_of(url):
        assert opened_elsewhere("index", url) == "opened []"
        assert "chroma run" in opened_elsewhere("sink", url)


def test_a_kill_loses_nothing(tmp_path: Path) -> None:
    """A folder's writer is gone with SIGKILL right after a flush: all is there, and the lock is not."""
    url = f"chroma://{tmp_path}/notes"
    code = f"""
from penstock.sinks.chroma import ChromaSink
from penstock.testing.sink_suite import SinkSuite, write_flush_and_die
sink = ChromaSink({url!r}); sink.open(SinkSuite().manifest); write_flush_and_die(sink)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == -9
    with ChromaSink(url) as sink:
        sink.open(MANIFEST)
        holds(sink, [point(n) for n in range(100)])
