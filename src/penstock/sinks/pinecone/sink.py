"""Writes points to a namespace of Pinecone."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Any, Self

from penstock.core import filters
from penstock.core.contracts import Sink
from penstock.core.errors import SinkError, SpaceMismatch
from penstock.core.records import VECTOR, Dense, Point, Sparse
from penstock.core.schema import Manifest
from penstock.sinks import manifests, rows, sparse
from penstock.sinks.bisect import in_halves
from penstock.sinks.collection import AddressStore, closed_on_error
from penstock.sinks.pinecone import wire
from penstock.sinks.pinecone.filters import translate
from penstock.sinks.pinecone.records import (
    HASHED,
    METADATA,
    Filterable,
    chunk_of,
    key,
    metadata_of,
    probe,
    same,
    vector_fields,
    vector_of,
)

RECORDS = 1000
REQUEST = 1_900_000
"""Bytes: the store takes 2 MB."""
STACK = 128
"""Vectors that are written as JSON at once."""
PENDING = 10_000
"""Deletions after which a flush is due."""


class PineconeStore(AddressStore[wire.Namespace]):
    """The part that sink and index share."""

    _parse = staticmethod(wire.parse)

    def generation(self, number: int) -> Self:
        """In an index of its own, `my-index-1`: all vectors of an index have one dimension."""
        url = re.sub("(?<=://)[^/]+", lambda index: f"{index[0]}-{number}", self._url, count=1)
        return type(self)(url, self._client) if self._client is not None else type(self)(url)

    def _connect(self) -> wire.Namespace:
        return wire.Namespace(self._address, self._client)

    def fetch(self, ids: Sequence[str]) -> Sequence[Point]:
        namespace, schema = self._opened()
        records = namespace.fetch([key(id) for id in ids]).values()
        return [Point(chunk_of(r.metadata), {VECTOR: vector_of(r, schema.only)}) for r in records]


class PineconeSink(PineconeStore, Sink):
    """A namespace of a serverless index. `client` is a `pinecone.Pinecone` of the user's.

    A record has one vector, and 40 KB of metadata at most, the text and what filters need included: points with more
    are refused. Sparse vectors are in a sparse index, with one value at least and none that is zero. Reading follows
    writing late, which `flush` waits for. Counts are the store's own statistics.
    """

    accepts = frozenset({Dense, Sparse})
    counts_exactly = False  # what is counted is behind what was written
    settle = 2.0  # seconds that reading may be behind writing, as a rule; a manifest is one record, the last one's
    max_rows = RECORDS
    max_bytes = 4 << 20
    max_text = 32_000
    """Of the 40 KB of a record, with what JSON adds."""
    writers = 2

    def __init__(self, url: str, client: Any = None) -> None:
        super().__init__(url, client)
        self._lock = threading.Lock()
        self._position: int | None = None
        """Of the log: up to here something was written."""
        self._last: Mapping[str, Any] | None = None
        """The record written last."""
        self._deleted: dict[str, str] = {}
        """Deleted and perhaps still seen: key -> id."""

    def manifest(self) -> Manifest | None:
        return self._kept()

    def drop(self) -> None:
        self.close()
        with self._lock:
            self._position = self._last = None
            self._deleted.clear()
        with closing(self._connect()) as namespace:
            if not namespace.connect():
                return
            if namespace.kept() is None and namespace.count():
                raise SinkError(f"{self._url} is a namespace that is not Penstock's; it stays")
            namespace.remove()

    def open(self, manifest: Manifest) -> None:
        manifests.supported(manifest.schema, self, manifests.PRODUCTS)
        with closed_on_error(self._connect()) as namespace:
            kept = namespace.manifest() or self._create(namespace, manifest)
            manifests.check_schema(kept.schema, manifest.schema, self._url)
            self._hold(namespace, kept.schema)

    def _create(self, namespace: wire.Namespace, manifest: Manifest) -> Manifest:
        """Create the index if need be, see that it suits and that the namespace is empty, and keep the manifest."""
        space = manifest.schema.only
        found = namespace.describe()
        if found is None or not namespace.connect():
            namespace.create(space)
            found = namespace.describe()
        dim, metric = getattr(found, "dimension", None), getattr(found, "metric", None)
        kind, metric = str(getattr(found, "vector_type", "dense")), str(getattr(metric, "value", metric))
        if (kind, dim, metric) != (wanted := wire.shape(space)):
            raise SpaceMismatch(
                f"{self._url}: the index takes {_describe(kind, dim, metric)}; this run makes {_describe(*wanted)} "
                f"(model {space.model}): use another index"
            )
        if namespace.count():
            raise SinkError(f"{self._url} is a namespace that is not Penstock's; name another one")
        if namespace.manifest() is None:  # still: to create an index takes long
            namespace.keep(manifests.to_json(manifest), space)
        time.sleep(self.settle)
        return namespace.manifest() or manifest  # another run's, where two began at once: the last one's stays

    def replace_manifest(self, manifest: Manifest) -> None:
        namespace, _ = self._opened()
        namespace.keep(manifests.to_json(manifest), manifest.schema.only)
        self._schema = manifest.schema

    def write(self, points: Sequence[Point]) -> None:
        namespace, schema = self._opened()
        batch = sparse.batched(points, schema, self._url, refused="zero")
        filterable = Filterable(points, namespace.dumps) if schema.filterable else None
        for records in _requests(namespace, batch, filterable):
            refused = dict(in_halves(records, partial(self._put, namespace), wire.Refused))
            if len(refused) == len(records) > 1:
                raise SinkError(next(iter(refused.values())))
            batch.reasons |= refused
        batch.finish()

    def _put(self, namespace: wire.Namespace, records: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
        """Write them. Raises Refused for a request as a whole; for a single record returns its id and the cause."""
        try:
            position = namespace.upsert(records)
        except wire.Refused as error:
            if len(records) > 1:
                raise
            return [(records[0]["metadata"]["id"], str(error))]
        with self._lock:
            self._last = records[-1]
            if position is not None:
                self._position = max(position, self._position or 0)
            for record in records if self._deleted else ():
                self._deleted.pop(record["id"], None)
        return []

    def delete(self, ids: Sequence[str]) -> None:
        namespace, _ = self._opened()
        keys = list({key(id): id for id in ids}.items())
        for start in range(0, len(keys), RECORDS):
            page = dict(keys[start : start + RECORDS])
            namespace.delete(list(page))
            with self._lock:
                self._deleted |= page
                if self._last is not None and self._last["id"] in self._deleted:
                    self._last = None
        if len(self._deleted) > PENDING:
            self.flush()

    def flush(self) -> None:
        """Wait until writes, which are durable already, are seen by searches and by id, and deletions too."""
        namespace, schema = self._opened()
        any_vector = probe(schema.only)
        with self._lock:
            position, last, deleted = self._position, self._last, list(self._deleted.items())
        deadline = time.monotonic() + wire.WAIT
        if position is not None:
            while (namespace.query(any_vector, 1)[1] or 0) < position:
                namespace.pause(deadline, "what was written is not seen")
        # the client does not return a deletion's position; by id, reading may be behind searching
        for start in range(0, len(deleted), RECORDS):
            page = dict(deleted[start : start + RECORDS])
            within = translate(filters.Among("id", tuple(page.values())))
            # no query finds every sparse vector: all of them are asked for by id
            some = list(page) if schema.only.kind == "Sparse" else list(page)[-wire.FETCH :]
            while namespace.query(any_vector, 1, within)[0] or namespace.fetch(some):
                namespace.pause(deadline, "what was deleted is still seen")
        behind = time.monotonic() + wire.SLACK
        while last is not None and not same(namespace.fetch([last["id"]]).get(last["id"]), last):
            if position is not None and time.monotonic() > behind:
                break  # searching sees it: another writer has changed the point since
            namespace.pause(deadline, "what was written is not read back")
        with self._lock:
            if self._last is last:
                self._last = None
            if self._position == position:
                self._position = None
            for record, _ in deleted:
                self._deleted.pop(record, None)

    def ids(self) -> Iterator[Sequence[str]]:
        namespace, _ = self._opened()
        for page in namespace.listed():
            hashed = [record for record in page if record.startswith(HASHED)]
            names = {r.id: str(r.metadata["id"]) for r in namespace.fetch(hashed).values()}
            yield [names.get(record, record) for record in page if record in names or not record.startswith(HASHED)]


def _requests(
    namespace: wire.Namespace, batch: rows.Batch, filterable: Filterable | None
) -> Iterator[list[dict[str, Any]]]:
    """The records that can be written, in requests of a good size; reasons for the others go into the batch."""
    (column,) = batch.columns.values()
    good: list[tuple[dict[str, Any], Any, int]] = []
    for row, vector in zip(batch.rows, column.rows, strict=True):
        try:
            metadata = metadata_of(row)
            size, added = len(namespace.dumps(metadata)), 0
            if filterable is not None:
                fields, added = filterable.fields(row[0])
                metadata |= fields
            if size + added > METADATA:
                and_filters = f", and {added:,} to filter by them" if added else ""
                raise ValueError(f"its text and metadata have {size:,} bytes{and_filters}; Pinecone takes {METADATA:,}")
            size += added
            if not (vector.values if isinstance(vector, Sparse) else vector).any():
                raise ValueError("its vector is all zeros or empty, which Pinecone does not take")
        except (ValueError, TypeError, RecursionError) as error:
            batch.reasons[row[0]] = str(error)
        else:
            good.append((metadata, vector, size))
    records: list[dict[str, Any]] = []
    total = 0
    for start in range(0, len(good), STACK):
        stack = good[start : start + STACK]
        vectors = vector_fields([vector for _, vector, _ in stack])
        for (metadata, _, size), (field, vector_size) in zip(stack, vectors, strict=True):
            more = vector_size + size + 600
            if records and (total + more > REQUEST or len(records) == RECORDS):
                yield records
                records, total = [], 0
            records.append({"id": key(metadata["id"]), **field, "metadata": metadata})
            total += more
    if records:
        yield records


def _describe(kind: str, dim: int | None, metric: str) -> str:
    return f"{kind} vectors {f'of {dim} dimensions ' if dim else ''}by {metric}"
