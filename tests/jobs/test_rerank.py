"""Searches whose best hits a reranker orders: dense, hybrid, of several indexes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import penstock as ps
from penstock.core.errors import EmbedError, UsageError
from penstock.core.records import VECTOR, Chunk, Point
from penstock.core.schema import Manifest, single
from penstock.embedders import names
from penstock.jobs.rerank import AMONG, rerankers
from penstock.jobs.search import OpenIndex
from penstock.sinks.memory import MemorySink, forget
from penstock.testing.embedders import HashingEmbedder, OverlapReranker
from tests.worded import WordsIndex

QUESTION = "turbine gate"
TEXTS = [f"turbine gate {'part ' * n}number {n}" for n in range(80)] + ["turbine gate", "gate turbine", "a weir"]
IMAGES = (3, 7)


class Model(HashingEmbedder):
    """Puts long texts first: the reranker says otherwise."""

    def embed(self, chunks: Sequence[Chunk]) -> Any:
        vectors = super().embed([*chunks, Chunk("q" * 32, "", 0, QUESTION, (0, 1))])
        question = vectors.pop().values
        for vector, one in zip(vectors, chunks, strict=True):
            vector.values[:] = vector.values + question * len(one.text) / 20
        return vectors


def chunk(number: int, text: str, at: str = "") -> Chunk:
    image = b"" if number in IMAGES else None
    return Chunk(f"{at}{number:0{32 - len(at)}x}", f"doc:{number}", 0, text, (0, len(text)), image=image)


def filled(url: str, chunks: list[Chunk], model: Model) -> WordsIndex:
    with MemorySink(url) as sink:
        sink.open(Manifest(single(model.describe())))
        sink.write([Point(one, {VECTOR: each}) for one, each in zip(chunks, model.embed(chunks), strict=True)])
    return WordsIndex(url)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[WordsIndex]:
    url = f"memory://{tmp_path}"
    yield filled(url, [chunk(n, text) for n, text in enumerate(TEXTS)], Model(64))
    forget(url)


@pytest.fixture
def index(store: WordsIndex) -> Iterator[OpenIndex]:
    with ps.open_index(store, model=Model(64)) as index:
        yield index


@pytest.fixture
def overlap() -> OverlapReranker:
    return OverlapReranker()


def test_the_best_hits_are_in_the_order_of_the_model_and_tell_their_rank_before(
    index: OpenIndex, overlap: OverlapReranker
) -> None:
    plain = index.search(QUESTION, AMONG)
    hits = index.search(QUESTION, 10, rerank=overlap)
    assert overlap.asked == [(QUESTION, AMONG)]
    before = {hit.chunk.id: rank for rank, hit in enumerate(plain, 1)}
    assert [hit.rank_before for hit in hits] == [before[hit.chunk.id] for hit in hits]
    assert [hit.rank_before for hit in hits] != sorted(before.values())[:10]
    scores = [overlap.score(QUESTION, [hit.chunk.text])[0] for hit in hits]
    assert [hit.score for hit in hits] == scores == sorted(scores, reverse=True)
    assert scores[0] == max(overlap.score(QUESTION, [hit.chunk.text])[0] for hit in plain)
    assert hits.cursor is None
    assert len(hits.highlights) == 10
    assert all(hit.rank_before is None for hit in plain)


def test_more_are_reranked_where_more_are_asked_for(index: OpenIndex, overlap: OverlapReranker) -> None:
    hits = index.search(QUESTION, len(TEXTS), rerank=overlap)
    assert overlap.asked == [(QUESTION, len(TEXTS) - len(IMAGES))]
    assert len(hits) == len(TEXTS)
    assert [hit.chunk.text for hit in hits[:2]] == ["turbine gate", "gate turbine"]


def test_images_keep_their_order_behind_the_texts(index: OpenIndex, overlap: OverlapReranker) -> None:
    hits = index.search(QUESTION, len(TEXTS), rerank=overlap)
    plain = {hit.chunk.id: hit.score for hit in index.search(QUESTION, len(TEXTS))}
    images = hits[-len(IMAGES) :]
    assert all(hit.chunk.image is not None and hit.score == plain[hit.chunk.id] for hit in images)
    assert [hit.rank_before for hit in images] == sorted(hit.rank_before or 0 for hit in images)
    assert index.search(QUESTION, 3, types=["image"], rerank=overlap)[0].rank_before == 1


def test_the_least_score_is_one_of_the_reranker(index: OpenIndex, overlap: OverlapReranker) -> None:
    hits = index.search(QUESTION, 80, threshold=0.45, rerank=overlap)
    assert {hit.chunk.text for hit in hits} == {"turbine gate", "gate turbine", "turbine gate number 0"}
    hybrid = index.search(QUESTION, 80, threshold=0.45, hybrid=True, rerank=overlap)
    assert {hit.chunk.text for hit in hybrid} == {hit.chunk.text for hit in hits}


def test_hybrid_and_distinct_searches_are_reranked(index: OpenIndex, overlap: OverlapReranker) -> None:
    hits = index.search(QUESTION, 5, hybrid=True, rerank=overlap)
    fused = index.search(QUESTION, AMONG, hybrid=True)
    assert overlap.asked == [(QUESTION, AMONG - sum(hit.chunk.image is not None for hit in fused))]
    assert [fused[(hit.rank_before or 0) - 1].legs for hit in hits] == [hit.legs for hit in hits]
    distinct = index.search(QUESTION, 10, distinct=True, rerank=overlap)
    wide = index.search(QUESTION, AMONG, distinct=True)
    assert distinct.stands_for == [wide.stands_for[(hit.rank_before or 0) - 1] for hit in distinct]


def test_several_queries_and_several_indexes_are_reranked(
    index: OpenIndex, store: WordsIndex, overlap: OverlapReranker, tmp_path: Path
) -> None:
    first, second = index.search([QUESTION, "weir"], 3, rerank=overlap)
    assert (len(first), second[0].chunk.text) == (3, "a weir")
    url = f"memory://{tmp_path}/other"
    other = filled(url, [chunk(n, f"gate turbine {n}", "f") for n in range(3)], Model(64))
    with ps.open_index([store, other], model=[Model(64), Model(64)]) as both:
        hits = both.search(QUESTION, 10, threshold=0.6, rerank=overlap)
        plain = both.search(QUESTION, AMONG)
        found = {hit.chunk.id: source for hit, source in zip(plain, plain.sources, strict=True)}
    assert {hit.chunk.text for hit in hits} >= {"gate turbine 0", "gate turbine 1", "gate turbine 2"}
    assert hits.sources == [found[hit.chunk.id] for hit in hits]
    forget(url)


@pytest.mark.parametrize(
    ("query", "options", "message"),
    [
        (b"an image", {}, "rerank: it needs a text"),
        ([0.1] * 64, {}, "rerank: it needs a text"),
        (QUESTION, {"cursor": "abc"}, "cursor: a reranked search has no further pages; ask for a larger k"),
        (QUESTION, {"rerank": 7}, "invalid rerank 7: expected the name of a model, or a Reranker"),
    ],
)
def test_what_cannot_be_reranked_is_refused(
    query: Any, options: Any, message: str, index: OpenIndex, overlap: OverlapReranker
) -> None:
    import numpy as np

    query = np.array(query, np.float32) if isinstance(query, list) else query
    with pytest.raises(UsageError, match=message):
        index.search(query, **{"rerank": overlap, **options})


class Wrong(OverlapReranker):
    def score(self, question: str, texts: Sequence[str]) -> list[float]:
        return [float("nan")] * len(texts)


def test_a_reranker_that_gives_no_numbers_is_an_error(index: OpenIndex) -> None:
    with pytest.raises(EmbedError, match="overlap gave 50 numbers, expected a finite one for each of 50"):
        index.search(QUESTION, rerank=Wrong())


def test_a_named_reranker_is_loaded_once_until_it_is_unloaded(
    index: OpenIndex, monkeypatch: pytest.MonkeyPatch, overlap: OverlapReranker
) -> None:
    made: list[str] = []

    def make(name: str) -> OverlapReranker:
        made.append(name)
        return overlap

    monkeypatch.setattr(names, "reranker", make)
    rerankers.drop()
    try:
        for _ in range(3):
            assert index.search(QUESTION, 1, rerank="some/reranker")[0].rank_before
        assert made == ["some/reranker"]
        ps.unload_models()
        index.search(QUESTION, 1, rerank="some/reranker")
        assert made == ["some/reranker"] * 2
    finally:
        rerankers.drop()
