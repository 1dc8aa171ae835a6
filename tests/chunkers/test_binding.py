"""Chunkers bound to a model: words, functions and objects, and nothing longer than the model takes."""

from __future__ import annotations

import pytest

from penstock.chunkers import bind, spec
from penstock.chunkers.text import TextChunker
from penstock.core.records import Block


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
    assert spec(Splitter().split_text, tokens=True).endswith("split_text")


def test_the_default_follows_the_model() -> None:
    assert spec(None, tokens=True) == "256 tokens"
    assert spec(None, tokens=False) == "1000 characters"
    assert bind(None, Letters()).chunking.size == 20  # type: ignore[attr-defined]
