"""Chunkers cut blocks into pieces that an embedder takes whole."""

from __future__ import annotations

from penstock.chunkers.text import Chunking, TextChunker, parse_chunking
from penstock.contracts import Chunker, Tokenizer

TOKENS = Chunking(256, "tokens")
CHARACTERS = Chunking(1000, "characters")
"""What is chosen where nothing is said: by tokens if the model's tokenizer is at hand, else by characters."""


def bind(chunk: str | int | Chunker | None, tokenizer: Tokenizer | None) -> Chunker:
    """The chunker that is meant, with the model's tokenizer. UsageError if the model would not take its chunks whole."""
    if chunk is None and tokenizer is not None:
        # A model that takes a little less than the default is no mistake of the user's.
        return TextChunker(min(TOKENS.size, tokenizer.max_tokens), tokenizer=tokenizer)
    how = _chunking(chunk, tokenizer is not None)
    if how is None:
        assert callable(chunk)
        return chunk
    own = chunk.tokenizer if isinstance(chunk, TextChunker) else None
    return TextChunker(*how, tokenizer=own or tokenizer)


def spec(chunk: str | int | Chunker | None, *, tokens: bool) -> str:
    """What will cut the chunks, in words, before there is a tokenizer. `tokens`: there will be one."""
    how = _chunking(chunk, tokens)
    if how is not None:
        return str(how)
    said = getattr(chunk, "spec", None) or getattr(chunk, "__qualname__", None) or type(chunk).__qualname__
    return str(said)


def _chunking(chunk: str | int | Chunker | None, tokens: bool) -> Chunking | None:
    """None for a chunker of the user's own."""
    if chunk is None:
        return TOKENS if tokens else CHARACTERS
    if isinstance(chunk, str | int):
        return parse_chunking(str(chunk))
    return chunk.chunking if isinstance(chunk, TextChunker) else None
