"""Writes to a collection of Qdrant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from penstock.core.errors import SinkError, TooLarge
from penstock.core.precision import FP16, FP32
from penstock.core.records import Dense, MultiVector, Point, Sparse
from penstock.core.schema import IndexSchema, Manifest
from penstock.sinks import manifests, sparse
from penstock.sinks.bisect import in_halves, in_pages
from penstock.sinks.collection import AddressStore, CollectionSink, closed_on_error
from penstock.sinks.lengths import key
from penstock.sinks.qdrant import points as encoding
from penstock.sinks.qdrant import wire
from penstock.sinks.qdrant.fields import NUMBERS
from penstock.sinks.qdrant.wire import MANIFEST, WORDS, Collection
from penstock.sinks.terms import TERMS

if TYPE_CHECKING:
    from qdrant_client import models

PAGE = 500
LOCAL_PAGE = 4000
"""Of a scroll through a folder, which tests every point for each page."""
INDEXED = {"uri": "keyword", "page": "integer", "ordinal": "integer"}
"""The fields that filters compare. Servers in strict mode refuse to filter by any that has no index."""
INDEXED_METADATA = {
    TERMS: "keyword",
    f"{NUMBERS}[].field": "keyword",
    f"{NUMBERS}[].number": "float",
    f"{NUMBERS}[].seconds": "float",
}


class QdrantStore(AddressStore[Collection]):
    """The part that sink and index share."""

    _parse = staticmethod(wire.parse)

    def _connect(self) -> Collection:
        return Collection(self._url, self._address, self._client)

    @property
    def _file(self) -> str:
        return f"collection/{self._name}"

    def _kept(self) -> Manifest | None:
        folder = self._address.folder
        if folder is not None and self._client is None:
            return wire.manifest_in(folder, self._name, self._url)
        return super()._kept()

    def fetch(self, ids: Sequence[str]) -> Sequence[Point]:
        collection, schema = self._opened()

        def page(keys: Sequence[str]) -> list[Point]:
            with collection.request():
                wanted = encoding.payload_selector(collection.models)
                records = collection.client.retrieve(
                    self._name, list(keys), with_payload=wanted, with_vectors=list(schema.vectors)
                )
            return [encoding.point(record, schema, self._url) for record in records]

        return in_pages([key(id) for id in dict.fromkeys(ids)], PAGE, page, TooLarge)

    def _scroll(
        self, collection: Collection, payload: list[str], condition: models.Filter | None = None
    ) -> Iterator[list[models.Record]]:
        """Pages of the points that pass, with these keys of their payloads and without vectors."""
        limit = LOCAL_PAGE if collection.local else PAGE
        offset: Any = None
        while True:
            with collection.request():
                page, offset = collection.client.scroll(
                    self._name, condition, limit=limit, offset=offset, with_payload=payload, with_vectors=False
                )
            if page:
                yield page
            if offset is None:
                return


class QdrantSink(QdrantStore, CollectionSink[Collection]):
    """A collection: `qdrant://host:6333/notes?tls=1`, or `qdrant://./stores/notes` for one process at a time."""

    accepts = frozenset({Dense, MultiVector, Sparse})
    precisions = frozenset({FP32, FP16})
    named = True
    settle = manifests.SETTLE
    max_rows = 512
    max_bytes = 4 << 20
    """As JSON a vector takes five times its bytes, and a server reads 32 MB at most."""

    def open(self, manifest: Manifest) -> None:
        manifests.supported(manifest.schema, self, manifests.PRODUCTS)
        if self._address.folder is not None and self._client is None:
            manifests.make_folder(self._address.folder, self._url)
        with closed_on_error(self._connect()) as collection:
            info = collection.info() or self._create(collection, manifest)
            kept = wire.manifest_of(info.config.metadata, self._url)
            manifests.check_schema(kept.schema, manifest.schema, self._url)
            if precision := self._address.quantization:
                collection.quantize(manifests.dense_names(kept.schema, self._url), precision)
            self._index(collection, info, INDEXED)
            if kept.schema.filterable:
                self._index(collection, info, INDEXED_METADATA)
            self._hold(collection, kept.schema)

    def _create(self, collection: Collection, manifest: Manifest) -> models.CollectionInfo:
        metadata = {MANIFEST: manifests.to_json(manifest)}
        try:
            with collection.request():
                config = _config(manifest.schema, collection.models)
                collection.client.create_collection(self._name, metadata=metadata, **config)
        except SinkError:
            if (info := collection.info()) is None:  # else another run was first
                raise
            return info
        info = collection.info()
        if info is None or not info.config.metadata:
            with collection.request():
                collection.client.delete_collection(self._name)
            raise SinkError(
                f"{self._url}: this server keeps no metadata of collections; Qdrant 1.16 or later is needed"
            )
        return info

    def _index(self, collection: Collection, info: models.CollectionInfo, indexed: Mapping[str, str]) -> None:
        if collection.local:
            return
        m = collection.models
        for field, kind in indexed.items():
            if field in info.payload_schema:
                continue
            plain = m.PayloadSchemaType(kind)
            try:
                with collection.request():
                    prefixes = m.KeywordIndexParams(type=m.KeywordIndexType.KEYWORD, prefix=True)
                    schema = prefixes if field == TERMS else plain
                    collection.client.create_payload_index(self._name, field, schema, wait=True)
            except wire.Refused:
                if field != TERMS:
                    raise
                with collection.request():  # a server that knows no prefixes
                    collection.client.create_payload_index(self._name, field, plain, wait=True)

    def replace_manifest(self, manifest: Manifest) -> None:
        collection, _ = self._opened()
        with collection.request():
            collection.client.update_collection(self._name, metadata={MANIFEST: manifests.to_json(manifest)})

    def write(self, points: Sequence[Point]) -> None:
        collection, schema = self._opened()
        batch = sparse.batched(points, schema, self._url)

        def upsert(structs: Sequence[models.PointStruct]) -> list[tuple[str, str]]:
            """Write them all, and return why not if there is but one."""
            try:
                with collection.request():
                    collection.client.upsert(self._name, list(structs), wait=True)
            except wire.Refused as error:
                if len(structs) > 1:
                    raise
                return [((structs[0].payload or {})["id"], str(error))]
            return []

        if structs := encoding.structs(
            batch, collection.models, filterable=schema.filterable, words=collection.has_words
        ):
            refused = dict(in_halves(structs, upsert, wire.Refused))
            if len(refused) == len(structs) > 1:
                raise SinkError(next(iter(refused.values())))
            batch.reasons |= refused
        batch.finish()

    def maintain(self) -> None:
        self._opened()[0].shrink()

    def delete(self, ids: Sequence[str]) -> None:
        collection, _ = self._opened()
        if ids:
            selector = collection.models.PointIdsList(points=[key(id) for id in ids])
            with collection.request():
                collection.client.delete(self._name, selector, wait=True)

    def flush(self) -> None:
        """Each write waits until it is applied, and is in the server's log before that."""
        self._opened()

    def ids(self) -> Iterator[Sequence[str]]:
        collection, _ = self._opened()
        for page in self._scroll(collection, ["id"]):
            yield [encoding.id_of(record.payload, record.id, self._url) for record in page]


def _config(schema: IndexSchema, m: Any) -> dict[str, Any]:
    """The named vectors of a collection, for its creation; none of words where the schema has one of that name."""
    vectors = {}
    sparse_vectors = {} if WORDS in schema.vectors else {WORDS: m.SparseVectorParams(modifier=m.Modifier.IDF)}
    for name, space in schema.vectors.items():
        if space.kind == "Sparse":
            sparse_vectors[name] = m.SparseVectorParams()
            continue
        distance = m.Distance.EUCLID if space.metric == "l2" else m.Distance.DOT
        number = m.Datatype.FLOAT16 if space.precision == FP16 else None
        vectors[name] = m.VectorParams(size=space.dim, distance=distance, datatype=number)
        if space.kind == "MultiVector":
            vectors[name].multivector_config = m.MultiVectorConfig(comparator=m.MultiVectorComparator.MAX_SIM)
    return {"vectors_config": vectors, "sparse_vectors_config": sparse_vectors}
