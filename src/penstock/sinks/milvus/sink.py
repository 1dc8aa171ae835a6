"""Writes to a collection of Milvus. The manifest is a property of the collection."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from penstock.core.errors import TooLarge, UsageError
from penstock.core.records import Dense, Point, Sparse
from penstock.core.schema import Manifest
from penstock.sinks import manifests, sparse
from penstock.sinks.bisect import in_pages
from penstock.sinks.collection import AddressStore, CollectionSink, closed_on_error
from penstock.sinks.milvus import points as encoding
from penstock.sinks.milvus.filters import among, encodable
from penstock.sinks.milvus.wire import Collection, parse
from penstock.sinks.rows import vector_column

FETCH = 512
MOST_VECTORS = 10
"""Vector fields of a collection, at most; a server takes 4 unless its proxy.maxVectorFieldNum says more."""


class MilvusStore(AddressStore[Collection]):
    """The part that sink and index share."""

    _parse = staticmethod(parse)

    def _connect(self) -> Collection:
        return Collection(self._url, self._address, self._client)

    @property
    def _file(self) -> str:
        return "collections"

    def _kept(self) -> Manifest | None:
        folder = self._address.folder
        if folder is not None and self._handle is None and self._client is None and not folder.exists():
            return None  # the engine would make the file
        return super()._kept()

    def fetch(self, ids: Sequence[str]) -> Sequence[Point]:
        collection, schema = self._opened()
        fields = [*encoding.CHUNK, *map(vector_column, schema.vectors)]

        def page(ids: Sequence[str]) -> list[Point]:
            return [encoding.point(cells, schema) for cells in collection.query(among(ids), fields)]

        return in_pages(encodable(ids), FETCH, page, TooLarge)


class MilvusSink(MilvusStore, CollectionSink[Collection]):
    """Reads are strongly consistent: what was acknowledged is seen by all who leave the collection's default."""

    accepts = frozenset({Dense, Sparse})
    named = True
    settle = manifests.SETTLE
    max_rows = 1024
    max_text = 4 << 20
    """Servers pass rows on in messages of 5 MB."""

    def open(self, manifest: Manifest) -> None:
        schema = manifest.schema
        manifests.supported(schema, self, manifests.PRODUCTS)
        if len(schema.vectors) > MOST_VECTORS:
            raise UsageError(
                f"{self._url} takes at most {MOST_VECTORS} vectors a chunk, not {len(schema.vectors)}: Milvus has no"
                " collections of more vector fields"
            )
        with closed_on_error(self._connect()) as collection:
            kept = collection.manifest()
            if kept is None:
                lite, words = collection.lite, collection.fills_words
                kept = collection.create(encoding.collection_schema(schema, lite=lite, words=words), manifest)
            manifests.check_schema(kept.schema, schema, self._url)
            schema = kept.schema  # which says whether the collection has the fields of filters
            collection.load(schema)
            self._hold(collection, schema)

    def replace_manifest(self, manifest: Manifest) -> None:
        self._opened()[0].keep(manifest)

    def write(self, points: Sequence[Point]) -> None:
        collection, schema = self._opened()
        batch = sparse.batched(points, schema, self._url, refused="negative or zero")
        newest = {point.id: point.chunk for point in points}
        filterable = encoding.Filterable(lite=collection.lite) if schema.filterable else None
        data = []
        for position, cells in enumerate(batch.rows):
            vectors = {name: column.rows[position] for name, column in batch.columns.items()}
            try:
                row = encoding.row(cells, vectors)
                data.append(row | filterable.cells(newest[cells[0]]) if filterable else row)
            except (ValueError, RecursionError) as error:
                batch.reasons[cells[0]] = str(error)
        if data:
            collection.call("upsert", data=data)
        batch.finish()

    def delete(self, ids: Sequence[str]) -> None:
        collection, _ = self._opened()
        if wanted := encodable(ids):
            collection.call("delete", filter=among(wanted))

    def flush(self) -> None:
        """A server has what it acknowledged in its log, and lets a client flush once in ten seconds; Lite has not."""
        collection, _ = self._opened()
        if collection.lite:
            collection.call("flush")

    def ids(self) -> Iterator[Sequence[str]]:
        collection, _ = self._opened()
        for page in collection.pages():
            yield [cells["id"] for cells in page]
