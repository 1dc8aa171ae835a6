"""Searches a namespace of Pinecone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock.core import filters
from penstock.core.contracts import Index
from penstock.core.errors import SinkError, UsageError
from penstock.core.records import Hit, Sparse, Vector
from penstock.core.schema import Manifest
from penstock.sinks import rows, sparse
from penstock.sinks.pinecone.filters import translate
from penstock.sinks.pinecone.records import chunk_of, entries
from penstock.sinks.pinecone.sink import PineconeStore

LARGEST_K = {"Dense": 10_000, "Sparse": 1000}
WHOLE = 40
"""Up to so many are asked for with their metadata: an answer has 4 MB at most."""


class PineconeIndex(PineconeStore, Index):
    """Asks the namespace, which filters before it chooses the nearest. Of sparse vectors it finds those that share an
    index with the query."""

    def manifest(self) -> Manifest:
        return self._found()

    def open(self) -> None:
        namespace = self._connect()
        try:
            if (kept := namespace.manifest()) is None:
                raise SinkError(f"there is no index at {self._url}")
        except BaseException:
            namespace.close()
            raise
        self._hold(namespace, kept.schema)

    def search(
        self, vector: Vector, k: int = 10, where: Mapping[str, Any] | None = None, *, using: str | None = None
    ) -> list[Hit]:
        namespace, schema = self._opened()
        _, space = rows.target(vector, schema, using, self._url)
        if k < 1:
            return []
        if k > (most := LARGEST_K[space.kind]):
            raise UsageError(f"{self._url} finds {most:,} at most, not {k:,}")
        query = _query(vector, self._url)
        if isinstance(query, dict) and not query["indices"]:
            return []
        wanted = filters.parse(where)
        within = None if wanted is None else translate(wanted)
        found, _ = namespace.query(query, k, within, metadata=k <= WHOLE)
        if k <= WHOLE:
            chunks = {match.id: match.metadata for match in found}
        else:
            chunks = {key: r.metadata for key, r in namespace.fetch([match.id for match in found]).items()}
        sign = -1.0 if space.metric == "l2" else 1.0
        return [Hit(sign * match.score, chunk_of(chunks[match.id])) for match in found if match.id in chunks]


def _query(vector: Vector, url: str) -> Any:
    """The query as the client takes it. Raises SinkError where nothing can be near it."""
    import numpy as np

    if isinstance(vector, Sparse):
        return entries(sparse.asked(vector, url))
    values = np.ascontiguousarray(vector.values, dtype=np.float32)
    if not np.isfinite(values).all() or not values.any():
        raise SinkError(f"a query of {url} is all zeros, or holds NaN or infinity: nothing is near it")
    return values.tolist()
