"""Chunkers cut blocks into pieces that an embedder takes whole."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import cast

from penstock.chunkers.fitted import Fitted
from penstock.chunkers.functions import FunctionChunker, function_spec
from penstock.chunkers.sizes import CUTTING, Chunking, parse_chunking, within
from penstock.chunkers.text import TextChunker
from penstock.core.contracts import Chunker, Tokenizer
from penstock.support.code_fingerprint import code_fingerprint

Splitter = Callable[[str], Iterable[str]]
ChunkSpec = str | int | Chunker | Splitter | None

TOKENS = Chunking(256, "tokens")
CHARACTERS = Chunking(1000, "characters")
"""The defaults: by tokens if the model has a tokenizer, else by characters."""


def bind(chunk: ChunkSpec, tokenizer: Tokenizer | None) -> Chunker:
    """Bind a chunker to the model's tokenizer. Raises UsageError where chunks are sized in more tokens than it takes.

    The default size is cut down to what any model takes; a size that the user names, by an eighth at most (`within`).
    """
    if chunk is None and tokenizer is not None:
        return TextChunker(min(TOKENS.size, tokenizer.max_tokens), tokenizer=tokenizer)
    how = _chunking(chunk, tokenizer is not None)
    if how is not None and how.unit == "tokens":
        own = chunk.tokenizer if isinstance(chunk, TextChunker) else None
        tokenizer = own or tokenizer
        return TextChunker(*(within(how, tokenizer.max_tokens) if tokenizer else how), tokenizer=tokenizer)
    if how is not None:
        return TextChunker(*how, tokenizer=tokenizer)
    chunker = FunctionChunker(cast(Splitter, chunk)) if inspect.isroutine(chunk) else cast(Chunker, chunk)
    return Fitted(chunker, tokenizer) if tokenizer is not None else chunker


def spec(chunk: ChunkSpec, *, tokens: bool) -> str:
    """The chunking that is kept with an index, known before there is a tokenizer. `tokens`: the model has one.

    It says the size that was asked for: `256 tokens` also where the model takes a few less."""
    how = _chunking(chunk, tokens)
    if how is not None:
        return str(how)
    own = cast(Chunker, chunk)
    return str(getattr(own, "spec", None) or function_spec(own, code_fingerprint(own)))


def cutting(chunk: ChunkSpec) -> str | None:
    """The version of our way of cutting; None for a chunker of the user's own."""
    return None if _chunking(chunk, tokens=True) is None else CUTTING


def uncompared(chunk: ChunkSpec) -> Sequence[str]:
    """What a chunker of the user's own uses that may change without another `spec`."""
    if _chunking(chunk, tokens=True) is not None or getattr(chunk, "spec", None):
        return ()
    return code_fingerprint(cast(Chunker, chunk)).uncompared


def longest(chunk: ChunkSpec, *, tokens: bool) -> int | None:
    """The most UTF-8 bytes of a chunk, where chunks are sized in characters: a token may have any number."""
    how = _chunking(chunk, tokens)
    return 4 * how.size if how is not None and how.unit == "characters" else None


def _chunking(chunk: ChunkSpec, tokens: bool) -> Chunking | None:
    """None for a chunker of the user's own."""
    if chunk is None:
        return TOKENS if tokens else CHARACTERS
    if isinstance(chunk, str | int):
        return parse_chunking(str(chunk))
    return chunk.chunking if isinstance(chunk, TextChunker) else None
