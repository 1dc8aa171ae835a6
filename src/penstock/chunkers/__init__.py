"""Chunkers cut blocks into pieces that an embedder takes whole."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import cast

from penstock.chunkers.fitted import Fitted
from penstock.chunkers.functions import FunctionChunker
from penstock.chunkers.text import Chunking, TextChunker, parse_chunking
from penstock.core.contracts import Chunker, Tokenizer

Splitter = Callable[[str], Iterable[str]]
ChunkSpec = str | int | Chunker | Splitter | None

TOKENS = Chunking(256, "tokens")
CHARACTERS = Chunking(1000, "characters")
"""What is chosen where nothing is said: by tokens if the model's tokenizer is at hand, else by characters."""


def bind(chunk: ChunkSpec, tokenizer: Tokenizer | None) -> Chunker:
    """The chunker that is meant, with the model's tokenizer. UsageError if the model can't take its chunks whole."""
    if chunk is None and tokenizer is not None:
        # A model that takes a little less than the default is no mistake of the user's.
        return TextChunker(min(TOKENS.size, tokenizer.max_tokens), tokenizer=tokenizer)
    how = _chunking(chunk, tokenizer is not None)
    if how is not None and how.unit == "tokens":
        own = chunk.tokenizer if isinstance(chunk, TextChunker) else None
        return TextChunker(*how, tokenizer=own or tokenizer)
    chunker: Chunker
    if how is not None:
        chunker = TextChunker(*how)
    else:
        chunker = FunctionChunker(cast(Splitter, chunk)) if inspect.isroutine(chunk) else cast(Chunker, chunk)
    return Fitted(chunker, tokenizer) if tokenizer is not None else chunker


def spec(chunk: ChunkSpec, *, tokens: bool) -> str:
    """What will cut the chunks, in words, before there is a tokenizer. `tokens`: there will be one."""
    how = _chunking(chunk, tokens)
    if how is not None:
        return str(how)
    said = getattr(chunk, "spec", None) or getattr(chunk, "__qualname__", None) or type(chunk).__qualname__
    return str(said)


def longest(chunk: ChunkSpec, *, tokens: bool) -> int | None:
    """The UTF-8 bytes that a chunk may have, where that is known beforehand: a token may have any number."""
    how = _chunking(chunk, tokens)
    return 4 * how.size if how is not None and how.unit == "characters" else None


def _chunking(chunk: ChunkSpec, tokens: bool) -> Chunking | None:
    """None for a chunker of the user's own."""
    if chunk is None:
        return TOKENS if tokens else CHARACTERS
    if isinstance(chunk, str | int):
        return parse_chunking(str(chunk))
    return chunk.chunking if isinstance(chunk, TextChunker) else None
