"""Searches an index of Elasticsearch or OpenSearch.

Scores are computed from the vectors themselves: the meaning of `_score` differs by version, product and metric.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from penstock.core.errors import SinkError, UsageError
from penstock.core.fields import Path
from penstock.core.filters import Filter
from penstock.core.records import Dense, Hit, MultiVector, Sparse, Vector
from penstock.core.schema import IndexSchema, VectorSpec
from penstock.sinks import manifests, rows, sparse
from penstock.sinks.collection import Target, WordsIndex
from penstock.sinks.elastic.documents import Documents, bits_field, chunk_of, compared, vector_of, weights
from penstock.sinks.elastic.facets import metadata_facet
from penstock.sinks.elastic.filters import to_query
from penstock.sinks.elastic.sink import ElasticStore
from penstock.sinks.elastic.terms import FIELD
from penstock.sinks.facets import Facet

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LARGEST_K = 10_000
"""The most that both products return."""
EXACT = 100_000
"""Up to so many candidates, every vector is compared with; beyond, the graph is walked."""
CANDIDATES = 500
OVERSAMPLING = 4
"""Of a graph of vectors in fewer bits so many times as many as asked for are compared exactly."""
MORE = 50
"""Sparse ones that are asked for beyond those that are wanted."""
SLACK = 1 + 2**-7
"""By how much a product may be larger than the store's, which cuts off a weight after nine bits."""


class ElasticIndex(ElasticStore, WordsIndex[Documents]):
    """Compares with every vector where there are few candidates, else with those that the graph leads to."""

    largest_k = LARGEST_K

    def _nearest(
        self, collection: Documents, target: Target, vector: Vector, k: int, where: Filter | None
    ) -> list[Hit]:
        name, space = target
        schema = self._opened()[1]
        within = to_query(where, schema, self._url)
        search = _Search(collection, schema, name, k, within)
        if isinstance(vector, Sparse):
            query = sparse.checked_query(vector, self._url, negative=False)
            return search.overlapping(query) if len(query.values) else []
        values = compared(_checked(vector, space, self._url), space)
        few = collection.count(within)
        found = search.walked(values) if few > EXACT and space.kind == "Dense" else []
        if len(found) < min(k, few):
            found = search.exact(values)
        return search.hits(type(vector)(values), found)[:k]

    @property
    def finds_words(self) -> bool:
        return self._opened()[0].has_words

    def _with_words(self, collection: Documents, question: str, k: int, where: Filter | None) -> list[Hit]:
        schema = self._opened()[1]
        wanted = {"must": [{"match": {"text": {"query": question}}}], "filter": [to_query(where, schema, self._url)]}
        request = {"size": k, "_source": {"excludes": _without_vectors(schema)}, "query": {"bool": wanted}}
        return [Hit(hit["_score"], chunk_of(hit["_source"])) for hit in collection.search(request)]

    def _facet(self, collection: Documents, path: Path | None, where: Filter | None, limit: int) -> Facet:
        schema = self._opened()[1]
        if path is None:
            manifests.check_fields(schema, self._url)
        if limit > LARGEST_K:
            raise UsageError(f"{self._url} counts {LARGEST_K:,} values of a field at most, not {limit:,}")
        within = to_query(where, schema, self._url)
        if limit < 1:
            return []
        if path is None:
            return collection.values("type", within, limit)
        return metadata_facet(collection, path, within, limit)


class _Search:
    """One search: the k nearest by the vectors of one name, of the documents that a query leaves."""

    def __init__(self, server: Documents, schema: IndexSchema, name: str, k: int, within: Mapping[str, Any]) -> None:
        self._server, self._name, self._space, self._k, self._within = server, name, schema.vectors[name], k, within
        self._field = rows.vector_column(name)
        self._source = {"excludes": [field for field in _without_vectors(schema) if field != bits_field(name)]}

    def _ask(self, size: int, query: Mapping[str, Any]) -> list[Any]:
        return self._server.search({"size": size, "_source": self._source, **query})

    def exact(self, query: Any) -> list[Any]:
        """Compare with every vector."""
        script = self._server.dialect.exact(self._field, query, self._space)
        return self._ask(self._k, {"query": {"script_score": {"query": self._within, "script": script}}})

    def walked(self, query: Any) -> list[Any]:
        """Those that the graph leads to: nearly always the nearest, from ten times as many candidates."""
        candidates = min(max(10 * self._k, CANDIDATES), LARGEST_K)
        size = min(OVERSAMPLING * self._k, candidates) if self._server.quantized else self._k
        near = self._server.dialect.near(self._field, query, size, candidates, self._within)
        return self._ask(size, near)

    def overlapping(self, query: Sparse) -> list[Hit]:
        """Those that share an index with the query: as many more than k as it takes to know that none is left out."""
        near = {"field": self._field, "query_vector": weights(query), "prune": False}
        request = {"query": {"bool": {"must": [{"sparse_vector": near}], "filter": [self._within]}}}
        size = min(self._k + MORE, LARGEST_K)
        while True:
            found = self._ask(size, request)
            hits = self.hits(query, found)[: self._k]
            if len(found) < size or size == LARGEST_K or found[-1]["_score"] * SLACK < hits[-1].score:
                return hits
            size = min(4 * size, LARGEST_K)

    def hits(self, query: Vector, found: Sequence[Mapping[str, Any]]) -> list[Hit]:
        vectors = [vector_of(hit["_source"], self._name, self._space) for hit in found]
        scores = _scores(query, vectors, self._space.metric)
        best = sorted(range(len(found)), key=lambda i: -scores[i])
        return [Hit(scores[i], chunk_of(found[i]["_source"])) for i in best]


def _without_vectors(schema: IndexSchema) -> list[str]:
    """The fields of a document that no chunk is read from."""
    return [FIELD, *map(rows.vector_column, schema.vectors), *map(bits_field, schema.vectors)]


def _checked(vector: Dense | MultiVector, space: VectorSpec, url: str) -> NDArray[np.float32]:
    """The query's values. Raises SinkError where nothing can be near them."""
    import numpy as np

    query = np.ascontiguousarray(vector.values, dtype=np.float32)
    if not np.isfinite(query).all() or not query.size or (space.metric == "cosine" and not query.any()):
        raise SinkError(f"a query of {url} is all zeros, or holds NaN or infinity: nothing is near it")
    return query


def _scores(query: Vector, vectors: Sequence[Vector], metric: str) -> list[float]:
    import numpy as np

    if not vectors:
        return []
    if not isinstance(query, Dense):
        from penstock.sinks import memory

        return [float(score) for score in memory.scores(query, vectors, metric)]
    matrix = np.stack([vector.values for vector in vectors]).astype(np.float64)
    wanted = query.values.astype(np.float64)
    if metric == "l2":
        scores = -((matrix - wanted) ** 2).sum(axis=1)
    elif metric == "dot":
        scores = matrix @ wanted
    else:
        scores = matrix @ wanted / (np.linalg.norm(matrix, axis=1) * np.linalg.norm(wanted))
    return [float(score) for score in scores]
