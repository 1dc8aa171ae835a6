"""Writes to a collection of Weaviate.

Weaviate begins the names of collections with a capital: `notes` is `Notes`. The manifest is the collection's
description. Written and read at consistency QUORUM, so that a reader sees what was written, whichever node it asks.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from penstock.core.errors import SinkError, SinkUnavailable, TooLarge
from penstock.core.records import Dense, MultiVector, Point
from penstock.core.schema import Manifest, VectorSpec
from penstock.sinks import manifests, rows
from penstock.sinks.bisect import in_pages
from penstock.sinks.collection import CollectionSink, closed_on_error
from penstock.sinks.lengths import key, lying
from penstock.sinks.store import Store, line
from penstock.sinks.weaviate import points as encoding
from penstock.sinks.weaviate.filters import LARGEST_NUMBER
from penstock.sinks.weaviate.tokens import tokens as tokens_of
from penstock.sinks.weaviate.wire import PASSING, Server, parse

if TYPE_CHECKING:
    from weaviate import WeaviateClient

PAGE = 200
REQUEST = 6 << 20
"""Bytes of a request: servers take 10 MB unless configured otherwise."""
OBJECTS = 256
"""Of a request: more are no faster."""
_METRICS = {"cosine": "DOT", "dot": "DOT", "l2": "L2_SQUARED"}


class WeaviateStore(Store[Server]):
    """The part that sink and index share."""

    def __init__(self, url: str, client: WeaviateClient | None = None) -> None:
        super().__init__(url, client)
        self._endpoint = parse(url)

    @property
    def _name(self) -> str:
        return self._endpoint.name

    def _connect(self) -> Server:
        return Server(self._url, self._client)

    def fetch(self, ids: Sequence[str]) -> Sequence[Point]:
        server, schema = self._opened()
        slots, own = [*map(encoding.slot, schema.vectors)], [*map(encoding.original, schema.vectors)]

        def page(keys: Sequence[str]) -> list[Point]:
            with server.request():
                objects = server.collection.query.fetch_objects(
                    filters=server.classes.query.Filter.by_id().contains_any(list(keys)),
                    limit=len(keys),
                    include_vector=slots,
                    return_properties=[*encoding.CHUNK, *own],
                ).objects
            return [encoding.point(found, schema, self._url) for found in objects]

        return in_pages(list(dict.fromkeys(map(key, ids))), PAGE, page, TooLarge)


class WeaviateSink(WeaviateStore, CollectionSink[Server]):
    """A collection: `weaviate://host:8080/Notes?tls=1&grpc=50051`, its key in WEAVIATE_API_KEY."""

    accepts = frozenset({Dense, MultiVector})
    named = True
    settle = manifests.SETTLE
    max_rows = 512
    max_bytes = 4 << 20

    def open(self, manifest: Manifest) -> None:
        manifests.supported(manifest.schema, self, manifests.PRODUCTS)
        with closed_on_error(self._connect()) as server:
            kept = server.manifest()
            if kept is not None:
                manifests.check_schema(kept.schema, manifest.schema, self._url)
            server.ping()
            kept = kept or self._create(server, manifest)
            manifests.check_schema(kept.schema, manifest.schema, self._url)
            self._hold(server, kept.schema)

    def _create(self, server: Server, manifest: Manifest) -> Manifest:
        c, vectors = server.classes.config, manifest.schema.vectors
        try:
            with server.request():
                server.client.collections.create(
                    self._name,
                    description=manifests.to_json(manifest),
                    properties=encoding.schema_properties(manifest.schema, c),
                    vector_config=[_vector_config(name, space, c) for name, space in vectors.items()],
                    inverted_index_config=c.Configure.inverted_index(stopwords_preset=c.StopwordsPreset.NONE),
                )
        except SinkError:
            if (kept := server.manifest()) is None:  # else another run was first
                raise
            return kept
        return server.manifest() or manifest

    def replace_manifest(self, manifest: Manifest) -> None:
        server, _ = self._opened()
        with server.request():
            server.collection.config.update(description=manifests.to_json(manifest))

    def write(self, points: Sequence[Point]) -> None:
        server, schema = self._opened()
        batch = rows.Batch(points, schema, self._url)
        objects, size, refused, sent = list[Any](), 0, dict[str, str](), 0
        for weight, one in self._objects(batch, server, schema.filterable):
            if objects and (size + weight > REQUEST or len(objects) == OBJECTS):
                refused |= self._put(server, objects)
                objects, size = [], 0
            objects.append(one)
            size, sent = size + weight, sent + 1
        refused |= self._put(server, objects)
        if len(refused) == sent > 1:  # it is not the points
            raise SinkError(f"{self._url}: Weaviate refused all of a batch: {next(iter(refused.values()))}")
        batch.reasons |= refused
        batch.finish()

    def _objects(self, batch: rows.Batch, server: Server, filterable: bool) -> Iterator[tuple[int, Any]]:
        """Yield the objects of a batch, each with its size; those that Weaviate does not keep get a reason."""
        kept = [(column, lying(column)) for column in batch.columns.values()]
        tokens: dict[str, list[str]] = {}  # by metadata, which the chunks of a document share
        for position, cells in enumerate(batch.rows):
            id, uri, ordinal, text, start, end, page, headings, metadata, image = cells
            numbers = (ordinal, start, end, page or 0)
            weight = 500 + len(id) + len(uri) + len(text) + len(headings) + len(metadata) + len(image or b"")
            if filterable and metadata not in tokens:
                tokens[metadata] = tokens_of(json.loads(metadata))
            properties, vectors = encoding.properties(cells, tokens.get(metadata)), {}
            weight += sum(map(len, tokens.get(metadata, ())))
            for column, vectors_kept in kept:
                own = column.rows[position]
                vectors[encoding.slot(column.name)], scaled = next(vectors_kept)
                weight += own.nbytes
                if scaled:
                    encoded = base64.b64encode(own.astype("<f4").tobytes()).decode()
                    properties[encoding.original(column.name)] = encoded
                    weight += len(encoded)
            if max(map(abs, numbers)) > LARGEST_NUMBER:
                batch.reasons[id] = "a number beyond 2^53, which Weaviate does not keep"
            elif not all(column.rows[position].size for column, _ in kept):
                batch.reasons[id] = "its vector has no rows"
            else:
                yield weight, server.classes.data.DataObject(properties=properties, uuid=key(id), vector=vectors)

    def _put(self, server: Server, objects: list[Any]) -> dict[str, str]:
        """Write them. Returns the reasons of those that Weaviate refuses, which it does not raise."""
        if not objects:
            return {}
        ids = [one.properties["chunk_id"] for one in objects]
        try:
            with server.request():
                errors = server.collection.data.insert_many(objects).errors
        except SinkError as error:
            if not isinstance(error.__cause__, server.all_failed):
                raise
            refused = dict.fromkeys(ids, line(error.__cause__))
        else:
            refused = {ids[i]: line(error.message) for i, error in errors.items()}
        for id, reason in refused.items():
            if PASSING.search(reason):
                raise SinkUnavailable(f"{self._url}, point {id}: {reason}")
        return refused

    def delete(self, ids: Sequence[str]) -> None:
        server, _ = self._opened()
        if not ids:
            return
        wanted = server.classes.query.Filter.by_id().contains_any(list(dict.fromkeys(map(key, ids))))
        with server.request():
            result = server.collection.data.delete_many(where=wanted)
        if result.failed:
            raise SinkUnavailable(f"{self._url}: {result.failed} of {result.matches} points could not be deleted")

    def flush(self) -> None:
        """A write is in the server's log, and to be read, when it is acknowledged."""
        self._opened()

    def ids(self) -> Iterator[Sequence[str]]:
        server, _ = self._opened()
        for page in server.pages(PAGE, ["chunk_id"]):
            yield [encoding.id_of(one.properties, self._url) for one in page]


def _vector_config(name: str, space: VectorSpec, c: Any) -> Any:
    distance, hnsw = c.VectorDistances[_METRICS[space.metric]], c.Configure.VectorIndex
    index = hnsw.hnsw(distance_metric=distance, quantizer=hnsw.Quantizer.none())
    kinds = c.Configure.MultiVectors if space.kind == "MultiVector" else c.Configure.Vectors
    return kinds.self_provided(name=encoding.slot(name), vector_index_config=index)
