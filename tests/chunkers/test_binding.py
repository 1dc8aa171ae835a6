"""Chunkers bound to a model: words, functions and objects, and nothing longer than the model takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock import Pipeline
from penstock.chunkers import bind, spec
from penstock.chunkers.fitted import Fitted
from penstock.chunkers.text import TextChunker
from penstock.core.errors import UsageError
from penstock.core.records import Block
from penstock.testing.embedders import NothingEmbedder


class Letters:
    """A tokenizer in which every character is a token."""

    max_tokens = 20
    additive = True

    def encode(self, texts: list[str]) -> list[list[int]]:
        return [[ord(character) for character in text if not character.isspace()] for text in texts]


TEXT = "One sentence stands here. Another one follows it. " * 6


@pytest.mark.parametrize(
    "chunk", ["100 characters", lambda text: [text[:90], text[40:]], TextChunker(80, "characters")]
)
def test_pieces_too_long_for_the_model_are_divided(chunk: object) -> None:
    pieces = list(bind(chunk, Letters())([Block(TEXT[:100]), Block(TEXT[100:])]))  # type: ignore[arg-type]
    assert len(pieces) > 10
    for piece in pieces:
        assert TEXT[slice(*piece.span)] == piece.text
        assert list(piece.tokens or ()) == Letters().encode([piece.text])[0]
        assert len(piece.tokens or ()) <= 20


def test_a_splitter_of_another_library_is_a_chunker() -> None:
    class Splitter:
        def split_text(self, text: str) -> list[str]:
            return text.split(". ")

    pieces = list(bind(Splitter().split_text, None)([Block("a. b"), Block(". a. c", page=2)]))
    assert [(piece.text, piece.span, piece.page) for piece in pieces] == [
        ("a", (0, 1), None),
        ("b", (3, 4), None),
        ("a", (6, 7), 2),
        ("c", (9, 10), 2),
    ]
    assert "split_text (code " in spec(Splitter().split_text, tokens=True)


def test_the_default_follows_the_model() -> None:
    assert spec(None, tokens=True) == "256 tokens"
    assert spec(None, tokens=False) == "1000 characters"
    assert bind(None, Letters()).chunking.size == 20  # type: ignore[attr-defined]


@pytest.mark.parametrize("chunk", ["22 tokens", "22", 22, TextChunker(22), "22/21"])
def test_a_size_a_little_over_the_models_is_the_models(chunk: object) -> None:
    """As the default is: people name the length that a model is known for, special tokens included."""
    bound = bind(chunk, Letters())  # type: ignore[arg-type]
    assert isinstance(bound, TextChunker)
    assert bound.chunking.size == 20
    assert bound.chunking.overlap < 20
    assert spec(chunk, tokens=True).startswith("22 tokens")  # type: ignore[arg-type]
    assert max(len(piece.tokens or ()) for piece in bound([Block(TEXT)])) <= 20


def test_typing_the_default_is_the_default() -> None:
    class Model(Letters):
        max_tokens = 254

    typed, default = bind("256 tokens", Model()), bind(None, Model())
    assert typed.chunking == default.chunking  # type: ignore[attr-defined]
    assert spec("256 tokens", tokens=True) == spec(None, tokens=True)


@pytest.mark.parametrize("chunk", ["40 tokens", "23 tokens", TextChunker(512)])
def test_a_size_far_over_the_models_is_refused(chunk: object) -> None:
    with pytest.raises(UsageError, match=r"the model takes 20,.* Choose 20 tokens or less"):
        bind(chunk, Letters())  # type: ignore[arg-type]


@pytest.mark.parametrize("chunk", ["100 characters", lambda text: [text]])
def test_pieces_that_are_shorter_than_asked_for_are_counted(chunk: object) -> None:
    chunker = bind(chunk, Letters())  # type: ignore[arg-type]
    assert isinstance(chunker, Fitted | TextChunker)
    assert chunker.shortened == 0
    pieces = list(chunker([Block("short. ", unit=True), Block(TEXT[:90], unit=True), Block(TEXT[:90], unit=True)]))
    assert len(pieces) > 5
    assert 2 <= chunker.shortened < chunker.pieces


def test_a_size_that_is_refused_leaves_no_index_behind(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text(TEXT)
    model = NothingEmbedder(tokenizer=Letters())
    index = tmp_path / "index"
    pipeline = Pipeline(
        tmp_path / "docs", into=f"sqlite://{index}", model=model, chunk="40 tokens", state=tmp_path / "ledger.db"
    )
    with pytest.raises(Exception, match="the model takes 20"):
        pipeline.run()
    assert not index.exists()
