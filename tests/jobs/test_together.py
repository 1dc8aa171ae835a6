"""Several indexes searched together: each with its own model, and their hits merged by rank."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import penstock as ps
from penstock.core.errors import PenstockError, QueryMismatch, SinkError, StageError, Transient, UsageError
from penstock.core.records import VECTOR, Chunk, Dense, Hit, Point
from penstock.core.schema import IndexSchema, Manifest, VectorSpec, single
from penstock.embedders.named import Named
from penstock.jobs.together import OpenIndexes
from penstock.sinks.memory import MemoryIndex, MemorySink, forget
from penstock.sinks.sqlite import SqliteSink
from penstock.testing.embedders import HashingEmbedder

ROOT = Path(__file__).parents[2]


class Texts(HashingEmbedder):
    def describe(self) -> VectorSpec:
        return replace(super().describe(), fingerprint="texts")


class Pictures(HashingEmbedder):
    """Another space, which images are in, too; texts of more than five words are not."""

    def describe(self) -> VectorSpec:
        return replace(super().describe(), fingerprint="pictures")

    def query(self, texts: Sequence[str]) -> list[Dense]:
        if long := [text for text in texts if len(text.split()) > 5]:
            raise QueryMismatch(f"{long[0]!r} is too long")
        return super().query(texts)

    def query_images(self, pictures: Sequence[bytes]) -> list[Dense]:
        return super().query(["a red boat" for _ in pictures])


TEXTS, PICTURES = Texts(64), Pictures(32)


def chunk(id: str, text: str, **details: Any) -> Chunk:
    return Chunk(id, f"doc:{id}", 0, text, (0, len(text)), **details)


def fill(sink: ps.Sink, model: Any, chunks: Sequence[Chunk]) -> str:
    with sink:
        sink.open(Manifest(single(model.describe())))
        vectors = model.embed(chunks)
        sink.write([Point(one, {VECTOR: vector}) for one, vector in zip(chunks, vectors, strict=True)])
        sink.flush()
    return sink.url


Make = Callable[[str, Any, Sequence[Chunk]], str]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes an index in memory, of a name, with these chunks."""
    urls = []

    def index(name: str, model: Any, chunks: Sequence[Chunk]) -> str:
        urls.append(f"memory://{tmp_path}/{name}")
        return fill(MemorySink(urls[-1]), model, chunks)

    yield index
    for url in urls:
        forget(url)


@pytest.fixture
def urls(make: Make, tmp_path: Path) -> list[str]:
    texts = [chunk(f"t{n}", text, metadata={"team": "docs"}) for n, text in enumerate(["a red boat", "blue", "green"])]
    pictures = [
        chunk(f"p{n}", text, metadata={"team": "art", "width": n}, image=b"")
        for n, text in enumerate(["red", "a boat"])
    ]
    return [fill(SqliteSink(f"sqlite://{tmp_path}/texts.db"), TEXTS, texts), make("pictures", PICTURES, pictures)]


@pytest.fixture
def index(urls: list[str]) -> Iterator[OpenIndexes]:
    with ps.open_index(urls, model=[TEXTS, PICTURES]) as index:
        yield index


def ids(hits: Sequence[Hit]) -> list[str]:
    return [hit.chunk.id for hit in hits]


def picture() -> bytes:
    Image.new("RGB", (4, 4), "red").save(file := io.BytesIO(), "PNG")
    return file.getvalue()


def test_hits_are_merged_by_rank(index: OpenIndexes, urls: list[str]) -> None:
    """The best of each comes first, the earlier index before the later one, whatever their scores."""
    hits = index.search("a red boat", k=4)
    alone = [ids(one.search("a red boat")) for one in index.indexes]
    assert ids(hits) == [alone[0][0], alone[1][0], alone[0][1], alone[1][1]]
    assert [hit.score for hit in hits] == pytest.approx([1 / 61, 1 / 61, 1 / 62, 1 / 62])
    assert hits.sources == [urls[0], urls[1]] * 2
    assert [hits[0].chunk.text[start:end] for start, end in hits.highlights[0]][-1] == "boat"
    assert hits.cursor is None
    assert hits.skipped == {}
    assert len(index) == 5
    assert len(index.search("a red boat", k=50)) == 5


def test_a_chunk_of_several_indexes_is_one_hit(make: Make) -> None:
    """With the sum of its shares, and the index in which it ranks best."""
    one = make("one", TEXTS, [chunk("a", "red boat"), chunk("b", "red"), chunk("c", "green")])
    two = make("two", PICTURES, [chunk("b", "red boat"), chunk("d", "red")])
    with ps.open_index([one, two], model=[TEXTS, PICTURES]) as index:
        hits = index.search("red boat", k=3)
        assert ids(hits) == ["b", "a", "d"]
        assert hits[0].score == pytest.approx(1 / 62 + 1 / 61)
        assert (hits.sources[0], hits[0].chunk.text) == (two, "red boat")
        assert sorted(point.id for point in index.fetch(["a", "b", "d", "z"])) == ["a", "b", "d"]
        (point,) = index.fetch(["b"])
        assert point.chunk.text == "red"
        assert ids(index.search("red boat", k=1)) == ["b"], "the share of a rank beyond k counts"


def test_one_index_alone_is_searched_by_its_score(urls: list[str]) -> None:
    with ps.open_index(urls[0], model=TEXTS) as index:
        hits = index.search("a red boat", k=2)
    assert hits[0].score == pytest.approx(1)
    assert hits.sources == urls[:1] * 2


def test_a_query_goes_to_those_that_can_take_it(index: OpenIndexes, urls: list[str], tmp_path: Path) -> None:
    (tmp_path / "red.png").write_bytes(picture())
    for image in (picture(), tmp_path / "red.png"):
        hits = index.search_image(image, k=5)
        assert hits.sources == [urls[1]] * 2
        assert list(hits.skipped) == [urls[0]]
        assert "embeds no images" in hits.skipped[urls[0]]
    long = index.search("one two three four five six", k=5)
    assert long.sources == [urls[0]] * 3
    assert "too long" in long.skipped[urls[1]]
    (vector,) = TEXTS.query(["a red boat"])
    assert index.search(vector).sources == [urls[0]] * 3
    with pytest.raises(UsageError, match=r"no index can take the query: .*texts\.db: .*64 dim.*pictures: .*32 dim"):
        index.search(np.ones(7, np.float32))


def test_a_vector_that_fits_several_models_is_refused(make: Make) -> None:
    """It would mean something in one of them alone."""
    (vector,) = TEXTS.query(["red"])
    one, two = make("one", TEXTS, [chunk("a", "red")]), make("two", Pictures(64), [chunk("b", "red")])
    with (
        ps.open_index([one, two], model=[TEXTS, Pictures(64)]) as index,
        pytest.raises(UsageError, match="64 dimensions fit indexes of different models"),
    ):
        index.search(vector)
    three = make("three", TEXTS, [chunk("c", "red")])
    with ps.open_index((one, three), model=(TEXTS, TEXTS)) as index:
        assert ids(index.search(vector)) == ["a", "c"]


def test_several_queries(index: OpenIndexes, urls: list[str]) -> None:
    texts = index.search(["a red boat", "green"], k=2)
    assert [ids(hits) for hits in texts] == [ids(index.search(one, k=2)) for one in ("a red boat", "green")]
    mixed = index.search([picture(), "a red boat"], k=5)
    assert [set(hits.sources) for hits in mixed] == [{urls[1]}, set(urls)]
    assert index.search([]) == []
    assert asyncio.run(index.asearch("a red boat", k=2)) == index.search("a red boat", k=2)


def test_filters_types_and_near_duplicates(make: Make, index: OpenIndexes, urls: list[str]) -> None:
    assert index.search("a red boat", where={"team": "art"}).sources == [urls[1]] * 2
    assert index.search("a red boat", types=["text"]).sources == [urls[0]] * 3
    twice = make("twice", TEXTS, [chunk("a", "red"), chunk("b", "red")])
    with ps.open_index([twice, urls[1]], model=[TEXTS, PICTURES]) as both:
        assert both.search("red", distinct=True).stands_for == [2, 1, 1]


def test_hints(index: OpenIndexes) -> None:
    """Of what no index has. A field that one of them has is no mistake."""
    hint = index.search("red", where={"taem": "docs"}).hint
    assert hint == "no chunk has the field 'taem'; did you mean 'team'?"
    assert index.search("red", where={"width": 99}).hint is None
    assert index.search("red", where={"width": 1}).hint is None


def test_facets_are_added_up(index: OpenIndexes, make: Make, urls: list[str]) -> None:
    assert index.facets("team") == {"team": [("docs", 3), ("art", 2)]}
    assert index.facets(["type", "width"], where={"team": "art"}) == {"type": [("image", 2)], "width": [(0, 1), (1, 1)]}
    assert index.facets("team", limit=1) == {"team": [("docs", 3)]}
    many = [chunk(f"m{n}", "x", metadata={"team": team}) for n, team in enumerate(["a", "a", "b", "b", "art"])]
    with ps.open_index([make("many", TEXTS, many), urls[1]], model=[TEXTS, PICTURES]) as both:
        assert both.facets("team", limit=1) == {"team": [("art", 3)]}, "though the first has it least"
    with pytest.raises(UsageError, match="invalid limit 0"):
        index.facets("team", limit=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cursor": "abc"}, "cursor: several indexes .* ask for a larger k"),
        ({"threshold": 0.5}, "threshold: several indexes are merged by rank"),
        ({"using": "title"}, "unknown vector 'title': the indexes have vector"),
        ({"k": 0}, "^invalid k 0"),
        ({"types": ["sound"]}, "^types: unknown type"),
        ({"where": {"a": {"$no": 1}}}, "^where: "),
    ],
)
def test_what_is_refused(index: OpenIndexes, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        index.search("a red boat", **options)


def test_the_vector_to_search_by(make: Make, tmp_path: Path, urls: list[str]) -> None:
    """It is named for the index that has several; one that has one vector is searched by that."""
    several = Named({"title": Texts(16), "body": Texts(16)})
    url = f"memory://{tmp_path}/several"
    with MemorySink(url) as sink:
        sink.open(Manifest(IndexSchema(several.describe())))
        for one, title, body in (("x", "red", "green"), ("y", "green", "red")):
            made = [Texts(16).query([text])[0] for text in (title, body)]
            sink.write([Point(chunk(one, body), {"title": made[0], "body": made[1]})])
    with ps.open_index([url, urls[0]], model=[several, TEXTS]) as index:
        assert ids(index.search("red", k=1, using="title")) == ["x"]
        assert ids(index.search("red", k=1, using="body")) == ["y"]
        assert urls[0] in index.search("red", using="body").sources
        with pytest.raises(UsageError, match=rf"{url}: the index has several vectors a chunk, title, body"):
            index.search("red")
    forget(url)


class Failing(MemoryIndex):
    """Fails as it is told, once it is open."""

    error: Exception | None = None

    def search(self, *args: Any, **options: Any) -> list[Hit]:
        if self.error is not None:
            raise self.error
        return super().search(*args, **options)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (SinkError("the disk is full"), SinkError),
        (Transient("busy", retry_after=3), Transient),
        (UsageError("this store cannot compare texts"), UsageError),
        (RuntimeError("a driver's"), StageError),
    ],
)
def test_an_index_that_fails_is_named(urls: list[str], error: Exception, kind: type[PenstockError]) -> None:
    """And is not left out."""
    failing = Failing(urls[1])
    with ps.open_index([urls[0], failing], model=[TEXTS, PICTURES]) as index:
        assert len(index.search("red")) == 5
        failing.error = error
        with pytest.raises(kind, match=rf"{urls[1]}: .*{error}") as raised:
            index.search("red")
        assert getattr(raised.value, "retry_after", 3) == 3


def test_an_index_that_is_not_there_is_named(urls: list[str], tmp_path: Path) -> None:
    opened: list[bool] = []

    class Closing(MemoryIndex):
        def close(self) -> None:
            opened.append(False)
            super().close()

    with pytest.raises(SinkError, match=r"nowhere\.db"):
        ps.open_index([Closing(urls[1]), f"sqlite://{tmp_path}/nowhere.db"], model=[PICTURES, None])
    assert opened == [False], "the first one is closed again"


def test_indexes_are_searched_at_once(make: Make) -> None:
    barrier = threading.Barrier(2, timeout=20)

    class Waiting(MemoryIndex):
        def search(self, *args: Any, **options: Any) -> list[Hit]:
            barrier.wait()
            return super().search(*args, **options)

    bases = [Waiting(make(name, TEXTS, [chunk(name, "red")])) for name in ("one", "two")]
    with ps.open_index(bases, model=[TEXTS, TEXTS]) as index:
        assert ids(index.search("red")) == ["one", "two"]


@pytest.mark.parametrize("model", ["texts", [TEXTS], {"a": TEXTS, "b": TEXTS}, TEXTS])
def test_models_are_a_list_of_as_many(urls: list[str], model: Any) -> None:
    with pytest.raises(UsageError, match="expected a list of 2, one for each index, or None"):
        ps.open_index(urls, model=model)


def test_each_index_is_named_once(urls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: Sequence[list[str]] = ([], [urls[0], urls[0]], [urls[0], "sqlite://./texts.db"])
    for each in names:
        with pytest.raises(UsageError, match="at least one, and each once"):
            ps.open_index(each, model=[TEXTS] * len(each))


def test_two_real_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts by a small BERT and images by a small CLIP, found by one search, and each by the model of its manifest."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import make_checkpoints

    monkeypatch.setenv("PENSTOCK_CACHE", str(tmp_path / "cache"))
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.md").write_text("A red circle.\n")
    for colour in ("red", "blue"):
        Image.new("RGB", (64, 64), colour).save(docs / f"{colour}.png")
    bert = str(make_checkpoints.make("bert", tmp_path / "bert"))
    models: Mapping[str, str] = {"texts": bert, "images": str(ROOT / "tests" / "data" / "shapes-clip")}
    urls = [f"memory://{tmp_path}/{name}" for name in models]
    filters: Sequence[dict[str, Any]] = ({"exclude": "*.png"}, {"include": "*.png"})
    for url, (name, model), options in zip(urls, models.items(), filters, strict=True):
        assert ps.ingest(docs, url, model=model, state=tmp_path / f"{name}.db", **options).ok
    with ps.open_index(urls) as index:
        hits = index.search("a red circle", k=3)
        assert [Path(hit.chunk.uri).name for hit in hits][:2] == ["a.md", "red.png"]
        assert hits.sources == [urls[0], urls[1], urls[1]]
        alike = index.search(docs / "blue.png", k=1)
        assert (Path(alike[0].chunk.uri).name, list(alike.skipped)) == ("blue.png", urls[:1])
        long = index.search("a red circle " * 40)
        assert list(long.skipped) == urls[1:]
    for url in urls:
        forget(url)
