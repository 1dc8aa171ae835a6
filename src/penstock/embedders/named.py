"""Embedders under names: what the engine runs, whether there is one or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from penstock.core.contracts import Embedder, ImageQueries, MultiEmbedder, Tokenizer
from penstock.core.errors import UsageError
from penstock.core.records import VECTOR, Chunk, Vector
from penstock.core.schema import VectorSpec


class Named(MultiEmbedder):
    """Several embedders, each for the vectors of one name. One alone makes the vectors named `vector`.

    The chunks are cut by the first one's tokenizer, so it should be of the model that takes the fewest tokens.
    """

    def __init__(self, embedders: Mapping[str, Embedder] | Embedder) -> None:
        self.embedders = {VECTOR: embedders} if isinstance(embedders, Embedder) else dict(embedders)
        if not self.embedders:
            raise UsageError("at least one embedder is needed")
        members = list(self.embedders.values())
        self.embeds_images = all(one.embeds_images for one in members)
        self.has_tokenizer = members[0].has_tokenizer
        self.workers = min(one.workers for one in members)
        self.batch_tokens = min(one.batch_tokens for one in members)
        self.batch_rows = min(one.batch_rows for one in members)

    def __repr__(self) -> str:
        if self.embedders.keys() == {VECTOR}:
            return repr(self.embedders[VECTOR])
        return f"Named({self.embedders!r})"

    def describe(self) -> Mapping[str, VectorSpec]:
        return {name: embedder.describe() for name, embedder in self.embedders.items()}

    def open(self) -> None:
        for embedder in self.embedders.values():
            embedder.open()

    def close(self) -> None:
        for embedder in self.embedders.values():
            embedder.close()

    def interrupt(self) -> None:
        for embedder in self.embedders.values():
            embedder.interrupt()

    @property
    def tokenizer(self) -> Tokenizer | None:
        return next(iter(self.embedders.values())).tokenizer

    @property
    def uncompared(self) -> Sequence[str]:
        return [one for embedder in self.embedders.values() for one in embedder.uncompared]

    def embed(self, chunks: Sequence[Chunk]) -> Mapping[str, Sequence[Vector]]:
        return {name: embedder.embed(chunks) for name, embedder in self.embedders.items()}

    def query(self, texts: Sequence[str], using: str) -> Sequence[Vector]:
        return self.embedders[using].query(texts)


def named(embedder: Embedder | MultiEmbedder) -> MultiEmbedder:
    return embedder if isinstance(embedder, MultiEmbedder) else Named(embedder)


def image_queries(embedder: MultiEmbedder, name: str) -> ImageQueries | None:
    """The embedder that takes images as questions for vectors of that name, if it does."""
    one: object = embedder.embedders[name] if isinstance(embedder, Named) else embedder
    return one if isinstance(one, ImageQueries) else None
