"""Searches a namespace of Pinecone."""

from __future__ import annotations

from typing import Any

from penstock.core.contracts import Index
from penstock.core.errors import SinkError, UsageError
from penstock.core.filters import Filter
from penstock.core.records import Hit, Sparse, Vector
from penstock.sinks import sparse
from penstock.sinks.collection import CollectionIndex, Target, closed_on_error
from penstock.sinks.pinecone.filters import translate
from penstock.sinks.pinecone.records import chunk_of, entries
from penstock.sinks.pinecone.sink import PineconeStore
from penstock.sinks.pinecone.wire import Namespace

LARGEST_SPARSE_K = 1000
WHOLE = 40
"""Up to so many are asked for with their metadata: an answer has 4 MB at most."""


class PineconeIndex(PineconeStore, CollectionIndex[Namespace]):
    """Asks the namespace, which filters before it chooses the nearest. Of sparse vectors it finds those that share an
    index with the query."""

    largest_k = 10_000
    facets = Index.facets  # it counts no values

    def open(self) -> None:
        with closed_on_error(self._connect()) as namespace:  # which has to be connected to the index
            if (kept := namespace.manifest()) is None:
                raise SinkError(f"there is no index at {self._url}")
            self._hold(namespace, kept.schema)

    def _nearest(
        self, collection: Namespace, target: Target, vector: Vector, k: int, where: Filter | None
    ) -> list[Hit]:
        _, space = target
        if space.kind == "Sparse" and k > LARGEST_SPARSE_K:
            raise UsageError(f"{self._url} finds {LARGEST_SPARSE_K:,} at most, not {k:,}")
        query = _query(vector, self._url)
        if isinstance(query, dict) and not query["indices"]:
            return []
        within = None if where is None else translate(where)
        found, _ = collection.query(query, k, within, metadata=k <= WHOLE)
        if k <= WHOLE:
            chunks = {match.id: match.metadata for match in found}
        else:
            chunks = {key: r.metadata for key, r in collection.fetch([match.id for match in found]).items()}
        sign = -1.0 if space.metric == "l2" else 1.0
        return [Hit(sign * match.score, chunk_of(chunks[match.id])) for match in found if match.id in chunks]


def _query(vector: Vector, url: str) -> Any:
    """The query as the client takes it. Raises SinkError where nothing can be near it."""
    import numpy as np

    if isinstance(vector, Sparse):
        return entries(sparse.checked_query(vector, url))
    values = np.ascontiguousarray(vector.values, dtype=np.float32)
    if not np.isfinite(values).all() or not values.any():
        raise SinkError(f"a query of {url} is all zeros, or holds NaN or infinity: nothing is near it")
    return values.tolist()
