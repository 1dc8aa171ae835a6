"""Writes points to an index of Elasticsearch or OpenSearch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from penstock.core.errors import Rejected
from penstock.core.records import Dense, MultiVector, Point, Sparse
from penstock.core.schema import IndexSchema, Manifest
from penstock.sinks import manifests, rows, sparse
from penstock.sinks.collection import AddressStore, CollectionSink, closed_on_error
from penstock.sinks.elastic import dialects, wire
from penstock.sinks.elastic.documents import Documents, vector_fields

PAGE = 1000


class ElasticStore(AddressStore[Documents]):
    """The part that sink and index share."""

    _parse = staticmethod(dialects.parse)

    def _connect(self) -> Documents:
        return Documents(self._address, self._client)

    def fetch(self, ids: Sequence[str]) -> Sequence[Point]:
        server, schema = self._opened()
        return server.fetch(ids, schema)


class ElasticSink(ElasticStore, CollectionSink[Documents]):
    """An index of Elasticsearch or OpenSearch. `client` is one of the user's, for other ways to log in.

    Elasticsearch takes two kinds more than dense vectors: many vectors a point from 8.18 on and with a licence for
    them, and sparse ones without negative values from 8.15 on.
    """

    accepts = frozenset({Dense, MultiVector, Sparse})
    named = True
    settle = manifests.SETTLE
    max_rows = 1024
    max_bytes = wire.BULK
    max_text = 16 << 20
    """Of control characters six times that as JSON: the 100 MB that a server takes."""
    writers = 2

    def __init__(self, url: str, client: Any = None) -> None:
        super().__init__(url, client)
        if dialects.scheme_of(url) == "opensearch":
            self.accepts = frozenset({Dense})

    def open(self, manifest: Manifest) -> None:
        manifests.supported(manifest.schema, self, manifests.PRODUCTS)
        with closed_on_error(self._connect()) as server:
            kept = server.manifest() or server.create(manifest)
            manifests.check_schema(kept.schema, manifest.schema, self._url)
            if precision := self._address.quantization:
                server.quantize(kept.schema, precision)
            self._hold(server, kept.schema)

    def replace_manifest(self, manifest: Manifest) -> None:
        server, _ = self._opened()
        server.keep(manifest)
        self._schema = manifest.schema

    def write(self, points: Sequence[Point]) -> None:
        server, schema = self._opened()
        batch = sparse.batched(points, schema, self._url, refused="negative")
        batch.reasons |= server.bulk(_actions(server, batch, schema))
        batch.finish()

    def delete(self, ids: Sequence[str]) -> None:
        server, _ = self._opened()
        if reasons := server.bulk((id, server.removal(id)) for id in dict.fromkeys(ids)):
            raise Rejected(reasons)

    def flush(self) -> None:
        """Have searches see all writes; they are in the log on disk since each request was answered."""
        self._opened()[0].ask("POST", "/_refresh")

    def ids(self) -> Iterator[Sequence[str]]:
        server, _ = self._opened()
        page: dict[str, Any] = {"size": PAGE, "sort": [{"id": "asc"}], "_source": False}
        while found := server.search(page):
            yield [hit["sort"][0] for hit in found]
            page["search_after"] = found[-1]["sort"]


def _actions(server: Documents, batch: rows.Batch, schema: IndexSchema) -> Iterator[tuple[str, bytes]]:
    fields, columns = vector_fields(schema), [batch.columns[name].rows for name in schema.vectors]
    for row, *vectors in zip(batch.rows, *columns, strict=True):
        try:
            line = server.document(row, zip(fields, vectors, strict=True), filterable=schema.filterable)
        except (ValueError, TypeError, OverflowError) as error:  # a number of more than 64 bits, or 1024
            batch.reasons[row[0]] = str(error)
        else:
            yield row[0], line
