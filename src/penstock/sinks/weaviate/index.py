"""Searches a collection of Weaviate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from penstock.core.errors import SinkError, TooLarge
from penstock.core.filter_parser import facet_path
from penstock.core.filters import Filter, chunk_fields, passes
from penstock.core.records import Chunk, Hit, Sparse, Vector
from penstock.sinks import facets, manifests
from penstock.sinks.collection import Target, WordsIndex, closed_on_error
from penstock.sinks.lengths import units
from penstock.sinks.weaviate import points as encoding
from penstock.sinks.weaviate.filters import constant, translate
from penstock.sinks.weaviate.sink import PAGE, WeaviateStore
from penstock.sinks.weaviate.wire import Server

CANDIDATES = 200
"""Of a search for many vectors at least: for each row of the query, the graph gives as many as are asked for."""


class WeaviateIndex(WeaviateStore, WordsIndex[Server]):
    """Asks the graph, and where that finds fewer than asked for, all that pass a filter: those are compared one by one
    up to the server's flatSearchCutoff, 40,000."""

    largest_k = 10_000

    def open(self) -> None:
        kept = self._found()
        with closed_on_error(self._connect()) as server:
            server.ping()
            self._hold(server, kept.schema)

    def facets(
        self, names: Sequence[str], where: Mapping[str, Any] | None = None, *, limit: int = 20
    ) -> Mapping[str, facets.Facet]:
        """Weaviate counts values of a whole property only: the metadata of all objects are read, once for all names."""
        server, schema = self._opened()
        paths = {name: facet_path(name) for name in names}
        if paths:
            manifests.check_fields(schema, self._url)
        wanted = self._parsed(where)
        chunks = self._passing(server, wanted) if paths else ()
        return dict(zip(paths, facets.count(chunks, list(paths.values()), limit, self._url), strict=True))

    def _parsed(self, where: Mapping[str, Any] | None) -> Filter | None:
        wanted = super()._parsed(where)
        if "image" in chunk_fields(wanted):
            manifests.check_fields(self._opened()[1], self._url)
        return wanted

    def _passing(self, server: Server, wanted: Filter | None) -> Iterator[Chunk]:
        """The chunks that pass, without their texts and images: no filter can be asked of all of a collection."""
        if wanted is not None:
            translate(wanted, server.classes.query.Filter)  # refuses what a search refuses
        read, size = encoding.COUNTED, PAGE
        if "text" in chunk_fields(wanted):
            read, size = [*read, "text"], PAGE // 10
        for page in server.pages(size, read):
            for one in page:
                found = encoding.counted(one.properties, self._url)
                if wanted is None or passes(found, wanted):
                    yield found

    def _nearest(self, collection: Server, target: Target, vector: Vector, k: int, where: Filter | None) -> list[Hit]:
        assert not isinstance(vector, Sparse)
        name, space = target
        query = vector.values.astype("float32").reshape(-1, space.dim)
        if not len(query):
            raise SinkError(f"a query of {self._url} has no rows: nothing is near it")
        listed = (units(query)[0] if space.metric == "cosine" else query).tolist()
        many = space.kind == "MultiVector"
        f = collection.classes.query.Filter
        wanted = None if where is None else translate(where, f)
        request = {"near_vector": listed if many else listed[0], "target_vector": encoding.slot(name)}
        found = self._near(collection, request | {"limit": max(k, CANDIDATES) if many else k, "filters": wanted})[:k]
        if len(found) < k and wanted is None:
            found = self._near(collection, request | {"limit": k, "filters": constant(True, f)})
        return found

    def _near(self, server: Server, request: dict[str, Any]) -> list[Hit]:
        request["return_metadata"] = server.classes.query.MetadataQuery(distance=True)
        return self._asked(server, server.collection.query.near_vector, request, lambda found: -found.distance)

    @property
    def finds_words(self) -> bool:
        return self._opened()[0].has_words

    def _with_words(self, collection: Server, question: str, k: int, where: Filter | None) -> list[Hit]:
        wanted = None if where is None else translate(where, collection.classes.query.Filter)
        request = {"query": question, "query_properties": ["text"], "limit": k, "filters": wanted}
        request["return_metadata"] = collection.classes.query.MetadataQuery(score=True)
        return self._asked(collection, collection.collection.query.bm25, request, lambda found: found.score)

    def _asked(
        self, server: Server, ask: Callable[..., Any], request: dict[str, Any], score: Callable[[Any], float]
    ) -> list[Hit]:
        """The hits of a search by one of the client's methods, with a score from their metadata."""

        def objects(properties: list[str]) -> list[Any]:
            with server.request():
                return list(ask(**request, return_properties=properties).objects)

        try:
            found = objects(encoding.CHUNK)
            return [Hit(score(one.metadata), encoding.chunk(one.properties, self._url)) for one in found]
        except TooLarge:  # the answer, with the texts in it
            found = objects(["chunk_id"])
            near = [(score(one.metadata), encoding.id_of(one.properties, self._url)) for one in found]
        chunks = {point.id: point.chunk for point in self.fetch([id for _, id in near])}
        return [Hit(number, chunks[id]) for number, id in near if id in chunks]
