"""Any chunker's pieces, none longer than the model takes: code has more tokens than prose of the same length."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice

from penstock.chunkers.text import TextChunker
from penstock.core.contracts import Chunker, Tokenizer
from penstock.core.records import Block, Piece


class Fitted:
    """Counts the tokens of another chunker's pieces, hands their ids on, and divides what is too long.

    Of `pieces` so far, in all threads, `shortened` were too long: their chunks are smaller than was asked for.
    """

    def __init__(self, chunker: Chunker, tokenizer: Tokenizer) -> None:
        self.chunker, self.tokenizer = chunker, tokenizer
        self.pieces = self.shortened = 0
        self._lock = threading.Lock()
        self._divide = TextChunker(tokenizer.max_tokens, tokenizer=tokenizer)

    def __call__(self, blocks: Iterable[Block]) -> Iterator[Piece]:
        pieces = iter(self.chunker(blocks))
        while batch := list(islice(pieces, 64)):
            rows = self.tokenizer.encode([piece.text for piece in batch])
            with self._lock:
                self.pieces += len(batch)
            for piece, row in zip(batch, rows, strict=True):
                if len(row) <= self.tokenizer.max_tokens:
                    yield replace(piece, tokens=array("i", row))
                else:
                    with self._lock:
                        self.shortened += 1
                    yield from self._parts(piece)

    def _parts(self, piece: Piece) -> Iterator[Piece]:
        for part in self._divide([Block(piece.text, piece.image, piece.page, piece.headings, metadata=piece.metadata)]):
            start, end = part.span
            yield replace(part, span=(piece.span[0] + start, piece.span[0] + end))
