"""`chroma://` keeps the promises of a sink: in a folder, and on a real server."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from penstock.core.errors import Rejected, SinkError, UsageError
from penstock.core.filter_parser import DEPTH, parse_filter
from penstock.core.filters import passes
from penstock.core.records import VECTOR, Dense, Metadata, Point
from penstock.core.schema import Manifest
from penstock.sinks.chroma import ChromaIndex, ChromaSink
from penstock.testing.sink_suite import MakeIndex, MakeSink, SinkSuite, holds, point, respec
from tests.sinks.chroma import MANIFEST, TOKEN, index_of, numbers

chromadb = pytest.importorskip("chromadb")


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
    def url(self, server: str, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.setenv("CHROMA_TOKEN", TOKEN)
        return f"{server}/notes-{next(numbers)}"

    @pytest.fixture
    def make_sink(self, url: str) -> MakeSink:
        return lambda: ChromaSink(url)

    @pytest.fixture
    def make_index(self, url: str) -> MakeIndex:
        return lambda: ChromaIndex(url)


def test_vectors_keep_their_bits(url: str) -> None:
    """Not normalized, tiny, huge, of zeros and with a negative zero: Chroma's own copy is another, ours is not."""
    rng = np.random.default_rng(1)
    matrix = rng.standard_normal((40, 8)).astype(np.float32) * np.float32(37)
    matrix[0], matrix[1], matrix[2], matrix[3, 0] = 0, 1e-45, 1e30, -0.0
    points = [Point(point(n).chunk, {VECTOR: Dense(row)}) for n, row in enumerate(matrix)]
    with ChromaSink(url) as sink:
        sink.open(MANIFEST)
        sink.write(points)
        holds(sink, points)
        with index_of(url) as index:
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


def test_any_string_is_an_id(url: str) -> None:
    """The empty one and those with NUL too; each is itself again."""
    ids = ["", "\0", "\0\0", "x", "ü 🌊 '\"$\\/", "a" * 2000]
    points = [Point(replace(point(n).chunk, id=id), point(n).vectors) for n, id in enumerate(ids)]
    with ChromaSink(url) as sink:
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
"""Filters that Chroma cannot express, or reads otherwise."""


def test_filters_without_a_translation(url: str) -> None:
    """Ids, texts, the order of strings, nulls and lists too long for its database find the same as anywhere."""
    points = [point(n, page=n % 5 or None, uri=f"doc:{n // 10}") for n in range(40)]
    deep: Metadata = {"page": 1}
    for _ in range(DEPTH - 1):
        deep = {"$not": deep}
    with ChromaSink(url) as sink:
        sink.open(MANIFEST)
        sink.write(points)
        sink.flush()
        with index_of(url) as index:
            for where in (*WHERE, deep):
                wanted = parse_filter(where)
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


def test_numbers_that_do_not_fit(url: str) -> None:
    """They are refused by id; the others of the batch are written."""
    with ChromaSink(url) as sink:
        sink.open(MANIFEST)
        with pytest.raises(Rejected) as raised:
            sink.write([point(1), point(2, page=2**63), point(3, page=-(2**63))])
        assert sorted(raised.value.reasons) == [f"{n:032x}" for n in (2, 3)]
        holds(sink, [point(1)])


def test_dropping_where_there_is_no_folder_creates_none(tmp_path: Path) -> None:
    """Nor does a name that is too long for generations; another collection of the folder stays as it was."""
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
    """A folder's writer is gone with SIGKILL right after a flush: all points are found, and no lock is left."""
    url = f"chroma://{tmp_path}/notes"
    code = f"""
from penstock.sinks.chroma import ChromaSink
from penstock.testing.lifecycle_suite import write_flush_and_die
from penstock.testing.sink_suite import SinkSuite
sink = ChromaSink({url!r}); sink.open(SinkSuite().manifest); write_flush_and_die(sink)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == -9
    with ChromaSink(url) as sink:
        sink.open(MANIFEST)
        holds(sink, [point(n) for n in range(100)])
