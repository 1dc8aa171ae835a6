"""Every path that reads points back holds pieces of them, bounded by bytes: a page of a thousand vectors is one row.

The store counts the bytes that it handed over and that are still alive, as the vectors are copies with finalizers.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from penstock import Pipeline
from penstock.compose import copy
from penstock.core.contracts import Embedder, Index, Source
from penstock.core.pieces import PIECE, PieceSize, piece_bytes
from penstock.core.records import Change, Chunk, Dense, Item, ListingEnd, MultiVector, Point, Upsert, Vector
from penstock.core.schema import VectorSpec
from penstock.embedders.named import Named
from penstock.jobs import reindex
from penstock.jobs.explain import chunks as chunks_of
from penstock.jobs.pages import stored_vectors
from penstock.jobs.proposals import propose_questions
from penstock.jobs.reuse import Reusing
from penstock.sinks.memory import MemorySink, _stores, forget
from penstock.testing.embedders import HashingEmbedder
from penstock.testing.sources import Bytes

PAGES, ROWS, DIM = 320, 256, 128
PAGE = ROWS * DIM * 4
BUDGET = 32 << 20
PART = piece_bytes(BUDGET)


class PageEmbedder(Embedder):
    """A matrix a text. Counts the most bytes that it made in one call."""

    batch_tokens, batch_rows = 1 << 16, 256

    def __init__(self, seed: int = 0) -> None:
        self.seed, self.most = seed, 0

    def describe(self) -> VectorSpec:
        return VectorSpec("pages", DIM, "pages", kind="MultiVector")

    def embed(self, chunks: Sequence[Chunk]) -> list[MultiVector]:
        self.most = max(self.most, len(chunks) * PAGE)
        return self.query([chunk.text for chunk in chunks])

    def query(self, texts: Sequence[str]) -> list[MultiVector]:
        table = np.random.default_rng(self.seed).standard_normal((ROWS + 97, DIM), np.float32)
        return [MultiVector(table[len(text) % 97 :][:ROWS].copy()) for text in texts]


class Pages(Source):
    """Documents of one page each, or one of all of them."""

    def __init__(self, folder: str = "a", revision: str = "", *, together: bool = False) -> None:
        self.folder, self.revision, self.together = folder, revision, together

    @property
    def name(self) -> str:
        return "page:"

    def changes(self, cursor: str | None = None) -> Iterator[Change]:
        pages = [f"page {n} {'x' * (n % 89)}" for n in range(PAGES)]
        texts = ["\n\n".join(pages)] if self.together else pages
        for n, text in enumerate(texts):
            uri = f"page:{self.folder}/{n}"
            metadata = {"score": self.revision} if self.revision else {}
            item = Item(uri, "1", Bytes(uri, text.encode()), len(text), "text/plain", metadata=metadata)
            yield Upsert(replace(item, revision=self.revision))
        yield ListingEnd()

    def lookup(self, uri: str) -> Item | None:
        return None


class Watched:
    """What memory:// stores handed over and took."""

    def __init__(self) -> None:
        self.alive = self.most = self.written = self.fetched = 0
        self._lock = threading.RLock()

    def handed(self, vector: Dense | MultiVector) -> Vector:
        values = vector.values.copy()
        with self._lock:
            self.alive += values.nbytes
            self.most = max(self.most, self.alive)
            self.fetched += 1
        weakref.finalize(values, self._dropped, values.nbytes)
        return type(vector)(values)

    def _dropped(self, size: int) -> None:
        with self._lock:
            self.alive -= size


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    seen = Watched()
    fetch, write = MemorySink.fetch, MemorySink.write

    def watched_fetch(sink: MemorySink, ids: Sequence[str]) -> list[Point]:
        return [
            Point(point.chunk, {name: seen.handed(one) for name, one in point.vectors.items()})  # type: ignore[arg-type]
            for point in fetch(sink, ids)
        ]

    def watched_write(sink: MemorySink, points: Sequence[Point]) -> None:
        seen.written = max(seen.written, sum(point.nbytes for point in points))
        write(sink, points)

    monkeypatch.setattr(MemorySink, "fetch", watched_fetch)
    monkeypatch.setattr(MemorySink, "write", watched_write)
    monkeypatch.setattr(MemorySink, "writers", 1)
    return seen


class World:
    def __init__(self, folder: Path) -> None:
        self.folder, self.url = folder, f"memory://bytes-{folder}"

    def pipeline(self, source: Source, into: Any = None, model: Any = None, state: str = "l") -> Pipeline:
        path = self.folder / f"{state}.db"
        model, into = model or PageEmbedder(), into or self.url
        return Pipeline(source, into=into, model=model, memory=BUDGET, state=path, chunk=pages, workers=1)

    def sink(self) -> MemorySink:
        sink = MemorySink(self.url)
        manifest = sink.manifest()
        assert manifest is not None
        sink.open(manifest)
        return sink


def pages(text: str) -> list[str]:
    return text.split("\n\n")


@pytest.fixture
def w(tmp_path: Path, watched: Watched) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    for url in [name for name in _stores if str(tmp_path) in name]:
        forget(f"memory://{url}")


@pytest.fixture
def filled(w: World) -> World:
    assert w.pipeline(Pages()).run().ok
    return w


def test_batches_of_a_model_and_of_a_sink(w: World, watched: Watched) -> None:
    """The model takes 256 chunks and the sink 4,096 rows; what either gets in one call is a part of the budget."""
    model = PageEmbedder()
    assert w.pipeline(Pages(), model=model).run().written == PAGES
    assert model.most <= BUDGET // 8
    assert watched.written <= BUDGET // 4


def test_rename(filled: World, watched: Watched) -> None:
    report = filled.pipeline(Pages("b")).run(allow_mass_delete=True)
    assert (report.moved, report.embedded) == (PAGES, 0)
    # Points read back wait in a channel, which is in the account.
    assert watched.most <= BUDGET


def test_metadata(filled: World, watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """The points of one document, and of many, are read in pieces."""
    answers: list[int] = []
    fetch = MemorySink.fetch
    monkeypatch.setattr(MemorySink, "fetch", lambda sink, ids: answers.append(len(ids)) or fetch(sink, ids))
    report = filled.pipeline(Pages(revision="2")).run()
    assert (report.moved, report.embedded) == (PAGES, 0)
    assert max(answers) * PAGE <= PART
    assert watched.most <= BUDGET


def test_verify_of_a_sample(filled: World, watched: Watched) -> None:
    found = filled.pipeline(Pages()).verify(sample=1.0)
    assert found.ok
    assert found.sampled == PAGES
    assert watched.most <= 2 * PART


def test_verify_where_all_vectors_are_others(filled: World, watched: Watched) -> None:
    """The vectors are compared and let go: of altered points only the names are kept."""
    found = filled.pipeline(Pages(), model=PageEmbedder(1)).verify(sample=1.0)
    assert found.altered == PAGES
    assert watched.most <= 2 * PART
    repaired = filled.pipeline(Pages(), model=PageEmbedder(1)).verify(sample=1.0, repair=True)
    assert repaired.ok
    assert repaired.altered == 0


def test_repair_of_points_that_are_there_twice(
    filled: World, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = MemorySink.ids

    def doubled(sink: MemorySink) -> Iterator[Sequence[str]]:
        for page in ids(sink):
            yield [*page, *page]

    with monkeypatch.context() as patched:
        patched.setattr(MemorySink, "ids", doubled)
        filled.pipeline(Pages()).verify(repair=True)
    assert watched.fetched >= PAGES
    assert watched.most <= 2 * PART
    assert filled.pipeline(Pages()).verify().ok


def test_copy_and_the_run_that_takes_it_over(filled: World, watched: Watched) -> None:
    target = f"memory://copy-{filled.folder}"
    assert copy(filled.url, target).written == PAGES
    assert copy(filled.url, target).kept == PAGES
    # One is written, one compared, one read ahead, and one handed over.
    assert watched.most <= 4 * PIECE
    watched.most = watched.alive
    report = filled.pipeline(Pages(), into=target, state="copy").run()
    assert (report.documents, report.embedded) == (PAGES, 0)
    assert watched.most <= BUDGET
    assert watched.written <= MemorySink.max_bytes


def test_an_index_that_was_restored(filled: World, watched: Watched) -> None:
    sink = filled.sink()
    sink.delete([next(iter(sink.ids()))[0]])
    report = filled.pipeline(Pages()).run()
    assert any("was compared" in notice for notice in report.notices)
    assert watched.fetched >= PAGES
    assert watched.most <= 2 * PART


def test_catching_up(filled: World, watched: Watched) -> None:
    joined = f"memory://joined-{filled.folder}"
    report = filled.pipeline(Pages(), into=[filled.url, joined]).run()
    assert not report.behind
    assert MemorySink(joined).count() == PAGES
    assert watched.most <= 3 * PIECE


def test_restoring_what_one_of_several_lost(filled: World, watched: Watched) -> None:
    joined = f"memory://joined-{filled.folder}"
    pipeline = filled.pipeline(Pages(), into=[filled.url, joined])
    assert not pipeline.run().behind
    sink = filled.sink()
    sink.delete([id for page in sink.ids() for id in page])
    assert pipeline.verify(repair=True).ok
    assert sink.count() == PAGES
    assert watched.most <= 3 * PIECE


def test_recall_of_a_new_index(filled: World, watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reindex, "QUERIES", 3)
    assert reindex.measured_recall(filled.sink()) == 1.0
    assert watched.most <= 2 * PIECE


def test_a_reindex_that_leaves_the_pages_out(w: World, watched: Watched) -> None:
    """What it takes from the old index is small; what it reads there is not."""
    models = {"title": HashingEmbedder(8), "late": PageEmbedder()}
    assert w.pipeline(Pages(), model=models).run().written == PAGES
    sink = w.sink()
    manifest = sink.manifest()
    assert manifest is not None
    chunks = [point.chunk for point in _stores[w.url.partition("://")[2]].points.values()]
    size = PieceSize(manifest.schema.vectors, sink.max_rows)
    reusing = Reusing(Named({"title": models["title"]}), sink, {"title": "title"}, size)
    assert len(reusing.embed(chunks)["title"]) == PAGES
    assert reusing.taken == {"title": PAGES}
    assert watched.most <= 2 * PIECE


def test_chunks_of_one_document(w: World, watched: Watched) -> None:
    pipeline = w.pipeline(Pages(together=True))
    assert pipeline.run().written == PAGES
    watched.most = watched.alive
    found = list(chunks_of(pipeline.components, "page:a/0"))
    assert len(found) == PAGES
    assert all(one.text for one in found)
    assert watched.most <= 2 * PIECE


def test_questions_that_are_proposed(filled: World, watched: Watched) -> None:
    before = watched.fetched
    propose_questions(filled.sink(), PAGES)
    assert watched.fetched == before + PAGES
    assert watched.most <= 2 * PIECE


def test_near_duplicates_by_a_vector_beside_the_pages(w: World, watched: Watched) -> None:
    models = {"title": HashingEmbedder(8), "late": PageEmbedder()}
    assert w.pipeline(Pages(), model=models).run().written == PAGES
    ids = [*_stores[w.url.partition("://")[2]].points]
    found = stored_vectors(cast(Index, w.sink()), ids, "title")  # they are fetched alike
    assert found.keys() == set(ids)
    assert watched.most - watched.alive <= 2 * PIECE
