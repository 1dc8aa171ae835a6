"""Searches a collection of Qdrant."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from penstock.core.errors import UsageError
from penstock.core.fields import Path, Scalar
from penstock.core.filters import Absent, Every, Filter, HasValue, Not, leaves
from penstock.core.records import Hit, Sparse, Vector
from penstock.sinks import facets, hashed_words
from penstock.sinks.collection import Target, WordsIndex
from penstock.sinks.lengths import units
from penstock.sinks.qdrant import points as encoding
from penstock.sinks.qdrant.filters import translate
from penstock.sinks.qdrant.sink import QdrantStore
from penstock.sinks.qdrant.wire import WORDS, Collection, Refused
from penstock.sinks.words import asked

OVERSAMPLING = 4.0
"""Of quantized vectors so many times as many as asked for are compared exactly."""


class QdrantIndex(QdrantStore, WordsIndex[Collection]):
    """Asks the collection's own index, and compares with every vector where that finds fewer than asked for."""

    def _nearest(
        self, collection: Collection, target: Target, vector: Vector, k: int, where: Filter | None
    ) -> list[Hit]:
        name, space = target
        if isinstance(vector, Sparse):
            entries = collection.models.SparseVector(indices=vector.indices.tolist(), values=vector.values.tolist())
            return self._asked(collection, name, entries, k, where)
        values = vector.values.astype("float32").reshape(-1, space.dim)
        values = units(values)[0] if space.metric == "cosine" else values
        found = self._asked(collection, name, values.reshape(vector.values.shape).tolist(), k, where)
        return [Hit(-hit.score, hit.chunk) for hit in found] if space.metric == "l2" else found

    @property
    def finds_words(self) -> bool:
        return self._opened()[0].has_words

    def _with_words(self, collection: Collection, question: str, k: int, where: Filter | None) -> list[Hit]:
        query = hashed_words.of_query(asked(question))
        entries = collection.models.SparseVector(indices=[*query], values=[*query.values()])
        return self._asked(collection, WORDS, entries, k, where)

    def _asked(self, collection: Collection, name: str, query: Any, k: int, where: Filter | None) -> list[Hit]:
        """The k best by the vectors of that name, with Qdrant's scores."""
        m = collection.models
        request: dict[str, Any] = {"limit": k, "using": name, "query": query, "with_vectors": False}
        request["with_payload"] = encoding.payload_selector(m)
        if where is not None:
            request["query_filter"] = self._condition(collection, where)
        dense = isinstance(query, list) and not collection.local
        # Without a word of it a server would rescore those of bits alone; vectors that are not quantized it leaves.
        rescored = m.SearchParams(quantization=m.QuantizationSearchParams(rescore=True, oversampling=OVERSAMPLING))
        with _explained(where), collection.request():
            walked = rescored if dense else None
            found = collection.client.query_points(self._name, search_params=walked, **request).points
            if len(found) < k and dense:
                exact = m.SearchParams(exact=True)
                found = collection.client.query_points(self._name, search_params=exact, **request).points
        return [Hit(hit.score, encoding.chunk(hit.payload, hit.id, self._url)) for hit in found]

    def _facet(
        self, collection: Collection, path: Path | None, where: Filter | None, limit: int
    ) -> Sequence[tuple[Scalar, int]]:
        """Count the values as the points are read: Qdrant counts all terms of all fields at once."""
        given = () if where is None else (where,)
        if path is None:
            image = Absent("image")
            counts = {
                (str, facets.type_of(text)): self._number(collection, Every((*given, image if text else Not(image))))
                for text in (True, False)
            }
            return facets.most({one: number for one, number in counts.items() if number}, limit)
        condition = self._condition(collection, Every((*given, HasValue(path, "exists"))))
        with _explained(where):
            chunks = (
                encoding.chunk(record.payload, record.id, self._url)
                for page in self._scroll(collection, ["id", "metadata", "headings"], condition)
                for record in page
            )
            return facets.count(chunks, [path], limit, self._url)[0]

    def _number(self, collection: Collection, where: Filter) -> int:
        condition = self._condition(collection, where)
        with _explained(where), collection.request():
            return int(collection.client.count(self._name, condition, exact=True).count)

    def _condition(self, collection: Collection, where: Filter) -> Any:
        m = collection.models
        return m.Filter(must=[translate(where, m, filterable=self._opened()[1].filterable)])


@contextmanager
def _explained(where: Filter | None) -> Iterator[None]:
    """Around requests with that filter, for servers that do not know all of Qdrant's language."""
    try:
        yield
    except Refused as error:
        if not any(isinstance(term, HasValue) and term.operator == "prefix" for term in leaves(where)):
            raise
        raise UsageError(f"{error}. For $prefix a server is needed that matches prefixes: upgrade it") from error
