"""Searches a collection of Qdrant."""

from __future__ import annotations

from typing import Any

from penstock.core.filters import Filter
from penstock.core.records import Hit, Sparse, Vector
from penstock.sinks.collection import CollectionIndex, Target
from penstock.sinks.lengths import units
from penstock.sinks.qdrant import points as encoding
from penstock.sinks.qdrant.filters import translate
from penstock.sinks.qdrant.sink import QdrantStore
from penstock.sinks.qdrant.wire import Collection


class QdrantIndex(QdrantStore, CollectionIndex[Collection]):
    """Asks the collection's own index, and compares with every vector where that finds fewer than asked for."""

    def _nearest(
        self, collection: Collection, target: Target, vector: Vector, k: int, where: Filter | None
    ) -> list[Hit]:
        m, (name, space) = collection.models, target
        request: dict[str, Any] = {"limit": k, "using": name, "with_payload": True, "with_vectors": False}
        if where is not None:
            request["query_filter"] = m.Filter(must=[translate(where, m)])
        if isinstance(vector, Sparse):
            request["query"] = m.SparseVector(indices=vector.indices.tolist(), values=vector.values.tolist())
        else:
            values = vector.values.astype("float32").reshape(-1, space.dim)
            values = units(values)[0] if space.metric == "cosine" else values
            request["query"] = values.reshape(vector.values.shape).tolist()
        with collection.request():
            found = collection.client.query_points(self._name, **request).points
            if len(found) < k and not collection.local and not isinstance(vector, Sparse):
                exact = m.SearchParams(exact=True)
                found = collection.client.query_points(self._name, search_params=exact, **request).points
        sign = -1.0 if space.metric == "l2" else 1.0
        return [Hit(sign * hit.score, encoding.chunk(hit.payload, hit.id, self._url)) for hit in found]
