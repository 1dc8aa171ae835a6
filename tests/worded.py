"""An index in memory whose full text can be watched, or taken away; and a model of vectors of each kind."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar
from zlib import crc32

import numpy as np

from penstock.core.contracts import MultiEmbedder
from penstock.core.records import Chunk, Hit, MultiVector, Sparse, Vector
from penstock.core.schema import VectorSpec
from penstock.sinks.memory import MemoryIndex
from penstock.testing.embedders import HashingEmbedder


class WordsIndex(MemoryIndex):
    """A chunk is ranked by how many of its words are in the text, those of equal ones in the order of the store."""

    finds_words = True

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.asked: list[tuple[str, int]] = []
        """Legs that were asked, and for how many hits."""

    def search(
        self, vector: Vector, k: int = 10, where: Mapping[str, Any] | None = None, *, using: str | None = None
    ) -> list[Hit]:
        self.asked.append((using or "", k))
        return super().search(vector, k, where, using=using)

    def search_words(self, text: str, k: int = 10, where: Mapping[str, Any] | None = None) -> list[Hit]:
        self.asked.append(("words", k))
        wanted = words_in(text)
        found = [Hit(float(len(wanted & words_in(one.text))), one.chunk) for one in self._passing(where)]
        return sorted((hit for hit in found if hit.score), key=lambda hit: -hit.score)[:k]


def words_in(text: str) -> set[str]:
    """The words of a text, but for those that do not count."""
    return {*re.findall(r"[\w-]*\w", text.lower())} - {"the", "of"}


class Several(MultiEmbedder):
    """A vector of each kind."""

    KINDS: ClassVar = {"dense": ("Dense", "cosine"), "sparse": ("Sparse", "dot"), "late": ("MultiVector", "cosine")}

    def describe(self) -> dict[str, VectorSpec]:
        return {
            name: VectorSpec("several", 1 << 16 if kind == "Sparse" else 16, name, kind, metric)
            for name, (kind, metric) in self.KINDS.items()
        }

    def embed(self, chunks: Sequence[Chunk]) -> dict[str, Sequence[Vector]]:
        return {name: self.query([one.text for one in chunks], name) for name in self.KINDS}

    def query(self, texts: Sequence[str], using: str) -> list[Vector]:
        hashing = HashingEmbedder(16)
        if using == "dense":
            return list(hashing.query(texts))
        if using == "late":
            return [MultiVector(np.stack([one.values for one in hashing.query(text.split())])) for text in texts]
        words = [sorted({crc32(word.encode()) % 65536 for word in words_in(text)}) for text in texts]
        return [Sparse(np.array(one, np.int32), np.ones(len(one), np.float32)) for one in words]
