"""Vectors of texts and files in one call; models that stay loaded between calls."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock as ps
from penstock.core.errors import ParseError, SourceError, UsageError
from penstock.core.records import Chunk
from penstock.jobs import embed
from penstock.testing.embedders import HashingEmbedder

SHAPES = Path(__file__).parents[1] / "data" / "shapes-clip"


@pytest.fixture(autouse=True)
def unloaded() -> Iterator[None]:
    yield
    ps.unload_models()


class Counted(HashingEmbedder):
    """How many of its kind are open."""

    opened: list[Any] = []  # noqa: RUF012

    def open(self) -> None:
        if self not in self.opened:
            self.opened.append(self)

    def close(self) -> None:
        if self in self.opened:
            self.opened.remove(self)

    def query(self, texts: Any) -> Any:
        assert self in self.opened, "used while it is closed"
        return super().query(texts)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str | None]]:
    """The names of models that were made, each a Counted."""
    names: list[str | None] = []

    def make(name: str | None) -> Counted:
        names.append(name)
        return Counted()

    monkeypatch.setattr("penstock.embedders.names.from_name", make)
    ps.unload_models()
    Counted.opened.clear()
    yield names
    ps.unload_models()
    assert not Counted.opened


def test_texts_become_arrays(made: list[str | None]) -> None:
    one, several = ps.embed_query("a gate"), ps.embed_query(["a gate", "a sluice"])
    assert one.shape == (256,)
    assert several.shape == (2, 256)
    assert np.array_equal(one, several[0])
    assert one.dtype == np.float32
    assert ps.embed_query([]).shape == (0, 256)
    assert np.array_equal(ps.embed_documents("a gate"), ps.embed_documents(["a gate", "a sluice"])[0])
    assert ps.embed_documents(()).shape == (0, 256)


def test_a_named_model_is_loaded_once_and_two_are_kept(made: list[str | None]) -> None:
    for model in (None, None, "a", "a", None, "b", None, "a"):
        ps.embed_query("a gate", model)
    assert made == [None, "a", "b", "a"]
    assert len(Counted.opened) == 2
    ps.unload_models()
    assert not Counted.opened
    ps.embed_query("a gate")
    assert made[4:] == [None]


def test_a_folder_whose_files_were_replaced_is_another_model(made: list[str | None], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    ps.embed_query("a gate", str(folder))
    ps.embed_query("a gate", str(folder))
    assert len(made) == 1
    (folder / "config.json").write_text('{"other": 1}')
    ps.embed_query("a gate", str(folder))
    assert len(made) == 2
    ps.embed_query("a gate", f"int8:{folder}")
    (folder / "config.json").write_text("{}")
    ps.embed_query("a gate", f"int8:{folder}")
    assert len(made) == 4


def test_a_model_that_is_dropped_while_it_is_used_is_closed_afterwards(made: list[str | None], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("gates and sluices")
    points = ps.stream_file(tmp_path / "a.txt", "a")
    next(points)
    ps.unload_models()
    assert len(Counted.opened) == 1
    assert not list(points)
    assert not Counted.opened


def test_threads_share_one_model(made: list[str | None]) -> None:
    threads = [threading.Thread(target=ps.embed_query, args=("a gate",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert made == [None]


def test_an_embedder_of_ones_own_is_opened_and_stays_open() -> None:
    mine = Counted()
    try:
        assert ps.embed_query("a gate", mine).shape == (256,)
        assert ps.embed_documents(["a gate"], mine).shape == (1, 256)
        assert mine in Counted.opened
    finally:
        Counted.opened.clear()
    assert list(ps.embed_query("ab", lambda texts: [[len(text), 1.0] for text in texts])) == [2.0, 1.0]


def test_many_texts_come_back_in_order_in_batches_of_the_models_size() -> None:
    class Small(HashingEmbedder):
        batch_tokens, batch_rows = 40, 3
        batches: list[int] = []  # noqa: RUF012

        def embed(self, chunks: Any) -> Any:
            self.batches.append(len(chunks))
            assert sum(chunk.length for chunk in chunks) <= 40
            return super().embed(chunks)

    texts = [f"text {number} " + "word " * (number % 7) for number in range(50)]
    vectors = ps.embed_documents(texts, Small(workers=3))
    assert np.array_equal(vectors, np.stack([vector.values for vector in HashingEmbedder().query(texts)]))
    assert max(Small.batches) == 3


def test_a_file_becomes_chunks_with_vectors(tmp_path: Path) -> None:
    model = HashingEmbedder()
    path = tmp_path / "a.md"
    path.write_text("# Gates\n\nA gate holds water.\n\n# Sluices\n\nA sluice lets it go.\n")
    points = ps.embed_file(path, model, chunk="40 characters")
    assert [point.chunk.headings[-1] for point in points] == ["Gates", "Sluices"]
    assert all(point.uri == path.as_uri() for point in points)
    assert np.array_equal(points[0].vector, model.query([points[0].text])[0].values)
    index = f"memory://{tmp_path}"
    ps.Pipeline(path, into=index, model=model, chunk="40 characters", state=tmp_path / "a.db").run()
    found = ps.open_index(index, model=model).search("water", k=9)
    assert {hit.chunk.id for hit in found} == {point.id for point in points}


def test_a_large_file_is_embedded_as_it_is_read(tmp_path: Path) -> None:
    class Watched(HashingEmbedder):
        seen = 0

        def embed(self, chunks: Any) -> Any:
            Watched.seen += len(chunks)
            return super().embed(chunks)

    (tmp_path / "a.txt").write_text("\n".join(f"line {number} about gates and sluices" for number in range(50_000)))
    assert len(list(islice(ps.stream_file(tmp_path / "a.txt", Watched(), "200 characters"), 5))) == 5
    assert 5 <= Watched.seen <= 300


def test_an_image_is_embedded_by_a_model_of_images(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    from PIL import Image

    Image.new("RGB", (40, 40), "red").save(tmp_path / "red.png")
    (point,) = ps.embed_file(tmp_path / "red.png", SHAPES)
    colours = ps.embed_query(["a red square", "a blue circle"], SHAPES)
    assert colours[0] @ point.vector > colours[1] @ point.vector
    with pytest.raises(ParseError, match=r"red\.png: no parser for image/png: the model embeds no images"):
        ps.embed_file(tmp_path / "red.png", HashingEmbedder())


def test_the_default_model_refuses_what_it_would_truncate() -> None:
    vectors = ps.embed_documents(["a gate", "a sluice"])
    assert vectors.shape == (2, 384)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4)
    with pytest.raises(UsageError, match=r"text 1 \('word word.*has 5,000 tokens, and the model takes 254: divide it"):
        ps.embed_documents(["short", "word " * 5000])


@pytest.mark.parametrize(
    ("texts", "message"),
    [(7, "expected a text or a list of texts, not int"), (["a", 3], "text 1: expected a str"), (b"a", "not int")],
)
def test_what_is_no_text_is_refused(texts: Any, message: str) -> None:
    for function in (ps.embed_query, ps.embed_documents):
        with pytest.raises(UsageError, match=message):
            function(texts, HashingEmbedder())


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    model = HashingEmbedder()
    with pytest.raises(UsageError, match="is a folder: name a file, or embed the folder with a Pipeline"):
        ps.embed_file(tmp_path, model)
    with pytest.raises(SourceError, match=r"nowhere\.txt"):
        ps.embed_file(tmp_path / "nowhere.txt", model)
    (tmp_path / "a.bin").write_bytes(os.urandom(64) + b"\0" * 64)
    with pytest.raises(ParseError, match=r"a\.bin: a binary file"):
        ps.embed_file(tmp_path / "a.bin", model)
    with pytest.raises(UsageError, match=r"stream_file: invalid chunk 3\.5"):
        ps.embed_file(tmp_path / "a.bin", model, chunk=3.5)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"one dense vector a text, but one .*, two"):
        ps.embed_query("a gate", {"one": model, "two": model})


def test_a_part_that_cannot_be_read_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("gates")

    def parse(stream: Any, item: Any) -> Iterator[Any]:
        yield ps.Block("a gate")
        yield ps.Gap("damaged", page=2)

    monkeypatch.setattr("penstock.parsers.text.parse", parse)
    with pytest.warns(UserWarning, match=r"a\.txt, page 2 could not be read: damaged"):
        points = ps.embed_file(tmp_path / "a.txt", HashingEmbedder())
    assert [point.text for point in points] == ["a gate"]


def test_chunks_of_one_call_are_all_embedded() -> None:
    """An error of one batch is raised, whichever thread it befell."""

    class Broken(HashingEmbedder):
        batch_rows = 1

        def embed(self, chunks: Any) -> Any:
            if chunks[0].text == "bad":
                raise ValueError("mine")
            return super().embed(chunks)

    from penstock.embedders.named import Named

    chunks = [Chunk(f"{n:032x}", "text", n, "bad" if n == 7 else "good", (0, 4)) for n in range(20)]
    with pytest.raises(ValueError, match="mine"):
        embed.embed(Named(Broken(workers=4)), chunks)
