"""Models for tests and benchmarks: an embedder that does nothing, as fast as possible, one whose search makes sense, a
reranker."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING
from zlib import crc32

from penstock.core.contracts import Embedder, Reranker, Tokenizer
from penstock.core.records import Chunk, Dense
from penstock.core.schema import VectorSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ROWS = 1024
_WORD = re.compile(r"\w+")


class NothingEmbedder(Embedder):
    """Looks each vector up by the chunk's id: what a pipeline costs without a model.

    The vector depends on the chunk's id alone; a query's on its text. `tokenizer` is handed to the chunker.
    """

    batch_tokens = 1 << 16
    batch_rows = 1024

    def __init__(self, dim: int = 384, tokenizer: Tokenizer | None = None, workers: int = 1) -> None:
        self.dim = dim
        self.workers = workers
        self._tokenizer = tokenizer
        self.has_tokenizer = tokenizer is not None
        self._vectors: list[Dense] = []

    @property
    def tokenizer(self) -> Tokenizer | None:
        return self._tokenizer

    def describe(self) -> VectorSpec:
        return VectorSpec(model="nothing", dim=self.dim, fingerprint=f"nothing-{self.dim}")

    def open(self) -> None:
        if self._vectors:
            return
        import numpy as np

        table = np.random.default_rng(0).standard_normal((_ROWS, self.dim), np.float32)
        table /= np.linalg.norm(table, axis=1, keepdims=True)
        self._vectors = [Dense(row) for row in table]

    def close(self) -> None:
        self._vectors = []

    def embed(self, chunks: Sequence[Chunk]) -> list[Dense]:
        vectors = self._vectors
        return [vectors[crc32(chunk.id.encode()) % _ROWS] for chunk in chunks]

    def query(self, texts: Sequence[str]) -> list[Dense]:
        return [self._vectors[crc32(text.encode()) % _ROWS] for text in texts]


class HashingEmbedder(Embedder):
    """Counts words into hashed places with hashed signs: texts that share words are near each other.

    Deterministic, in every process and on every platform.
    """

    batch_tokens = 1 << 14

    def __init__(self, dim: int = 256, workers: int = 1) -> None:
        self.dim = dim
        self.workers = workers

    def describe(self) -> VectorSpec:
        return VectorSpec(model="hashing", dim=self.dim, fingerprint=f"hashing-{self.dim}")

    def embed(self, chunks: Sequence[Chunk]) -> list[Dense]:
        return self.query([chunk.text for chunk in chunks])

    def query(self, texts: Sequence[str]) -> list[Dense]:
        return [Dense(self._vector(text)) for text in texts]

    def _vector(self, text: str) -> NDArray[np.float32]:
        import numpy as np

        values = np.zeros(self.dim, np.float32)
        # Stores refuse a zero vector for cosine: a text without words is the word "".
        for word in _WORD.findall(text.lower()) or [""]:
            number = crc32(word.encode("utf-8", "surrogatepass"))
            values[(number >> 1) % self.dim] += 1.0 if number & 1 else -1.0
        norm = float(np.linalg.norm(values))
        if norm == 0.0:  # Two words may cancel each other out.
            values[0] = norm = 1.0
        return values / np.float32(norm)


class OtherEmbedder(HashingEmbedder):
    """The same in another space of as many dimensions: a search must not mix it up with the first."""

    def describe(self) -> VectorSpec:
        return VectorSpec(model="other", dim=self.dim, fingerprint="other")

    def query(self, texts: Sequence[str]) -> list[Dense]:
        return [Dense(-vector.values[::-1].copy()) for vector in super().query(texts)]


class OverlapReranker(Reranker):
    """Scores a text by the share of its words that the question has."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []
        """Questions, and how many texts were scored for each."""
        self.opened = 0

    def open(self) -> None:
        self.opened += 1

    def describe(self) -> str:
        return "overlap"

    def score(self, question: str, texts: Sequence[str]) -> list[float]:
        self.asked.append((question, len(texts)))
        wanted, several = {*_WORD.findall(question.lower())}, [_WORD.findall(text.lower()) for text in texts]
        return [sum(word in wanted for word in words) / max(1, len(words)) for words in several]
