"""Searches a collection of Milvus."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from penstock.core.fields import Path, Scalar
from penstock.core.filters import Absent, Every, Filter, Not
from penstock.core.records import Chunk, Dense, Hit, Sparse, Vector
from penstock.core.schema import VectorSpec
from penstock.sinks import exact, facets, manifests, sparse
from penstock.sinks.collection import Target, WordsIndex
from penstock.sinks.milvus import points as encoding
from penstock.sinks.milvus.filters import contains_item, contains_text, translate
from penstock.sinks.milvus.sink import MilvusStore
from penstock.sinks.milvus.wire import WORDS, Collection, metric
from penstock.sinks.rows import vector_column

WHOLE = 50
"""Points that are read whole at a time, to count their values."""
_TYPES: dict[str, Filter] = {"text": Absent("image"), "image": Not(Absent("image"))}


class MilvusIndex(MilvusStore, WordsIndex[Collection]):
    """Asks the store's index; where that gives too few, as it may under a narrow filter, compares with every vector."""

    largest_k = 16_384

    def open(self) -> None:
        super().open()
        collection, schema = self._opened()
        collection.load(schema)

    def _nearest(
        self, collection: Collection, target: Target, vector: Vector, k: int, where: Filter | None
    ) -> list[Hit]:
        name, space = target
        condition = self._condition(where)
        query: Any = vector.values.astype("float32")
        if isinstance(vector, Sparse):
            vector = sparse.checked_query(vector, self._url, negative=False)
            if not len(vector.values):
                return []
            query = encoding.entries(vector)
        found = self._searched(collection, vector_column(name), query, metric(space), k, condition)
        if len(found) < k and isinstance(vector, Dense) and len(found) < collection.count(condition):
            return self._exhaustive(collection, target, vector, k, condition)
        hits = [Hit(_score(hit["distance"], space), encoding.chunk(hit["entity"])) for hit in found]
        return sorted(hits, key=lambda hit: -hit.score)

    @property
    def finds_words(self) -> bool:
        return self._opened()[0].has_words

    @property
    def lacks_words(self) -> bool:
        collection, schema = self._opened()
        return super().lacks_words and collection.fills_words and len(schema.vectors) < encoding.VECTOR_FIELDS

    def _with_words(self, collection: Collection, question: str, k: int, where: Filter | None) -> list[Hit]:
        found = self._searched(collection, WORDS, question, "BM25", k, self._condition(where))
        return [Hit(abs(hit["distance"]), encoding.chunk(hit["entity"])) for hit in found]  # some have it negative

    def _searched(
        self, collection: Collection, field: str, query: Any, metric: str, k: int, condition: str
    ) -> list[Any]:
        (found,) = collection.call(
            "search",
            data=[query],
            anns_field=field,
            filter=condition,
            limit=k,
            output_fields=encoding.CHUNK,
            search_params={"metric_type": metric, "params": {}},
            consistency_level="Strong",
        )
        return list(found)

    def _condition(self, where: Filter | None) -> str:
        """The filter as an expression, empty for none. Raises UsageError where the collection cannot tell."""
        collection, schema = self._opened()

        def contains(terms: Sequence[str]) -> str:
            manifests.check_fields(schema, self._url)
            return contains_text(terms) if collection.lite else contains_item(terms)

        return "" if where is None else translate(where, contains)

    def _facet(self, collection: Collection, path: Path | None, where: Filter | None, limit: int) -> facets.Facet:
        if path is not None:
            chunks = self._described(collection, self._condition(where))
            return facets.count(chunks, [path], limit, self._url)[0]
        counts = Counter[tuple[type, Scalar]]()
        for name, test in _TYPES.items():
            counts[str, name] = collection.count(self._condition(test if where is None else Every((where, test))))
        return facets.most(+counts, limit)

    def _described(self, collection: Collection, condition: str) -> Iterator[Chunk]:
        """The chunks that pass, of which only the metadata are read, but for those of long metadata."""
        for page in collection.pages(condition, ("id", "metadata")):
            long = [cells["id"] for cells in page if encoding.may_go_on(cells["metadata"])]
            yield from (encoding.described(cells) for cells in page if not encoding.may_go_on(cells["metadata"]))
            for start in range(0, len(long), WHOLE):
                yield from (point.chunk for point in self.fetch(long[start : start + WHOLE]))

    def _exhaustive(self, collection: Collection, target: Target, vector: Dense, k: int, condition: str) -> list[Hit]:
        name, space = target
        field = vector_column(name)
        best: list[tuple[float, str]] = []
        for page in collection.pages(condition, ("id", field)):
            scores = exact.scores(vector, [cells[field] for cells in page], space.metric)
            best = heapq.nlargest(k, [*best, *zip(scores, (cells["id"] for cells in page), strict=True)])
        chunks = {point.id: point.chunk for point in self.fetch([id for _, id in best])}
        return [Hit(score, chunks[id]) for score, id in best if id in chunks]


def _score(distance: float, space: VectorSpec) -> float:
    return -(max(distance, 0.0) ** 0.5) if space.metric == "l2" else distance
