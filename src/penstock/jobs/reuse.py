"""Vectors of a generation that the next one is made of as well: they are read back, and only the others are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import Lock

from penstock.core.contracts import Sink
from penstock.core.pieces import PieceSize
from penstock.core.records import Chunk, Reused, Vector
from penstock.core.schema import IndexSchema
from penstock.embedders.named import Named


def reused(old: IndexSchema, new: IndexSchema) -> dict[str, str]:
    """Of the new vectors those that the old index has, by name, and what they are called there: the same name or else
    another one of the same space. None where the chunks are cut in another way."""
    if old.chunking != new.chunking:
        return {}
    names = {}
    for name, spec in new.vectors.items():
        same = [one for one in (name, *old.vectors) if one in old.vectors and old.vectors[one].same_space(spec)]
        if same:
            names[name] = same[0]
    return names


class Reusing(Named):
    """Takes vectors from an index that is open, where it has the chunk, and makes the others."""

    def __init__(self, embedder: Named, index: Sink, names: Mapping[str, str], size: PieceSize) -> None:
        """`names`: of the vectors that are taken, and how the index calls them. `size`: of what is read from it."""
        super().__init__(embedder.embedders)
        self._index, self._names, self._size, self._lock = index, names, size, Lock()
        others = {name: one for name, one in embedder.embedders.items() if name not in names}
        self._all, self._others = embedder, Named(others) if others else None
        self.taken = dict.fromkeys(names, 0)
        """Vectors that were taken, by name."""

    def embed(self, chunks: Sequence[Chunk]) -> Mapping[str, Sequence[Vector]]:
        stored = self._stored(chunks)
        here = [chunk for chunk in chunks if chunk.id in stored]
        new = [chunk for chunk in chunks if chunk.id not in stored]
        vectors: dict[str, dict[str, Vector]] = {name: {} for name in self.embedders}
        for name in self._names:
            vectors[name].update((chunk.id, stored[chunk.id][name]) for chunk in here)
        for embedder, some in ((self._others, here), (self._all, new)):
            if embedder is not None and some:
                for name, column in embedder.embed(some).items():
                    vectors[name].update(zip((chunk.id for chunk in some), column, strict=True))
        with self._lock:
            for name in self._names:
                self.taken[name] += len(here)
        found = 0 if self._others else len(here)
        return Reused({name: [one[chunk.id] for chunk in chunks] for name, one in vectors.items()}, found)

    def _stored(self, chunks: Sequence[Chunk]) -> Mapping[str, Mapping[str, Vector]]:
        """The vectors that are taken, of those chunks that the index has whole, as they are."""
        texts = {chunk.id: chunk.text for chunk in chunks}
        stored = {}
        for points in self._size.read(self._index.fetch, list(texts)):
            for point in points:
                if point.text == texts[point.id] and point.vectors.keys() >= set(self._names.values()):
                    stored[point.id] = {name: point.vectors[old] for name, old in self._names.items()}
        return stored
