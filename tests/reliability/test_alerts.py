"""Standing queries: what they find as points are written, and only then."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock as ps
from penstock.core.contracts import Embedder, MultiEmbedder
from penstock.core.errors import EmbedError, LedgerError, StageError, UsageError
from penstock.core.records import Chunk, Dense, MultiVector, Sparse, Vector
from penstock.core.schema import VectorSpec
from penstock.engine.journal import ChunkEntry, Match
from penstock.ledger import FoundMatch, Ledger, alerts, chunks
from penstock.sinks.memory import forget
from penstock.testing.embedders import HashingEmbedder, OtherEmbedder

QUERY = "rust async"
BEST = "rust async rust async rust async"


class World:
    """A folder, and the pipeline of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.docs, self.state = folder, folder / "docs", folder / "ledger.db"
        self.docs.mkdir()
        self.pipeline = self.make()

    def make(self, **options: Any) -> ps.Pipeline:
        settings = {"model": HashingEmbedder(256), "into": f"sqlite://{self.folder}/index.db", "state": self.state}
        return ps.Pipeline(self.docs, **{**settings, **options})

    def write(self, name: str, *paragraphs: str) -> None:
        (self.docs / name).write_text("\n\n".join(paragraphs) + "\n")

    def run(self, pipeline: ps.Pipeline | None = None) -> list[str]:
        """Gives what was found by this run: alert and name of the document."""
        before = {match.key for match in self.matches}
        assert (pipeline or self.pipeline).run(max_wait=5).ok
        return sorted(f"{one.alert}: {Path(one.uri).name}" for one in self.matches if one.key not in before)

    @property
    def matches(self) -> Sequence[FoundMatch]:
        return self.pipeline.alerts.matches(1000) if self.state.exists() else []


@pytest.fixture
def w(tmp_path: Path) -> World:
    """With an index of one document, which is near to the query."""
    world = World(tmp_path)
    world.write("old.md", "The rust async book.")
    world.run()
    return world


def test_what_is_embedded_is_told_of_and_nothing_else(w: World) -> None:
    w.pipeline.alerts.add(QUERY)
    assert w.run() == []
    w.write("a.md", "All of rust async.")
    w.write("b.md", "Green tea.")
    assert w.run() == [f"{QUERY}: a.md"]
    assert w.run() == []
    os.utime(w.docs / "a.md", (1, 1))
    assert w.run() == []
    assert w.run(w.make(metadata={"team": "docs"})) == []
    (w.docs / "a.md").rename(w.docs / "renamed.md")
    assert w.run(w.make(metadata={"team": "docs"})) == []
    w.write("b.md", "Green tea and rust async.")
    assert w.run(w.make(metadata={"team": "docs"})) == [f"{QUERY}: b.md"]


def test_a_match_is_of_a_document_and_its_version(tmp_path: Path) -> None:
    """The best of its chunks that were written stands; chunks that stay as they were tell of nothing."""
    w = World(tmp_path)
    w.write("old.md", "old text")
    pipeline = w.make(chunk="40 characters")
    w.run(pipeline)
    pipeline.alerts.add(QUERY, 0.4)
    w.write("a.md", "rust async and other things to know of", BEST, "a page that is on rust async")
    assert w.run(pipeline) == [f"{QUERY}: a.md"]
    (first,) = w.matches
    assert first.text == BEST
    assert first.score == pytest.approx(1.0, abs=1e-5)
    w.write(
        "a.md",
        "rust async and other things to know of",
        BEST,
        "a page that is on rust async",
        "and on green tea and what it is",
    )
    assert w.run(pipeline) == []
    w.write(
        "a.md",
        "rust async and other things to know of",
        BEST,
        "and on green tea and what it is",
        "and what is new: rust async",
    )
    assert w.run(pipeline) == [f"{QUERY}: a.md"]
    assert w.matches[-1].text == "and what is new: rust async"
    assert w.matches[-1].key != first.key


def test_the_score_is_that_of_a_search(w: World) -> None:
    w.pipeline.alerts.add(QUERY, 0.1)
    w.write("a.md", "Some words on rust, and on what is async.")
    w.run()
    with ps.open_index(w.pipeline.sink.url, w.pipeline.embedder) as index:
        hits = {hit.chunk.uri: hit for hit in index.search(QUERY)}
    (match,) = w.matches
    assert match.score == pytest.approx(hits[match.uri].score, abs=1e-5)
    assert match.chunk == hits[match.uri].chunk.id
    assert match.to_json()["metadata"]["name"] == "a.md"


def test_several_alerts_each_with_its_score_and_filter(w: World) -> None:
    w.pipeline.alerts.add(QUERY, name="all", where={"extension": {"$ne": "html"}})
    w.pipeline.alerts.add(QUERY, 0.99, name="near")
    w.pipeline.alerts.add(QUERY, name="texts", where={"extension": "txt"})
    w.pipeline.alerts.add("green tea", name="tea")
    w.write("a.md", "rust async")
    w.write("b.txt", "All of rust async.")
    w.write("c.md", "Green tea.")
    assert w.run() == ["all: a.md", "all: b.txt", "near: a.md", "tea: c.md", "texts: b.txt"]
    counts = {alert.name: (alert.matches, alert.waiting) for alert in w.pipeline.alerts.list()}
    assert counts == {"all": (2, 0), "near": (1, 0), "texts": (1, 0), "tea": (1, 0)}
    w.pipeline.alerts.remove("all")
    w.write("d.md", "rust async again")
    assert w.run() == []


def test_a_query_is_embedded_once(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    query = HashingEmbedder.query

    def counted(self: HashingEmbedder, texts: Sequence[str]) -> list[Dense]:
        asked.extend(text for text in texts if text == QUERY)
        return query(self, texts)

    monkeypatch.setattr(HashingEmbedder, "query", counted)
    w.pipeline.alerts.add(QUERY)
    for name in ("a.md", "b.md"):
        w.write(name, f"rust async in {name}")
        assert w.run(w.make()) == [f"{QUERY}: {name}"]
    assert asked == [QUERY]


def test_a_match_is_recorded_with_its_chunk_or_not_at_all(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the process dies after the flush: the run after it writes the chunk again, and records the match."""
    w.pipeline.alerts.add(QUERY)
    w.write("a.md", "All of rust async.")

    def torn(*args: object) -> None:
        raise LedgerError("torn")

    monkeypatch.setattr(chunks, "record", torn)
    with pytest.raises(StageError):
        w.pipeline.run()
    with Ledger.reader(w.state) as ledger:
        assert ledger.counts().acknowledged == 1
    assert not w.matches
    monkeypatch.undo()
    assert w.run() == [f"{QUERY}: a.md"]


def test_a_query_that_the_model_refuses_is_told_and_stops_nothing(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    query = HashingEmbedder.query

    def choosy(self: HashingEmbedder, texts: Sequence[str]) -> list[Dense]:
        if texts == ["bad"]:
            raise EmbedError("no such words")
        return query(self, texts)

    monkeypatch.setattr(HashingEmbedder, "query", choosy)
    w.pipeline.alerts.add("bad")
    w.pipeline.alerts.add(QUERY)
    w.write("a.md", "All of rust async.")
    assert w.run() == [f"{QUERY}: a.md"]
    assert [alert.trouble for alert in w.pipeline.alerts.list()] == ["it finds nothing: no such words", ""]
    monkeypatch.undo()
    w.write("b.md", "bad rust async")
    assert w.run(w.make()) == ["bad: b.md", f"{QUERY}: b.md"]
    assert not any(alert.trouble for alert in w.pipeline.alerts.list())


def test_only_the_latest_are_kept(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "KEEP", 3)
    w.pipeline.alerts.add(QUERY)
    for n in range(5):
        w.write(f"{n}.md", f"rust async {n}")
        w.run()
    assert [Path(match.uri).name for match in w.matches] == ["2.md", "3.md", "4.md"]
    assert w.pipeline.alerts.list()[0].matches == 5


def test_a_reindex_tells_of_nothing_and_the_alerts_go_along(w: World) -> None:
    """Also what waits to be delivered; the query is embedded by the new model. And back again."""
    w.pipeline.alerts.add(QUERY, name="found")
    w.pipeline.alerts.add(QUERY, name="waits", command="false")
    w.write("a.md", "All of rust async.")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("penstock.jobs.run.DELIVERING", 0.0)
        assert w.run() == ["found: a.md", "waits: a.md"]
        other = w.make(model=OtherEmbedder(256))
        assert other.reindex(least_recall=0.0).switched
        (waiting,) = w.matches
        assert (waiting.alert, waiting.state) == ("waits", "waiting")
        assert w.pipeline.alerts.list()[0].matches == 1
        w.write("b.md", "More of rust async.")
        assert w.run(other) == ["found: b.md", "waits: b.md"]
        w.pipeline.alerts.add("green tea", name="tea")
        w.pipeline.alerts.remove("found")
        other.rollback()
        assert [alert.name for alert in w.pipeline.alerts.list()] == ["tea", "waits"]
        assert w.pipeline.alerts.list()[1].waiting == 2
        w.write("c.md", "Green tea, rust async.")
        assert {"tea: c.md", "waits: c.md"} <= {*w.run()}


def test_what_a_run_finds_on_a_generation_that_is_left_is_delivered(w: World) -> None:
    """A run goes on for a moment where another generation has become the current one."""
    w.pipeline.alerts.add(QUERY, command="true")
    assert w.make(model=OtherEmbedder(256)).reindex(least_recall=0.0).switched
    with Ledger.reader(w.state) as ledger:
        run = ledger.begin_run("")
        ledger.end_run(run, "done", {})
        (alert,) = ledger.alerts()
        begun = ledger.begin(["doc:late"], run)["doc:late"]
        entry = ChunkEntry(begun.document, bytes(16), 1, 1, begun.attempt)
        ledger.acknowledge([entry], run, [Match("key", alert.id, "doc:late", "chunk", 1.0, "text", "{}")])
    assert w.run(w.make(model=OtherEmbedder(256))) == [f"{QUERY}: doc:late"]
    assert w.matches[-1].state == "delivered"


class Several(MultiEmbedder):
    """Vectors of each kind."""

    def describe(self) -> dict[str, VectorSpec]:
        kinds = {"dense": ("Dense", "cosine"), "sparse": ("Sparse", "dot"), "tokens": ("MultiVector", "cosine")}
        return {
            name: VectorSpec("several", 1 << 16 if kind == "Sparse" else 32, f"several {name}", kind, metric)
            for name, (kind, metric) in kinds.items()
        }

    def embed(self, chunks: Sequence[Chunk]) -> dict[str, Sequence[Vector]]:
        return {name: self.query([chunk.text for chunk in chunks], name) for name in self.describe()}

    def query(self, texts: Sequence[str], using: str) -> list[Vector]:
        embedder = HashingEmbedder(32)
        if using == "dense":
            return [*embedder.query(texts)]
        if using == "tokens":
            return [MultiVector(np.stack([one.values for one in embedder.query(text.split())])) for text in texts]
        return [_sparse(text) for text in texts]


def _sparse(text: str) -> Sparse:
    words = sorted({sum(word.lower().encode()) for word in text.split()})
    return Sparse(np.array(words, np.int32), np.ones(len(words), np.float32))


def test_every_kind_of_vector_as_a_search_compares_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    url = f"memory://{tmp_path.name}"
    pipeline = world.make(model=Several(), into=url)
    world.write("old.md", "old text")
    world.run(pipeline)
    try:
        with pytest.raises(UsageError, match="several vectors a chunk, dense, sparse, tokens"):
            pipeline.alerts.add(QUERY)
        with pytest.raises(UsageError, match="unknown vector 'late': the index has dense, sparse, tokens"):
            pipeline.alerts.add(QUERY, using="late")
        for name in ("dense", "sparse", "tokens"):
            pipeline.alerts.add(QUERY, 0.1, name=name, using=name)
        world.write("a.md", "rust and async")
        assert world.run(pipeline) == ["dense: a.md", "sparse: a.md", "tokens: a.md"]
        with ps.open_index(url, pipeline.embedder) as index:
            for match in world.matches:
                hit = index.search(QUERY, 1, using=match.alert)[0]
                assert (match.chunk, match.score) == (hit.chunk.id, pytest.approx(hit.score, abs=1e-5))
        world.write("b.md", "async in rust")
        assert len(world.run(world.make(model=Several(), into=url))) == 3, "by the vectors that the ledger kept"
    finally:
        forget(url)


class Distances(HashingEmbedder):
    def describe(self) -> VectorSpec:
        return VectorSpec("distances", self.dim, "distances", metric="l2")


def test_distances_are_refused(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.write("old.md", "old text")
    pipeline = world.make(model=Distances(16), into=f"lance://{tmp_path}/lance")
    world.run(pipeline)
    with pytest.raises(UsageError, match="compared by l2"):
        pipeline.alerts.add(QUERY)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"query": " "}, "invalid query"),
        ({"score": float("nan")}, "invalid score"),
        ({"webhook": "http://h/", "command": "true"}, "not both"),
        ({"webhook": "example.org/hook"}, "invalid webhook"),
        ({"webhook": "ftp://example.org"}, "invalid webhook"),
        ({"webhook": "http://example.org/a b"}, "invalid webhook"),
        ({"webhook": "https://me:word@example.org/"}, "holds a secret"),
        ({"webhook": "https://example.org/hook?token=abcdef"}, "holds a secret"),
        ({"command": ""}, None),
        ({"command": "a 'b"}, "invalid command"),
        ({"command": " "}, "the command is empty"),
        ({"secret_env": "A"}, "of a webhook"),
        ({"where": {"page": "x"}}, "page is compared with int"),
        ({"name": "a\nb"}, "invalid name"),
        ({"name": "taken"}, "there is an alert named 'taken'"),
    ],
)
def test_what_cannot_be_is_refused(w: World, options: dict[str, Any], message: str | None) -> None:
    w.pipeline.alerts.add(QUERY, name="taken")
    if message is None:
        w.pipeline.alerts.add(**{"query": QUERY, **options})
        return
    with pytest.raises(UsageError, match=message):
        w.pipeline.alerts.add(**{"query": QUERY, **options})
    assert [alert.name for alert in w.pipeline.alerts.list()] == ["taken"]


def test_alerts_need_a_ledger(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing has been ingested"):
        World(tmp_path).pipeline.alerts.add(QUERY)


def test_an_alert_that_is_not_there_cannot_be_removed(w: World) -> None:
    with pytest.raises(UsageError, match="no alert named 'nothing'"):
        w.pipeline.alerts.remove("nothing")


def test_embedders_without_alerts_are_asked_no_queries(w: World) -> None:
    class Passages(Embedder):
        def describe(self) -> VectorSpec:
            return VectorSpec("passages", 8, "passages")

        def embed(self, chunks: Sequence[Chunk]) -> list[Dense]:
            return [Dense(np.ones(8, np.float32)) for _ in chunks]

        def query(self, texts: Sequence[str]) -> Sequence[Vector]:
            raise AssertionError("no query")

    pipeline = w.make(model=Passages(), into=f"sqlite://{w.folder}/other.db", state=w.folder / "other-ledger.db")
    assert pipeline.run().ok
