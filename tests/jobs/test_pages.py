"""What a search in Python can ask for: pages, distinct hits, a least score, types, vectors, images, several at once."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import penstock as ps
from penstock.core.errors import UsageError
from penstock.core.records import VECTOR, Chunk, Dense, Hit, Point
from penstock.core.schema import Manifest, single
from penstock.jobs.search import Hits, OpenIndex
from penstock.sinks.memory import MemorySink
from penstock.sinks.sqlite import SqliteIndex
from penstock.testing.embedders import HashingEmbedder


class Model(HashingEmbedder):
    """Counts its calls; an image is the word for its colour."""

    def __init__(self) -> None:
        super().__init__(64)
        self.calls: list[int] = []

    def query(self, texts: Sequence[str]) -> list[Dense]:
        self.calls.append(len(texts))
        return super().query(texts)

    def query_images(self, pictures: Sequence[bytes]) -> list[Dense]:
        self.calls.append(len(pictures))
        pixels: list[Any] = [Image.open(io.BytesIO(one)).getpixel((0, 0)) for one in pictures]
        return super().query(["red" if pixel[0] > 128 else "blue" for pixel in pixels])


TEXTS = [f"text number {n}" for n in range(20)] + ["a boat"] * 3 + ["red", "blue"]


def chunk(number: int, text: str) -> Chunk:
    image = b"" if text in ("red", "blue") else None
    return Chunk(f"{number:032x}", f"doc:{number}", 0, text, (0, len(text)), image=image)


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def index(tmp_path: Path, model: Model) -> Iterator[OpenIndex]:
    url = f"memory://{tmp_path}"
    chunks = [chunk(number, text) for number, text in enumerate(TEXTS)]
    with MemorySink(url) as sink:
        sink.open(Manifest(single(model.describe())))
        vectors = model.embed(chunks)
        sink.write([Point(one, {VECTOR: vector}) for one, vector in zip(chunks, vectors, strict=True)])
    with ps.open_index(url, model=model) as index:
        yield index


def uris(hits: Sequence[Hit]) -> list[str]:
    return [hit.chunk.uri for hit in hits]


def test_pages_have_every_hit_once_and_in_order(index: OpenIndex) -> None:
    pages = [index.search("text number 3", k=10)]
    while pages[-1].cursor is not None:
        pages.append(index.search("text number 3", k=10, cursor=pages[-1].cursor))
    assert [len(page) for page in pages] == [10, 10, 5]
    assert [uri for page in pages for uri in uris(page)] == uris(index.search("text number 3", k=100))
    assert isinstance(pages[0], list)
    assert pages[0] == list(pages[0])
    assert index.search("text number 3", k=25).cursor is None


def test_a_cursor_belongs_to_its_query(index: OpenIndex) -> None:
    cursor = index.search("text", k=3).cursor
    assert index.search("text", k=5, cursor=cursor)
    for query, options in (("other", {}), ("text", {"distinct": True}), ("text", {"threshold": 0.1})):
        with pytest.raises(UsageError, match="another query"):
            index.search(query, cursor=cursor, **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="invalid"):
        index.search("text", cursor="nothing")
    with pytest.raises(UsageError, match="one query"):
        index.search(["text"], cursor=cursor)


def test_distinct_hits_say_for_how_many_they_stand(index: OpenIndex) -> None:
    assert index.search("a boat", k=3).stands_for == [1, 1, 1]
    hits = index.search("a boat", k=3, distinct=True)
    assert [hit.chunk.text for hit in hits].count("a boat") == 1
    assert hits.stands_for == [3, 1, 1]


def test_the_least_score(index: OpenIndex) -> None:
    hits = index.search("a boat", k=25, threshold=0.99)
    assert uris(hits) == ["doc:20", "doc:21", "doc:22"]
    assert hits.cursor is None
    assert index.search("a boat", k=25, threshold=1.5) == []


def test_types_are_found_however_far_they_are(index: OpenIndex) -> None:
    """More are fetched until there are enough."""
    images = index.search("text number 3", k=2, types=["image"])
    assert sorted(uris(images)) == ["doc:23", "doc:24"]
    assert images.cursor is None
    texts = index.search("red", k=25, types=["text"])
    assert len(texts) == 23
    assert "doc:23" not in uris(texts)
    assert len(index.search("red", k=25, types=["text", "image"])) == 25
    first = index.search("red", k=1, types=["image"])
    assert uris(index.search("red", k=1, types=["image"], cursor=first.cursor)) == ["doc:24"]
    with pytest.raises(UsageError, match="unknown type 'video': expected one of text, image"):
        index.search("red", types=["video"])


def test_a_vector_of_the_same_space(index: OpenIndex, model: Model) -> None:
    vector = model.query(["text number 7"])[0]
    by_text = index.search("text number 7", k=4)
    assert index.search(vector, k=4) == index.search(vector.values, k=4) == by_text
    model.calls.clear()
    assert index.search(np.asarray(vector.values, np.float64), k=4) == by_text
    assert model.calls == []
    for wrong, says in (
        (np.ones(3), "expected 64 dimensions, got 3"),
        (np.zeros(64), "zero"),
        (np.ones((2, 2)), "array of"),
    ):
        with pytest.raises(UsageError, match=says):
            index.search(wrong)
    with pytest.raises(UsageError, match="expected a text, an image"):
        index.search(3)  # type: ignore[call-overload]


def test_an_image_by_its_bytes_and_by_its_path(index: OpenIndex, tmp_path: Path) -> None:
    out = io.BytesIO()
    Image.new("RGB", (4, 4), (255, 0, 0)).save(out, "PNG")
    (tmp_path / "one.png").write_bytes(out.getvalue())
    for query in (out.getvalue(), tmp_path / "one.png"):
        assert uris(index.search(query, k=1)) == ["doc:23"]
        assert uris(index.search_image(query, k=1)) == ["doc:23"]
    with pytest.raises(UsageError, match="cannot be read"):
        index.search(tmp_path / "none.png")
    with pytest.raises(UsageError, match="empty"):
        index.search(b"")


def test_several_are_embedded_at_once(index: OpenIndex, model: Model) -> None:
    out = io.BytesIO()
    Image.new("RGB", (4, 4), (0, 0, 255)).save(out, "PNG")
    vector = model.query(["a boat"])[0]
    model.calls.clear()
    answers = index.search(["text number 1", out.getvalue(), "text number 2", vector], k=2)
    assert model.calls == [2, 1]
    assert [type(one) for one in answers] == [Hits] * 4
    assert [uris(one)[0] for one in answers] == ["doc:1", "doc:24", "doc:2", "doc:20"]
    assert answers[0] == index.search("text number 1", k=2)
    assert index.search([]) == []


def test_highlights_are_where_the_words_stand(index: OpenIndex) -> None:
    hits = index.search("numbers of text", k=1)
    text = hits[0].chunk.text
    assert [text[start:end] for start, end in hits.highlights[0]] == ["text"]
    hits = index.search("Number 4", k=1, where={"uri": "doc:4"})
    assert [hits[0].chunk.text[start:end] for start, end in hits.highlights[0]] == ["number"]
    assert index.search(np.ones(64), k=1).highlights == [[]]


def test_an_option_that_there_is_not_is_an_error(index: OpenIndex) -> None:
    with pytest.raises(TypeError, match="treshold"):
        index.search("a boat", treshold=0.3)  # type: ignore[call-overload]


def test_the_most_that_a_store_finds_at_once_is_no_error(tmp_path: Path, model: Model) -> None:
    """A page looks one hit further than it is long."""
    pytest.importorskip("sqlite_vec")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("a boat")
    url = f"sqlite://{tmp_path}/index.db"
    ps.Pipeline(tmp_path / "docs", into=url, model=model, state=tmp_path / "a.db").run()
    with ps.open_index(url, model=model) as index:
        assert SqliteIndex.max_k is not None
        assert len(index.search("a boat", k=SqliteIndex.max_k)) == 1
        with pytest.raises(UsageError, match="at most 4,096"):
            index.search("a boat", k=SqliteIndex.max_k + 1)
