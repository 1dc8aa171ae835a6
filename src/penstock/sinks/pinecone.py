"""`pinecone://my-index/notes`: the namespace `notes` of a serverless index of Pinecone (clients 8 to 10).

The key: PINECONE_API_KEY. `cloud=aws&region=us-east-1` create the index where there is none; `host=localhost:5080` is
another controller than Pinecone's own, without TLS only on this machine (`tls=1` for TLS there as well).

One record a chunk: `id`, `uri`, `text`, `ordinal` and `page` are searched by, `has_page` stands for a null, which the
store does not know; headings and metadata are JSON text, an image is base64. All that together has 40 KB at most, and
points that have more are refused by id before anything is written. Vectors come back to the bit. Manifests are in a
namespace of their own. Reading follows writing late: `flush` waits for it. Counts are the store's own statistics.

Sparse vectors are in a sparse index, with one value at least and none that is zero. The store finds those that share an
index with the query, 1,000 at most.
"""

from __future__ import annotations

import base64
import hashlib
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, Self

from penstock.core import filters
from penstock.core.contracts import Index, Sink
from penstock.core.errors import SinkError, SpaceMismatch, UsageError
from penstock.core.records import VECTOR, Chunk, Dense, Hit, Point, Sparse, Vector
from penstock.core.schema import Manifest, VectorSpec, single
from penstock.sinks import manifests, rows, sparse
from penstock.sinks import pinecone_wire as wire
from penstock.sinks.store import Store

LARGEST_K = {"Dense": 10_000, "Sparse": 1000}
WHOLE = 40
"""Up to so many are asked for with their metadata: an answer has 4 MB at most."""
RECORDS = 1000
REQUEST = 1_900_000
"""Bytes: the store takes 2 MB."""
METADATA = 40_000
STACK = 128
"""Vectors that are written down at once."""
TERMS = 10_000
ENTRY = 40
"""Bytes of an index and its value, at most."""
EXACT = 1 << 53
"""Numbers are doubles there."""
HASHED = "sha256-"
PENDING = 10_000


def _key(id: str) -> str:
    """The record's id: the id itself, if it is one for Pinecone (printable ASCII, at most 512)."""
    if re.fullmatch(r"[!-~]{1,512}", id) and not id.startswith(HASHED):
        return id
    return HASHED + hashlib.sha256(id.encode("utf-8", "surrogatepass")).hexdigest()


def _metadata(row: rows.Row) -> dict[str, Any]:
    fields = dict(zip(rows.COLUMNS, row, strict=True))
    page, image = fields.pop("page"), fields.pop("image")
    for name, value in (("ordinal", fields["ordinal"]), ("page", page), *zip(("start", "end"), row[4:6], strict=True)):
        if value is not None and abs(value) > EXACT:
            raise ValueError(f"its {name} is {value}; Pinecone keeps numbers up to 2^53")
    fields["has_page"] = page is not None
    if page is not None:
        fields["page"] = page
    if image is not None:
        fields["image"] = base64.b64encode(image).decode("ascii")
    return fields


def _chunk(found: Mapping[str, Any]) -> Chunk:
    cells = dict(found)
    for name in ("ordinal", "start", "end", "page"):
        if name in cells:
            cells[name] = int(cells[name])
    if "image" in cells:
        cells["image"] = base64.b64decode(cells["image"])
    return rows.chunk(tuple(cells.get(name) for name in rows.COLUMNS))


_PAGED: dict[str, Any] = {"has_page": {"$eq": True}}
_PAGELESS: dict[str, Any] = {"has_page": {"$eq": False}}
_ALL: dict[str, Any] = {"$or": [_PAGED, _PAGELESS]}
_NONE: dict[str, Any] = {"$and": [_PAGED, _PAGELESS]}
_SIGNS = {"<": "$lt", "<=": "$lte", ">": "$gt", ">=": "$gte"}
_OPPOSITE = {"<": "$gte", "<=": "$gt", ">": "$lte", ">=": "$lt"}


def translate(wanted: filters.Filter, *, negated: bool = False) -> dict[str, Any]:
    """The tree in Pinecone's language, which has no `not`: it goes down to the comparisons."""
    match wanted:
        case filters.Not(term):
            return translate(term, negated=not negated)
        case filters.Every(terms):
            return _several(terms, negated, every=not negated)
        case filters.Some(terms):
            return _several(terms, negated, every=negated)
        case filters.Absent(field):
            if field == "page":
                return _PAGED if negated else _PAGELESS
            return _ALL if negated else _NONE
        case filters.Compare(field, sign, str()) if sign != "=":
            raise UsageError(f"{field}: Pinecone does not order texts: {sign} is for numbers")
        case filters.Compare(field, "=", value):
            return _among(field, (value,), negated)
        case filters.Compare(field, sign, value):
            test = {field: {(_OPPOSITE if negated else _SIGNS)[sign]: _speakable(field, value)}}
            return _or_pageless(field, test) if negated else test
        case filters.Among(field, values):
            return _among(field, values, negated)


def _several(terms: Sequence[filters.Filter], negated: bool, *, every: bool) -> dict[str, Any]:
    parts = [translate(term, negated=negated) for term in terms]
    if len(parts) < 2:
        return parts[0] if parts else (_ALL if every else _NONE)
    return {"$and" if every else "$or": parts}


def _among(field: str, values: Sequence[filters.Value], negated: bool) -> dict[str, Any]:
    known = [value for value in (_speakable(field, value) for value in values) if value is not None]
    if not known:
        return _ALL if negated else _NONE
    if len(known) == 1:
        test: dict[str, Any] = {field: {"$ne" if negated else "$eq": known[0]}}
    else:
        sign = "$nin" if negated else "$in"
        tests = [{field: {sign: known[i : i + TERMS]}} for i in range(0, len(known), TERMS)]
        test = tests[0] if len(tests) == 1 else {"$and" if negated else "$or": tests}
    return _or_pageless(field, test) if negated else test


def _or_pageless(field: str, test: dict[str, Any]) -> dict[str, Any]:
    return {"$or": [_PAGELESS, test]} if field == "page" else test


def _speakable(field: str, value: filters.Value) -> filters.Value | None:
    """None for a text with a lone surrogate: it has no UTF-8, and equals nothing that is stored."""
    if isinstance(value, str):
        return None if re.search("[\ud800-\udfff]", value) else value
    if abs(value) > EXACT:
        raise UsageError(f"{field}: Pinecone compares numbers up to 2^53, not {value}")
    return value


class _Pinecone(Store[wire.Namespace]):
    def __init__(self, url: str, client: Any = None) -> None:
        super().__init__(url, client)
        wire.place(url)

    def generation(self, number: int) -> Self:
        """In an index of its own, `my-index-1`: all vectors of an index have one dimension."""
        url = re.sub("(?<=://)[^/]+", lambda index: f"{index[0]}-{number}", self._url, count=1)
        return type(self)(url, self._client) if self._client is not None else type(self)(url)

    def _connect(self) -> wire.Namespace:
        return wire.Namespace(self._url, self._client)

    def fetch(self, ids: Sequence[str]) -> Sequence[Point]:
        namespace, space = self._opened()
        found = namespace.fetch([_key(id) for id in ids]).values()
        return [Point(_chunk(r.metadata), {VECTOR: _vector(r, space)}) for r in found]


def _vector(found: Any, space: VectorSpec) -> Dense | Sparse:
    import numpy as np

    if space.kind != "Sparse":
        return Dense(np.array(found.values, np.float32))
    given = found.sparse_values
    return sparse.ordered(Sparse(np.array(given.indices, np.int32), np.array(given.values, np.float32)))


class PineconeSink(_Pinecone, Sink):
    """A namespace of a serverless index. `client` is a `pinecone.Pinecone` of the user's."""

    accepts = frozenset({Dense, Sparse})
    max_rows = RECORDS
    max_bytes = 4 << 20
    max_text = 32_000
    """Of the 40 KB of a record, with what JSON makes of it."""
    writers = 2

    def __init__(self, url: str, client: Any = None) -> None:
        super().__init__(url, client)
        self._lock = threading.Lock()
        self._position: int | None = None
        self._last: Mapping[str, Any] | None = None
        self._gone: dict[str, str] = {}
        """Deleted and perhaps still seen: key -> id."""

    def manifest(self) -> Manifest | None:
        return self._kept()

    def drop(self) -> None:
        self.close()
        with self._lock:
            self._position = self._last = None
            self._gone.clear()
        with closing(self._connect()) as namespace:
            if not namespace.connect():
                return
            if namespace.kept() is None and namespace.count():
                raise SinkError(f"{self._url} is a namespace that is not Penstock's; it stays")
            namespace.remove()

    def open(self, manifest: Manifest) -> None:
        manifests.supported(manifest.schema, self, manifests.PRODUCTS)
        namespace = self._connect()
        try:
            kept = namespace.manifest()
            if kept is None:
                kept = self._begin(namespace, manifest)
            manifests.agree(kept, manifest, self._url)
        except BaseException:
            namespace.close()
            raise
        self._hold(namespace, kept.schema.only)

    def _begin(self, namespace: wire.Namespace, manifest: Manifest) -> Manifest:
        """Make the index if need be, see that it suits and that nothing is in the way, and keep the manifest."""
        space = manifest.schema.only
        found = namespace.describe()
        if found is None:
            namespace.create(space)
            found = namespace.describe()
        dim, metric = getattr(found, "dimension", None), getattr(found, "metric", None)
        kind, metric = str(getattr(found, "vector_type", "dense")), str(getattr(metric, "value", metric))
        if (kind, dim, metric) != (wanted := wire.shape(space)):
            raise SpaceMismatch(
                f"{self._url}: the index takes {_told(kind, dim, metric)}; this run makes {_told(*wanted)} "
                f"(model {space.model}): use another index"
            )
        if namespace.count():
            raise SinkError(f"{self._url} is a namespace that is not Penstock's; name another one")
        namespace.keep(manifests.to_json(manifest), space)
        return namespace.manifest() or manifest  # another run's, where two began at once

    def replace_manifest(self, manifest: Manifest) -> None:
        namespace, space = self._opened()
        namespace.keep(manifests.to_json(manifest), space)
        self._space = manifest.schema.only

    def write(self, points: Sequence[Point]) -> None:
        namespace, space = self._opened()
        batch = sparse.batched(points, single(space), self._url, refused="zero")
        for records in self._requests(namespace, batch):
            refused = self._put(namespace, records)
            if len(refused) == len(records) > 1:
                raise SinkError(next(iter(refused.values())))
            batch.reasons |= refused
        batch.finish()

    def _requests(self, namespace: wire.Namespace, batch: rows.Batch) -> Iterator[list[dict[str, Any]]]:
        """The records that can be written, in requests of a good size."""
        good: list[tuple[dict[str, Any], Any, int]] = []
        for row, vector in zip(batch.rows, batch.vectors, strict=True):
            try:
                metadata = _metadata(row)
                taken = len(namespace.dumps(metadata))
                if taken > METADATA:
                    raise ValueError(f"its text and metadata have {taken:,} bytes; Pinecone takes {METADATA:,}")
                if not (vector.values if isinstance(vector, Sparse) else vector).any():
                    raise ValueError("its vector is all zeros or empty, which Pinecone does not take")
            except (ValueError, TypeError) as error:
                batch.reasons[row[0]] = str(error)
            else:
                good.append((metadata, vector, taken))
        records: list[dict[str, Any]] = []
        size = 0
        for start in range(0, len(good), STACK):
            part = good[start : start + STACK]
            valued = _valued(namespace, [vector for _, vector, _ in part])
            for (metadata, _, taken), (values, each) in zip(part, valued, strict=True):
                more = each + taken + 600
                if records and (size + more > REQUEST or len(records) == RECORDS):
                    yield records
                    records, size = [], 0
                records.append({"id": _key(metadata["id"]), **values, "metadata": metadata})
                size += more
        if records:
            yield records

    def _put(self, namespace: wire.Namespace, records: list[dict[str, Any]]) -> dict[str, str]:
        """Write them; the reasons for those that Pinecone refuses, which it says of a request as a whole."""
        try:
            position = namespace.upsert(records)
        except wire.Refused as error:
            if len(records) == 1:
                return {records[0]["metadata"]["id"]: str(error)}
            half = len(records) // 2
            return self._put(namespace, records[:half]) | self._put(namespace, records[half:])
        with self._lock:
            self._last = records[-1]
            if position is not None:
                self._position = max(position, self._position or 0)
            for record in records if self._gone else ():
                self._gone.pop(record["id"], None)
        return {}

    def delete(self, ids: Sequence[str]) -> None:
        namespace, _ = self._opened()
        keys = list({_key(id): id for id in ids}.items())
        for start in range(0, len(keys), RECORDS):
            page = dict(keys[start : start + RECORDS])
            namespace.delete(list(page))
            with self._lock:
                self._gone |= page
                if self._last is not None and self._last["id"] in self._gone:
                    self._last = None
        if len(self._gone) > PENDING:
            self.flush()

    def flush(self) -> None:
        """What is written is durable. This waits until it is seen, searching and by id, and what is deleted is not."""
        namespace, space = self._opened()
        with self._lock:
            position, last, gone = self._position, self._last, list(self._gone.items())
        deadline = time.monotonic() + wire.WAIT
        if position is not None:
            while (namespace.query(wire.probe(space), 1)[1] or 0) < position:
                namespace.pause(deadline, "what was written is not seen")
        # a deletion's place in the log is not told by the client; by id, reading may be behind searching
        for start in range(0, len(gone), RECORDS):
            page = dict(gone[start : start + RECORDS])
            within = translate(filters.Among("id", tuple(page.values())))
            # no query finds every sparse vector: all of them are asked for by id
            asked = list(page) if space.kind == "Sparse" else list(page)[-wire.FETCH :]
            while namespace.query(wire.probe(space), 1, within)[0] or namespace.fetch(asked):
                namespace.pause(deadline, "what was deleted is still seen")
        behind = time.monotonic() + wire.SLACK
        while last is not None and not _same(namespace.fetch([last["id"]]).get(last["id"]), last):
            if position is not None and time.monotonic() > behind:
                break  # searching sees it: another writer has the point changed since
            namespace.pause(deadline, "what was written is not read back")
        with self._lock:
            if self._last is last:
                self._last = None
            if self._position == position:
                self._position = None
            for key, _ in gone:
                self._gone.pop(key, None)

    def ids(self) -> Iterator[Sequence[str]]:
        namespace, _ = self._opened()
        for page in namespace.listed():
            names = {r.id: str(r.metadata["id"]) for r in namespace.fetch(_hashed(page)).values()}
            yield [names.get(key, key) for key in page if key in names or not key.startswith(HASHED)]


def _hashed(keys: Sequence[str]) -> list[str]:
    return [key for key in keys if key.startswith(HASHED)]


def _told(kind: str, dim: int | None, metric: str) -> str:
    return f"{kind} vectors {f'of {dim} dimensions ' if dim else ''}by {metric}"


def _valued(namespace: wire.Namespace, vectors: Sequence[Any]) -> Iterator[tuple[dict[str, Any], int]]:
    """Of each vector what a record has of it, and the bytes that it takes."""
    if isinstance(vectors[0], Sparse):
        for vector in vectors:
            yield {"sparse_values": wire.entries(vector)}, ENTRY * len(vector.values)
        return
    lists, each = namespace.short(vectors)
    for values in lists:
        yield {"values": values}, each


def _same(found: Any, record: Mapping[str, Any]) -> bool:
    import numpy as np

    if found is None or dict(found.metadata) != record["metadata"]:
        return False
    if (wanted := record.get("sparse_values")) is not None:
        kept = dict(zip(found.sparse_values.indices, found.sparse_values.values, strict=True))
        return sorted(kept) == wanted["indices"] and bool(
            np.allclose([kept[index] for index in wanted["indices"]], wanted["values"], rtol=1e-3)
        )
    return bool(np.allclose(found.values, record["values"], rtol=1e-3))


class PineconeIndex(_Pinecone, Index):
    """Asks the namespace, which narrows before it chooses the nearest."""

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
        self._hold(namespace, kept.schema.only)

    def search(
        self, vector: Vector, k: int = 10, where: Mapping[str, Any] | None = None, *, using: str | None = None
    ) -> list[Hit]:
        import numpy as np

        namespace, space = self._opened()
        rows.check(vector, space, f"a query of {self._url}")
        if k < 1:
            return []
        if k > (most := LARGEST_K[space.kind]):
            raise UsageError(f"{self._url} finds {most:,} at most, not {k:,}")
        query: Any
        if isinstance(vector, Sparse):
            query = wire.entries(sparse.asked(vector, self._url))
            if not query["indices"]:
                return []
        else:
            values = np.ascontiguousarray(vector.values, dtype=np.float32)
            if not np.isfinite(values).all() or not values.any():
                raise SinkError(f"a query of {self._url} is all zeros, or holds NaN or infinity: nothing is near it")
            query = values.tolist()
        wanted = filters.parse(where)
        within = None if wanted is None else translate(wanted)
        found, _ = namespace.query(query, k, within, metadata=k <= WHOLE)
        if k <= WHOLE:
            chunks = {match.id: match.metadata for match in found}
        else:
            chunks = {key: r.metadata for key, r in namespace.fetch([match.id for match in found]).items()}
        sign = -1.0 if space.metric == "l2" else 1.0
        return [Hit(sign * match.score, _chunk(chunks[match.id])) for match in found if match.id in chunks]
