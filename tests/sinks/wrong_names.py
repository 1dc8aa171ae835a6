"""Sinks and indexes that break a promise on named vectors: for test_suite_itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from penstock.core.errors import SinkError
from penstock.core.records import VECTOR, Hit, Point
from penstock.core.schema import Manifest
from penstock.sinks.memory import MemoryIndex, MemorySink, scores


class MixesNamesUp(MemorySink):
    """... and gives each vector back under another name."""

    def fetch(self, ids: Sequence[str]) -> Sequence[Point]:
        return [
            Point(p.chunk, dict(zip(p.vectors, reversed(list(p.vectors.values())), strict=True)))
            for p in super().fetch(ids)
        ]


class KeepsOneOfSeveral(MemorySink):
    """... and drops the others without a word."""

    def fetch(self, ids: Sequence[str]) -> Sequence[Point]:
        return [Point(p.chunk, dict(list(p.vectors.items())[:1])) for p in super().fetch(ids)]


class TakesOtherNames(MemorySink):
    """... of points than those of its schema."""

    def write(self, points: Sequence[Point]) -> None:
        missing = [(p, self._manifest.schema.vectors.keys() - p.vectors.keys()) for p in points]
        super().write([p for p, names in missing if not names and len(p.vectors) == 2])


class LooksAtTheFirstSpace(MemorySink):
    """... only, when it compares schemas."""

    def open(self, manifest: Manifest) -> None:
        kept = self.manifest()
        name = next(iter(kept.schema.vectors)) if kept else ""
        other = manifest.schema.vectors.get(name)
        if kept is None or other is None or not kept.schema.vectors[name].same_space(other):
            super().open(manifest)


class WantsTheirOrder(MemorySink):
    """... of the names, to be that of the schema."""

    def write(self, points: Sequence[Point]) -> None:
        if any(list(p.vectors) != list(self._manifest.schema.vectors) for p in points):
            raise SinkError("wrong order")
        super().write(points)


class SortsNames(MemorySink):
    """... in the manifest that it keeps."""

    def manifest(self) -> Manifest | None:
        if (kept := super().manifest()) is None:
            return None
        vectors = dict(sorted(kept.schema.vectors.items()))
        return replace(kept, schema=replace(kept.schema, vectors=vectors))


class CallsAllVector(MemorySink):
    """... whatever its name is, where there is one."""

    def fetch(self, ids: Sequence[str]) -> Sequence[Point]:
        return [Point(p.chunk, {VECTOR: next(iter(p.vectors.values()))}) for p in super().fetch(ids)]


class OneVector(MemorySink):
    """Right, and of one vector a point."""

    named = False


class TakesTheFirst(MemorySink):
    """... vector of several, though it holds one a point."""

    named = False

    def open(self, manifest: Manifest) -> None:
        spec = next(iter(manifest.schema.vectors.values()))
        super().open(replace(manifest, schema=replace(manifest.schema, vectors={VECTOR: spec})))


class KeepsBeforeItRefuses(MemorySink):
    """... what it is opened with."""

    named = False

    def open(self, manifest: Manifest) -> None:
        if self.manifest() is None:
            self._store.manifest = manifest
        super().open(manifest)


class IgnoresUsing(MemoryIndex):
    """... and searches the first vector that the query fits."""

    def search(self, vector: object, k: int = 10, where: object = None, *, using: str | None = None) -> list[Hit]:
        for name in self.manifest().schema.vectors:
            try:
                return super().search(vector, k, where, using=name)  # type: ignore[arg-type]
            except SinkError:
                continue
        raise SinkError("no such vector")


class TakesTheFirstName(MemoryIndex):
    """... where a search names none."""

    def search(self, vector: object, k: int = 10, where: object = None, *, using: str | None = None) -> list[Hit]:
        using = using or next(iter(self.manifest().schema.vectors))
        return super().search(vector, k, where, using=using)  # type: ignore[arg-type]


class SearchesTheOther(MemoryIndex):
    """... vector of the two, with that of the point that the query is nearest to."""

    def search(self, vector: object, k: int = 10, where: object = None, *, using: str | None = None) -> list[Hit]:
        hits = super().search(vector, k, where, using=using)  # type: ignore[arg-type]
        names = [name for name in self.manifest().schema.vectors if name != using]
        if using is None or not names or not hits:
            return hits
        (nearest,) = self.fetch([hits[0].chunk.id])
        return super().search(nearest.vectors[names[0]], k, where, using=names[0])  # type: ignore[arg-type]


class OneMetricForAll(MemoryIndex):
    """... names, namely the first one's."""

    def search(self, vector: object, k: int = 10, where: object = None, *, using: str | None = None) -> list[Hit]:
        hits = super().search(vector, 1000, where, using=using)  # type: ignore[arg-type]
        found = {p.id: p for p in self.fetch([hit.chunk.id for hit in hits])}
        spec = next(iter(self.manifest().schema.vectors.values()))
        values = [found[hit.chunk.id].vectors[using or VECTOR] for hit in hits]
        ranked = scores(vector, values, spec.metric)  # type: ignore[arg-type]
        return [Hit(float(ranked[i]), hits[i].chunk) for i in np.argsort(-ranked)[:k]]
