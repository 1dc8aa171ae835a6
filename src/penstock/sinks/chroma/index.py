"""Searches a collection of Chroma."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from penstock.core import filters
from penstock.core.fields import Path, Scalar
from penstock.core.filters import Every, Filter, HasValue
from penstock.core.records import VECTOR, Dense, Hit, Point, Vector
from penstock.sinks import exact, facets
from penstock.sinks.chroma import points as encoding
from penstock.sinks.chroma.filters import keys, translate
from penstock.sinks.chroma.sink import ChromaStore
from penstock.sinks.chroma.wire import Collection
from penstock.sinks.collection import CollectionIndex, Target, closed_on_error


class ChromaIndex(ChromaStore, CollectionIndex[Collection]):
    """Asks Chroma's HNSW index; where that finds fewer than there are, or cannot filter so, it compares with all."""

    def open(self) -> None:
        kept = self._found()  # before a lock is put into a folder that does not exist
        self.close()
        with closed_on_error(self._connect(write=False)) as collection:
            kept = collection.manifest() or kept
            self._hold(collection, kept.schema)

    def _nearest(
        self, collection: Collection, target: Target, vector: Vector, k: int, where: Filter | None
    ) -> list[Hit]:
        if (k := min(k, self.count())) < 1:
            return []
        assert isinstance(vector, Dense)
        _, space = target
        condition, complete = self._condition(where)
        found: dict[str, Hit] = {}
        if complete:
            request = {"n_results": k, "where": condition, "include": ["documents", "metadatas"]}
            with collection.request():
                answer = collection.points.query(query_embeddings=[vector.values.astype("float32")], **request)
            points = encoding.points({name: answer[name][0] for name in ("ids", "documents", "metadatas")})
            found = _best(found, points, vector, space.metric, k)
        if len(found) < k:
            for page in self._passing(where):
                found = _best(found, page, vector, space.metric, k)
        return list(found.values())

    def _facet(
        self, collection: Collection, path: Path | None, where: Filter | None, limit: int
    ) -> Sequence[tuple[Scalar, int]]:
        if path is not None:
            held = HasValue(path, "exists")
            where = held if where is None else Every((where, held))
        chunks = (point.chunk for page in self._passing(where) for point in page)
        return facets.count(chunks, [path], limit, self._url)[0]

    def _passing(self, where: Filter | None) -> Iterator[list[Point]]:
        """Pages of the points that pass."""
        condition, _ = self._condition(where)
        for page in self._pages(keys(where), condition):
            yield [point for point in page if not where or filters.passes(point.chunk, where)]

    def _condition(self, where: Filter | None) -> tuple[dict[str, Any] | None, bool]:
        return (None, True) if where is None else translate(where, filterable=self._opened()[1].filterable)


def _best(found: dict[str, Hit], points: Sequence[Point], query: Dense, metric: str, k: int) -> dict[str, Hit]:
    """The k nearest, nearest first."""
    if not points:
        return found
    scores = exact.scores(query, [point.vectors[VECTOR].values for point in points], metric)
    more = {point.id: Hit(score, point.chunk) for score, point in zip(scores, points, strict=True)}
    return dict(sorted((found | more).items(), key=lambda item: -item[1].score)[:k])
