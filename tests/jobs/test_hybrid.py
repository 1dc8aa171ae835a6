"""Hybrid searches: legs, their weights and ranks, and pages of the fused list."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock as ps
from penstock.core.errors import QueryMismatch, UsageError
from penstock.core.records import VECTOR, Chunk, Hit, MultiVector, Point, Sparse, Vector
from penstock.core.schema import IndexSchema, Manifest, single
from penstock.jobs.hybrid import fuse
from penstock.jobs.search import OpenIndex
from penstock.sinks.memory import MemorySink, forget
from penstock.testing.embedders import HashingEmbedder
from tests.worded import Several, WordsIndex


class Model(HashingEmbedder):
    """Counts how often it is opened and asked."""

    def __init__(self) -> None:
        super().__init__(64)
        self.opened = 0

    def open(self) -> None:
        self.opened += 1
        super().open()


TEXTS = [f"turbine part {n} of the gate" for n in range(260)] + ["gasket XK-4711", "the", "weir weir weir"]


def chunk(number: int, text: str) -> Chunk:
    metadata = {"odd": number % 2 == 1}
    image = b"" if number % 5 == 0 else None
    return Chunk(f"{number:032x}", f"doc:{number}", 0, text, (0, len(text)), metadata=metadata, image=image)


CHUNKS = [chunk(number, text) for number, text in enumerate(TEXTS)]


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def store(tmp_path: Path, model: Model) -> Iterator[WordsIndex]:
    url = f"memory://{tmp_path}"
    fill(url, single(model.describe()), [{VECTOR: one} for one in model.embed(CHUNKS)])
    yield WordsIndex(url)
    forget(url)


@pytest.fixture
def index(store: WordsIndex, model: Model) -> Iterator[OpenIndex]:
    with ps.open_index(store, model=model) as index:
        yield index


def fill(url: str, schema: IndexSchema, vectors: Sequence[Mapping[str, Vector]]) -> None:
    with MemorySink(url) as sink:
        sink.open(Manifest(schema))
        sink.write([Point(one, each) for one, each in zip(CHUNKS, vectors, strict=True)])


def ids(hits: Sequence[Hit]) -> list[str]:
    return [hit.chunk.id for hit in hits]


def test_ranks_are_fused_with_weights() -> None:
    """Equal scores stay in the order of the legs."""
    a, b, c = (Hit(score, one) for score, one in zip((0.9, 0.5, 7.0), CHUNKS[:3], strict=True))
    fused = fuse({"vector": [a, b], "words": [c, b]}, {"vector": 1.0, "words": 1.0})
    assert ids(fused) == ids([b, a, c])
    assert [hit.score for hit in fused] == pytest.approx([2 / 62, 1 / 61, 1 / 61])
    assert [hit.legs for hit in fused] == [{"vector": 2, "words": 2}, {"vector": 1}, {"words": 1}]
    fused = fuse({"vector": [a, b], "words": [c, b]}, {"vector": 0.1, "words": 1.0})
    assert ids(fused) == ids([b, c, a])
    assert fused[0].score == pytest.approx(1.1 / 62)


def test_a_hit_says_which_legs_found_it(index: OpenIndex) -> None:
    hits = index.search("gasket XK-4711", k=300, hybrid=True)
    assert (hits[0].chunk.text, hits[0].legs) == ("gasket XK-4711", {"vector": 1, "words": 1})
    assert hits[0].score == pytest.approx(2 / 61)
    assert hits[1].legs.keys() == {"vector"}
    assert all(not hit.legs for hit in index.search("gasket XK-4711"))
    assert ids(index.search("the weir", k=5, hybrid={"vector": 1})) == ids(index.search("the weir", k=5))


def test_several_queries_are_answered_each_as_alone(index: OpenIndex) -> None:
    queries = ["gasket XK-4711", "the", "weir turbine"]
    assert index.search(queries, hybrid=True) == [index.search(one, hybrid=True) for one in queries]


def test_the_model_is_not_loaded_for_words_alone(index: OpenIndex, model: Model) -> None:
    assert [hit.chunk.text for hit in index.search("xk-4711", hybrid={"words": 1})] == ["gasket XK-4711"]
    assert model.opened == 0
    assert index.search("xk-4711", hybrid=True)[0].legs["words"] == 1
    assert model.opened == 1


@pytest.mark.parametrize(
    "options",
    [{}, {"where": {"odd": True}}, {"types": ["text"]}, {"distinct": True}],
    ids=["all", "where", "types", "distinct"],
)
def test_pages_are_pieces_of_one_list(index: OpenIndex, options: dict[str, Any]) -> None:
    """Whatever their size; beyond the first window, too."""
    whole = index.search("turbine gate 7 weir", k=300, hybrid=True, **options)
    assert len(whole) > 100
    assert len({*ids(whole)}) == len(whole)
    scores = [hit.score for hit in whole]
    assert scores == sorted(scores, reverse=True)
    for size in (10, 70):
        paged: list[Hit] = []
        cursor: str | None = None
        while page := index.search("turbine gate 7 weir", k=size, hybrid=True, cursor=cursor, **options):
            paged += page
            if (cursor := page.cursor) is None:
                break
        assert paged == whole
    if "types" in options:
        assert all(hit.chunk.image is None for hit in whole)


def test_windows_are_the_same_for_every_page(index: OpenIndex, store: WordsIndex) -> None:
    """An approximate index may rank otherwise where it is asked for more. A leg that has no more is not asked again."""
    windows, asked = [10, 40, 160, 640], []
    for k in (5, 120, 250):
        store.asked.clear()
        index.search("turbine weir", k=k, hybrid=True)
        asked.append(sorted(store.asked))
    assert asked == [
        [(leg, window) for leg in ("vector", "words") for window in sorted(windows[:times])] for times in (1, 3, 4)
    ]
    store.asked.clear()
    index.search("xk-4711", k=150, hybrid=True)
    assert sorted(store.asked) == [("vector", 10), ("vector", 40), ("vector", 160), ("words", 10)]


def test_a_leg_that_finds_nothing_is_empty(index: OpenIndex) -> None:
    hits = index.search("?!", k=3, hybrid=True)
    assert ids(hits) == ids(index.search("?!", k=3))
    assert [{*hit.legs} for hit in hits] == [{"vector"}] * 3
    assert index.search("?!", k=3, hybrid={"words": 1}) == []
    assert index.search("nowhere", hybrid={"words": 2}).cursor is None
    hits = index.search("gate", where={"odd.one": 1}, hybrid=True)
    assert hits == []
    assert "odd.one" in (hits.hint or "")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"hybrid": {"sparse": 1}}, "no leg 'sparse'.*expected words, vector"),
        ({"hybrid": True, "using": "vector"}, "expected one of these two"),
        ({"hybrid": True, "threshold": 0.5}, "cannot be compared"),
        ({"hybrid": {}}, "hybrid: invalid value '{}'"),
        ({"hybrid": "words"}, "hybrid: invalid value 'words'"),
        ({"hybrid": {"words": 0}}, "invalid weight 0 of 'words': expected a number above 0"),
        ({"hybrid": {"words": True}}, "invalid weight True"),
        ({"hybrid": {"words": float("nan")}}, "invalid weight nan"),
    ],
)
def test_what_a_hybrid_search_cannot_do(index: OpenIndex, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        index.search("gate", **options)


def test_a_hybrid_search_needs_a_text(index: OpenIndex) -> None:
    with pytest.raises(UsageError, match="hybrid: it needs a text"):
        index.search(b"image", hybrid=True)
    with pytest.raises(UsageError, match="fits one leg"):
        index.search(np.ones(64), hybrid=True)


def test_a_cursor_belongs_to_the_legs_and_weights(index: OpenIndex) -> None:
    cursor = index.search("gate", k=3, hybrid={"words": 1, "vector": 1}).cursor
    assert index.search("gate", k=3, hybrid={"vector": 1, "words": 1}, cursor=cursor)
    for other in (True, {"vector": 1, "words": 0.5}, False):
        with pytest.raises(UsageError, match="another query"):
            index.search("gate", hybrid=other, cursor=cursor)  # type: ignore[arg-type]


def test_an_index_without_full_text(tmp_path: Path, store: WordsIndex, model: Model) -> None:
    store.finds_words = False
    with ps.open_index(store, model=model) as index:
        with pytest.raises(UsageError, match="no leg 'words': the index has no full text; expected vector"):
            index.search("gate", hybrid={"vector": 1, "words": 1})
        assert ids(index.search("gate", hybrid=True)) == ids(index.search("gate"))


def test_vectors_of_every_kind_are_legs(tmp_path: Path) -> None:
    url, model = f"memory://{tmp_path}/several", Several()
    vectors = model.embed(CHUNKS)
    fill(url, IndexSchema(model.describe()), [{name: vectors[name][n] for name in vectors} for n in range(len(CHUNKS))])
    with ps.open_index(WordsIndex(url), model=model) as index:
        hit = index.search("gasket XK-4711", hybrid=True)[0]
        assert hit.legs == {"dense": 1, "sparse": 1, "late": 1, "words": 1}
        assert {*index.search("weir", hybrid={"late": 1, "sparse": 2})[0].legs} == {"late", "sparse"}
        assert [hit.chunk.text for hit in index.search("weir", hybrid={"sparse": 1})] == ["weir weir weir"]
        assert index.search(" - ", hybrid={"sparse": 1, "words": 1}) == []
        distinct = index.search("weir", hybrid={"words": 1, "sparse": 1}, distinct=True)
        assert distinct[0].chunk.text == "weir weir weir"
        with pytest.raises(UsageError, match="choose one with using"):
            index.search("weir")
    forget(url)


def test_a_vector_of_each_kind_is_a_query(tmp_path: Path) -> None:
    """It finds what the text finds that it was made of, page by page; what does not fit the index says so."""
    url, model = f"memory://{tmp_path}/kinds", Several()
    vectors = model.embed(CHUNKS)
    fill(url, IndexSchema(model.describe()), [{name: vectors[name][n] for name in vectors} for n in range(len(CHUNKS))])
    with ps.open_index(url, model=model) as index:
        for name in Several.KINDS:
            own = model.query(["turbine gate 7"], name)[0]
            page = index.search(own, k=3, using=name)
            assert page == index.search("turbine gate 7", k=3, using=name)
            assert page.cursor is not None
            assert ids(page + index.search(own, k=3, using=name, cursor=page.cursor)) == ids(
                index.search("turbine gate 7", k=6, using=name)
            )
            other = model.query(["weir"], name)[0]
            with pytest.raises(UsageError, match="another query"):
                index.search(other, k=3, using=name, cursor=page.cursor)
        late = model.query(["turbine gate 7"], "late")[0]
        assert isinstance(late, MultiVector)
        assert index.search(late.values, k=3, using="late") == index.search(late, k=3, using="late")
        for using, wrong, says in (
            ("dense", np.ones((2, 16)), "expected an array of numbers \\(Dense\\), got rows"),
            ("late", np.ones(16), "expected rows of numbers \\(MultiVector\\)"),
            ("late", np.ones((2, 15)), "expected 16 dimensions, got 15"),
            ("late", np.zeros((2, 16)), "zero"),
            ("late", np.zeros((0, 16)), "expected rows"),
            ("sparse", np.ones(16), "expected indices and values"),
            ("sparse", sparse([3, 3], [1, 1]), "an index is twice"),
            ("sparse", sparse([], []), "0 indices"),
            ("sparse", sparse([1 << 16], [1]), "expected indices from 0 to 65,535"),
            ("sparse", sparse([1], [0]), "zero"),
            ("sparse", sparse([1], [np.nan]), "zero"),
        ):
            with pytest.raises(UsageError, match=says):
                index.search(wrong, using=using)  # type: ignore[call-overload]
    forget(url)


def sparse(indices: Sequence[int], values: Sequence[float]) -> Sparse:
    return Sparse(np.array(indices, np.int32), np.array(values, np.float32))


def test_no_vector_may_be_named_words(tmp_path: Path) -> None:
    """It is refused before the source is opened; an index of an earlier version that has one is searched as before."""
    with pytest.raises(UsageError, match="invalid vector name 'words'"):
        ps.Pipeline(
            tmp_path / "none", into="memory://refused", model={"words": HashingEmbedder(8)}, state=tmp_path / "a.db"
        ).run()
    assert MemorySink("memory://refused").manifest() is None
    url, model = f"memory://{tmp_path}/old", HashingEmbedder(16)
    fill(url, IndexSchema({"words": model.describe()}), [{"words": one} for one in model.embed(CHUNKS)])
    with ps.open_index(WordsIndex(url), model={"words": model}) as index:
        assert ids(index.search("gate", hybrid=True)) == ids(index.search("gate"))
    forget(url)


def test_legs_of_several_indexes_are_fused_together(tmp_path: Path, store: WordsIndex, model: Model) -> None:
    """Each leg of each index counts as one ranking; an index without any of the legs is passed over, and named."""
    other = WordsIndex(f"memory://{tmp_path}/other")
    small = HashingEmbedder(32)
    fill(other.url, single(small.describe()), [{VECTOR: one} for one in small.embed(CHUNKS)])
    with ps.open_index([store, other], model=[model, small]) as both:
        hits = both.search("gasket XK-4711", k=3, hybrid=True)
        assert hits[0].score == pytest.approx(4 / 61)
        assert hits[0].legs == {"vector": 1, "words": 1}
        weighted = both.search("gasket XK-4711", k=3, hybrid={"words": 0.5})
        assert weighted[0].score == pytest.approx(1 / 61)
        other.finds_words = False
        hits = both.search("gasket XK-4711", hybrid={"words": 1})
        assert ids(hits) == [CHUNKS[260].id]
        assert [*hits.skipped] == [other.url]
        assert "no leg words, only vector" in hits.skipped[other.url]
        with pytest.raises(UsageError, match="no leg 'late'"):
            both.search("gate", hybrid={"late": 1})
        with pytest.raises(UsageError, match="no further pages"):
            both.search("gate", hybrid=True, cursor="x")
        store.finds_words = False
        with pytest.raises(UsageError, match="no full text"):
            both.search("gate", hybrid={"words": 1})
    forget(other.url)


def test_an_error_of_one_leg_is_that_of_the_search(index: OpenIndex, store: WordsIndex) -> None:
    def fail(*_: Any) -> list[Hit]:
        raise QueryMismatch("too long")

    store.search_words = fail  # type: ignore[method-assign]
    with pytest.raises(QueryMismatch, match="too long"):
        index.search("gate", hybrid=True)
