"""`weaviate://`: a collection of a Weaviate server or cloud, 1.29 or later, over REST and gRPC.

    weaviate://host:8080/Notes?grpc=50051               its key in WEAVIATE_API_KEY, if it wants one
    weaviate://host:443/Notes?tls=1&grpc=grpc-host:443  where gRPC has a host of its own

Weaviate begins the names of collections with a capital: `notes` is `Notes`. An object's properties are the columns of
`rows.COLUMNS`, the id as `chunk_id`; the manifest is the collection's description. Written and read at consistency
QUORUM, so that a reader sees what was written, whichever node it asks.

Weaviate may scale the vectors of cosine collections, so a cosine space is kept as one of dot products: vectors whose
length is 1, as models make them, lie there as they are; of any other lies a copy of length 1, and its own bytes in a
property. Many vectors a point, with one row at least, are a multivector there, compared by MaxSim. Its indexes trim
texts, so equality of `uri` and `text` is asked of digests, and whether there is a page of `has_page`, 1 or 0, which
means the same in all versions.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from penstock.core import filters
from penstock.core.contracts import Index, Sink
from penstock.core.errors import SinkError, SinkUnavailable, TooLarge, UsageError
from penstock.core.records import VECTOR, Chunk, Dense, Hit, MultiVector, Point, Sparse, Vector
from penstock.core.schema import Manifest, VectorSpec, single
from penstock.sinks import manifests, rows
from penstock.sinks.lengths import key, lying, units
from penstock.sinks.store import Store, line
from penstock.sinks.weaviate_filter import LARGEST_NUMBER, always, digest, translate
from penstock.sinks.weaviate_wire import PASSING, Server, place

if TYPE_CHECKING:
    from weaviate import WeaviateClient

NAMED = "dense"
"""The vector's name in the collection."""
PAGE = 200
LARGEST_K = 10_000
CANDIDATES = 200
"""Of a search for many vectors at least: for each row of the query, the graph gives as many as are asked for."""
REQUEST = 6 << 20
"""Bytes of a request: servers take 10 MB unless told otherwise."""
OBJECTS = 256
"""Of a request: more are no faster."""
_METRICS = {"cosine": "DOT", "dot": "DOT", "l2": "L2_SQUARED"}
_TEXTS = ("chunk_id", "uri", "text", "headings", "metadata")
_NUMBERS = ("ordinal", "start", "end", "page")
_RETURNED = [*_TEXTS, *_NUMBERS, "image", "no_bytes"]


def _properties(cells: rows.Row, original: bytes | None) -> dict[str, Any]:
    id, uri, ordinal, text, start, end, page, headings, metadata, image = cells
    made = {
        "chunk_id": id,
        "uri": uri,
        "uri_digest": digest(uri),
        "text": text,
        "text_digest": digest(text),
        "ordinal": ordinal,
        "start": start,
        "end": end,
        "has_page": int(page is not None),
        "headings": headings,
        "metadata": metadata,
    }
    if page is not None:
        made["page"] = page
    if image:
        made["image"] = base64.b64encode(image).decode()
    elif image is not None:
        made["no_bytes"] = True  # Weaviate takes no empty blob
    if original is not None:
        made["original"] = base64.b64encode(original).decode()
    return made


def _chunk(properties: Mapping[str, Any], url: str) -> Chunk:
    if not isinstance(properties.get("chunk_id"), str):
        raise SinkError(f"{url} holds an object that is not Penstock's")
    image = base64.b64decode(properties["image"]) if properties.get("image") else None
    if properties.get("no_bytes"):
        image = b""
    cells = {name: properties.get("chunk_id" if name == "id" else name) for name in rows.COLUMNS}
    return rows.chunk(tuple({**cells, "image": image}.values()))


class _Weaviate(Store[Server]):
    def __init__(self, url: str, client: WeaviateClient | None = None) -> None:
        super().__init__(url, client)
        place(url)

    def _connect(self) -> Server:
        return Server(self._url, self._client)

    def fetch(self, ids: Sequence[str]) -> Sequence[Point]:
        server, space = self._opened()
        keys = list(dict.fromkeys(map(key, ids)))
        found: list[Point] = []
        for start in range(0, len(keys), PAGE):
            found += self._points(server, keys[start : start + PAGE], space)
        return found

    def _points(self, server: Server, keys: list[str], space: VectorSpec) -> list[Point]:
        try:
            with server.turn():
                objects = server.collection.query.fetch_objects(
                    filters=server.classes.query.Filter.by_id().contains_any(keys),
                    limit=len(keys),
                    include_vector=[NAMED],
                    return_properties=[*_RETURNED, "original"],
                ).objects
        except TooLarge:
            if len(keys) == 1:
                raise
            half = len(keys) // 2
            return self._points(server, keys[:half], space) + self._points(server, keys[half:], space)
        return [self._point(found, space) for found in objects]

    def _point(self, found: Any, space: VectorSpec) -> Point:
        import numpy as np

        chunk = _chunk(found.properties, self._url)
        original = found.properties.get("original")
        if original:
            values = np.frombuffer(base64.b64decode(original), np.dtype("<f4")).astype(np.float32)
        elif NAMED in found.vector:
            values = np.array(found.vector[NAMED], np.float32)
        else:
            raise SinkError(f"{self._url} holds a point without a vector: {chunk.id}")
        many = space.kind == "MultiVector"
        return Point(chunk, {VECTOR: MultiVector(values.reshape(-1, space.dim)) if many else Dense(values)})


class WeaviateSink(_Weaviate, Sink):
    """A collection: `weaviate://host:8080/Notes?tls=1&grpc=50051`, its key in WEAVIATE_API_KEY."""

    accepts = frozenset({Dense, MultiVector})
    max_rows = 512
    max_bytes = 4 << 20

    def manifest(self) -> Manifest | None:
        return self._kept()

    def drop(self) -> None:
        self._drop()

    def alias(self, number: int) -> str:
        name = place(self._sibling("live").url)[1]
        with closing((self.generation(number) if number else self)._connect()) as server:
            return name if server.alias(name) else ""

    def open(self, manifest: Manifest) -> None:
        manifests.supported(manifest.schema, self, manifests.PRODUCTS)
        server = self._connect()
        try:
            kept = server.manifest()
            if kept is not None:
                manifests.agree(kept, manifest, self._url)
            server.greet()
            kept = kept or self._create(server, manifest)
            manifests.agree(kept, manifest, self._url)
        except BaseException:
            server.close()
            raise
        self._hold(server, kept.schema.only)

    def _create(self, server: Server, manifest: Manifest) -> Manifest:
        c = server.classes.config
        text, number, flag, blob = c.DataType.TEXT, c.DataType.INT, c.DataType.BOOL, c.DataType.BLOB
        field, off = c.Tokenization.FIELD, {"index_filterable": False, "index_searchable": False}
        found = {"index_filterable": True, "index_searchable": False, "tokenization": field}
        given: dict[str, tuple[Any, dict[str, Any]]] = dict.fromkeys(_TEXTS, (text, off))
        given |= dict.fromkeys(("uri", "uri_digest", "text_digest"), (text, found))
        given |= {name: (number, {"index_filterable": False}) for name in ("start", "end")}
        ordered = {"index_filterable": True, "index_range_filters": True}
        given |= dict.fromkeys(("ordinal", "page"), (number, ordered))
        given |= {"has_page": (number, {"index_filterable": True}), "no_bytes": (flag, {"index_filterable": False})}
        given |= {name: (blob, {"index_filterable": False}) for name in ("image", "original")}
        given["chunk_id"] = (text, off | {"tokenization": field})
        distance = c.VectorDistances[_METRICS[manifest.schema.only.metric]]
        hnsw = c.Configure.VectorIndex.hnsw(
            distance_metric=distance, quantizer=c.Configure.VectorIndex.Quantizer.none()
        )
        kinds = c.Configure.MultiVectors if manifest.schema.only.kind == "MultiVector" else c.Configure.Vectors
        vector = kinds.self_provided(name=NAMED, vector_index_config=hnsw)
        try:
            with server.turn():
                server.client.collections.create(
                    server.name,
                    description=manifests.to_json(manifest),
                    properties=[c.Property(name=n, data_type=kind, **more) for n, (kind, more) in given.items()],
                    vector_config=vector,
                    inverted_index_config=c.Configure.inverted_index(stopwords_preset=c.StopwordsPreset.NONE),
                )
        except SinkError:
            if (made := server.manifest()) is None:  # else another run was first
                raise
            return made
        return manifest

    def replace_manifest(self, manifest: Manifest) -> None:
        server, _ = self._opened()
        with server.turn():
            server.collection.config.update(description=manifests.to_json(manifest))

    def write(self, points: Sequence[Point]) -> None:
        server, space = self._opened()
        batch = rows.Batch(points, single(space), self._url)
        make, objects, size = server.classes.data.DataObject, list[Any](), 0
        refused: dict[str, str] = {}
        sent = 0
        lie = lying(*batch.columns.values())
        for cells, values, (vector, changed) in zip(batch.rows, batch.vectors, lie, strict=True):
            id, uri, ordinal, text, start, end, page, headings, metadata, image = cells
            if max(abs(ordinal), abs(start), abs(end), abs(page or 0)) > LARGEST_NUMBER:
                batch.reasons[id] = "a number beyond 2^53, which Weaviate does not keep"
                continue
            if not values.size:
                batch.reasons[id] = "its vector has no rows"
                continue
            weight = 500 + len(id) + len(uri) + len(text) + len(headings) + len(metadata) + len(image or b"")
            weight += values.nbytes
            if objects and (size + weight > REQUEST or len(objects) == OBJECTS):
                refused |= self._put(server, objects)
                objects, size = [], 0
            own = values.astype("<f4").tobytes() if changed else None
            objects.append(make(properties=_properties(cells, own), uuid=key(id), vector={NAMED: vector}))
            size, sent = size + weight, sent + 1
        refused |= self._put(server, objects)
        if len(refused) == sent > 1:  # it is not the points
            raise SinkError(f"{self._url}: Weaviate refused all of a batch: {next(iter(refused.values()))}")
        batch.reasons |= refused
        batch.finish()

    def _put(self, server: Server, objects: list[Any]) -> dict[str, str]:
        """Write them; the reasons of those that Weaviate refuses, which it returns and does not raise."""
        if not objects:
            return {}
        ids = [made.properties["chunk_id"] for made in objects]
        try:
            with server.turn():
                errors = server.collection.data.insert_many(objects).errors
        except SinkError as error:
            if not isinstance(error.__cause__, server.all_failed):
                raise
            refused = dict.fromkeys(ids, line(error.__cause__))
        else:
            refused = {ids[i]: line(told.message) for i, told in errors.items()}
        for id, why in refused.items():
            if PASSING.search(why):
                raise SinkUnavailable(f"{self._url}, point {id}: {why}")
        return refused

    def delete(self, ids: Sequence[str]) -> None:
        server, _ = self._opened()
        if not ids:
            return
        wanted = server.classes.query.Filter.by_id().contains_any(list(dict.fromkeys(map(key, ids))))
        with server.turn():
            told = server.collection.data.delete_many(where=wanted)
        if told.failed:
            raise SinkUnavailable(f"{self._url}: {told.failed} of {told.matches} points could not be deleted")

    def flush(self) -> None:
        """A write is in the server's log, and to be read, when it is acknowledged."""
        self._opened()

    def ids(self) -> Iterator[Sequence[str]]:
        server, _ = self._opened()
        after: Any = None
        while True:
            with server.turn():
                found = server.collection.query.fetch_objects(
                    limit=PAGE, after=after, return_properties=["chunk_id"]
                ).objects
            if not found:
                return
            yield [_id(one.properties, self._url) for one in found]
            after = found[-1].uuid


def _id(properties: Mapping[str, Any], url: str) -> str:
    if not isinstance(id := properties.get("chunk_id"), str):
        raise SinkError(f"{url} holds an object that is not Penstock's")
    return id


class WeaviateIndex(_Weaviate, Index):
    """Asks the graph, and where that finds fewer than asked for, all that pass a filter: those are compared one by one
    up to the server's flatSearchCutoff, 40,000."""

    def open(self) -> None:
        kept = self._found()
        server = self._connect()
        try:
            server.greet()
        except BaseException:
            server.close()
            raise
        self._hold(server, kept.schema.only)

    def manifest(self) -> Manifest:
        return self._found()

    def search(
        self, vector: Vector, k: int = 10, where: Mapping[str, Any] | None = None, *, using: str | None = None
    ) -> list[Hit]:
        server, space = self._opened()
        rows.check(vector, space, f"a query of {self._url}")
        if k < 1:
            return []
        if k > LARGEST_K:
            raise UsageError(f"{self._url} finds {LARGEST_K:,} at most, not {k:,}")
        assert not isinstance(vector, Sparse)
        query = vector.values.astype("float32").reshape(-1, space.dim)
        if not len(query):
            raise SinkError(f"a query of {self._url} has no rows: nothing is near it")
        listed = (units(query)[0] if space.metric == "cosine" else query).tolist()
        many = space.kind == "MultiVector"
        values = listed if many else listed[0]
        f, tree = server.classes.query.Filter, filters.parse(where)
        wanted = None if tree is None else translate(tree, f)
        found = self._near(server, values, max(k, CANDIDATES) if many else k, wanted)[:k]
        if len(found) < k and wanted is None:
            found = self._near(server, values, k, always(f, True))
        return [Hit(-distance, chunk) for distance, chunk in found]

    def _near(self, server: Server, query: list[Any], k: int, wanted: Any) -> list[tuple[float, Chunk]]:
        try:
            found = self._asked(server, query, k, wanted, _RETURNED)
            return [(one.metadata.distance, _chunk(one.properties, self._url)) for one in found]
        except TooLarge:  # the answer, with the texts in it
            near = [
                (one.metadata.distance, _id(one.properties, self._url))
                for one in self._asked(server, query, k, wanted, ["chunk_id"])
            ]
        chunks = {point.id: point.chunk for point in self.fetch([id for _, id in near])}
        return [(distance, chunks[id]) for distance, id in near if id in chunks]

    def _asked(self, server: Server, query: list[Any], k: int, wanted: Any, named: list[str]) -> list[Any]:
        with server.turn():
            return list(
                server.collection.query.near_vector(
                    query,
                    limit=k,
                    filters=wanted,
                    target_vector=NAMED,
                    return_metadata=server.classes.query.MetadataQuery(distance=True),
                    return_properties=named,
                ).objects
            )
