"""Sizes of chunks: in words, as a person types them, and for what a model takes."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from penstock.core.errors import UsageError

Unit = Literal["tokens", "characters"]
SMALLEST = 8
CUTTING = "2"
"""To be raised when text is cut at other places for the same size: then documents are read and cut again."""


class Chunking(NamedTuple):
    """Size, unit and overlap of chunks: the first arguments of a TextChunker."""

    size: int = 256
    unit: Unit = "tokens"
    overlap: int = 0

    def __str__(self) -> str:
        return f"{self.size} {self.unit}" + (f", overlap {self.overlap}" if self.overlap else "")


def parse_chunking(text: str) -> Chunking:
    """`256`, `256 tokens`, `1000 chars`, `256/32`, `1000/100 chars`, or what `TextChunker.spec` says."""
    match = re.fullmatch(
        r"(\d{1,9}+)(?:/(\d{1,9}+))?\s*(tokens|chars|characters)?(?:, overlap (\d{1,9}+))?", text.strip(), re.ASCII
    )
    if match is None or (match[2] and match[4]):
        raise UsageError(
            f"invalid chunk {text!r}: expected a size such as '256 tokens', '256/32' (overlap) or '1000 characters'"
        )
    unit: Unit = "characters" if (match[3] or "").startswith("char") else "tokens"
    return checked(Chunking(int(match[1]), unit, int(match[2] or match[4] or 0)))


def checked(how: Chunking) -> Chunking:
    if how.unit not in ("tokens", "characters"):
        raise UsageError(f"invalid unit {how.unit!r}: expected tokens or characters")
    if how.size < SMALLEST:
        raise UsageError(f"invalid chunk size {how.size}: expected at least {SMALLEST} {how.unit}")
    if not 0 <= how.overlap < how.size:
        raise UsageError(f"invalid overlap {how.overlap}: expected less than the chunk size, {how.size}")
    return how


def within(how: Chunking, limit: int) -> Chunking:
    """The chunking for a model that takes `limit` tokens. A size of up to an eighth more becomes the limit: people name
    the length a model is known for, and its special tokens and prompt are part of that. Raises UsageError beyond."""
    if how.unit != "tokens" or how.size <= limit:
        return how
    if how.size - limit > how.size // 8:
        raise UsageError(
            f"chunks of {how.size} tokens would be truncated: the model takes {limit}, besides its special tokens and"
            f" prompt. Choose {limit} tokens or less"
        )
    return Chunking(limit, "tokens", min(how.overlap, limit - 1))
