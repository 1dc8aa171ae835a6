"""`qdrant://`: a collection of a Qdrant server or cloud, over REST, or a folder of the client's local mode.

    qdrant://host:6333/notes?tls=1      a server, 1.16 or later; its key in QDRANT_API_KEY, if it wants one
    qdrant://./stores/notes             `notes` in the folder ./stores: some 20,000 points, one process at a time

A point's payload has the columns of `rows.COLUMNS`; the manifest is metadata of the collection. Qdrant scales the
vectors of its cosine collections, so a cosine space is kept as one of dot products: vectors whose length is 1, as
models make them, lie there as they are; of any other lies a copy of length 1, and its own bytes in the payload.
"""

from __future__ import annotations

import base64
import json
import re
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from penstock.core import filters
from penstock.core.contracts import Index, Sink
from penstock.core.errors import MissingExtra, SinkError, SinkUnavailable, TooLarge, UsageError
from penstock.core.filters import Absent, Among, Compare, Every, Filter, Not, Some
from penstock.core.records import VECTOR, Chunk, Dense, Hit, MultiVector, Point, Sparse, Vector
from penstock.core.schema import Manifest, VectorSpec, single
from penstock.sinks import address, manifests, rows
from penstock.sinks.lengths import key, lying, units
from penstock.sinks.store import Store, line, secret

if TYPE_CHECKING:
    from qdrant_client import QdrantClient, models

EXAMPLE = "qdrant://host:6333/notes?tls=1 or qdrant://./stores/notes"
KEY = "QDRANT_API_KEY"
MANIFEST = "penstock"
ORIGINAL = "original"
"""Where the payload keeps a vector's bytes, if another one lies in its place."""
PAGE = 500
TIMEOUT = 60
INDEXED = {"uri": "keyword", "page": "integer", "ordinal": "integer"}

_FORBIDDEN = re.compile(r'[<>:"/\\|?*\0-\x1f]')
_TURN = threading.RLock()
"""The local client has no locks of its own."""
_FOLDERS: dict[Path, tuple[QdrantClient, int]] = {}
"""Clients of folders, which lock out any other, and how many use them."""


def _address(url: str) -> address.Address:
    where = address.parse(url, "qdrant", EXAMPLE, port=6333, options=frozenset({"tls"}))
    if where.user:
        raise UsageError(f"{url!r}: Qdrant knows no users; its key is read from {KEY}")
    if _FORBIDDEN.search(where.names[0]) or len(where.names[0]) > 255:
        raise UsageError(f"{url!r}: Qdrant allows no such name for a collection")
    return where


class _Collection:
    """A collection through a client, whose errors become ours."""

    def __init__(self, url: str, where: address.Address, given: QdrantClient | None) -> None:
        try:
            import qdrant_client
            from qdrant_client.common.client_exceptions import QdrantException
            from qdrant_client.http import exceptions
        except ImportError as error:
            raise MissingExtra(f"{url} ({error.name})", "qdrant") from None
        self.url, self.name, self.local, self._folder = url, where.names[0], where.folder is not None, where.folder
        self.models, self._given, self._closed = qdrant_client.models, given, False
        self._refused, self._unreadable = exceptions.UnexpectedResponse, exceptions.ResponseHandlingException
        self._exhausted = QdrantException
        with self.turn():
            self.client = given or (self._shared() if self.local else self._server(where))

    def _server(self, where: address.Address) -> QdrantClient:
        from qdrant_client import QdrantClient

        host = f"[{where.host}]" if ":" in where.host else where.host
        return QdrantClient(
            host=host,
            port=where.port,
            https=where.tls,
            api_key=secret(KEY, self.url) or None,
            timeout=TIMEOUT,
            check_compatibility=False,  # it asks in a thread of its own, and warns from there
        )

    def _shared(self) -> QdrantClient:
        from qdrant_client import QdrantClient

        assert self._folder is not None
        self._folder = self._folder.resolve()
        client, users = _FOLDERS.get(self._folder, (None, 0))
        if client is None:
            client = QdrantClient(path=str(self._folder), force_disable_check_same_thread=True)
        _FOLDERS[self._folder] = client, users + 1
        return client

    def close(self) -> None:
        if self._closed or self._given is not None:
            return
        self._closed = True
        if not self.local:
            self.client.close()
            return
        assert self._folder is not None
        with self.turn():
            client, users = _FOLDERS.pop(self._folder)
            if users > 1:
                _FOLDERS[self._folder] = client, users - 1
            else:
                client.close()

    @contextmanager
    def turn(self) -> Iterator[None]:
        try:
            if self.local:
                with _TURN:
                    yield
            else:
                yield
        except self._refused as error:
            raise self._answer(error.status_code or 0, error.content) from error
        except self._exhausted as error:
            raise SinkUnavailable(f"{self.url}: Qdrant asks to wait: {line(error)}") from error
        except self._unreadable as error:
            raise self._silence(error.source) from error
        except ValueError as error:
            raise _Refused(f"{self.url}: Qdrant refused a request: {line(error)}") from error
        except (RuntimeError, OSError, sqlite3.Error) as error:
            if "already accessed" in str(error):
                raise SinkError(
                    f"{self.url} is in use by another process, and a folder serves one at a time: "
                    "end that one, or use a server"
                ) from error
            raise SinkError(f"{self.url}: {line(error)}") from error

    def _answer(self, status: int, content: bytes) -> SinkError:
        said = _said(content)
        if status in (401, 403):
            return SinkError(f"{self.url}: Qdrant refuses the key ({status}): set {KEY} to one that may write here")
        if status == 413:
            return TooLarge(f"{self.url}: {said or 'a request is too large'}")
        if status in (408, 429) or status >= 500:
            return SinkUnavailable(f"{self.url}: Qdrant answered {status}: {said}")
        if status in (400, 422):
            return _Refused(f"{self.url}: Qdrant refused a request ({status}): {said}")
        return SinkError(f"{self.url}: Qdrant answered {status}: {said or 'does it run there?'}")

    def _silence(self, cause: Exception) -> SinkError:
        from httpx import TransportError

        if not isinstance(cause, TransportError):
            return SinkError(f"{self.url}: what answers there is not Qdrant, or of another version: {line(cause)}")
        if "[SSL" in str(cause):
            return SinkError(f"{self.url}: no TLS connection: {line(cause)}; tls=1 is for servers that have it")
        return SinkUnavailable(f"{self.url} cannot be reached: {type(cause).__name__}: {line(cause)}")

    def info(self) -> models.CollectionInfo | None:
        with self.turn():
            if self.local and not self.client.collection_exists(self.name):
                return None
            try:
                return self.client.get_collection(self.name)
            except self._refused as error:
                if error.status_code == 404 and _said(error.content):
                    return None
                raise

    def manifest(self) -> Manifest | None:
        info = self.info()
        return None if info is None else _kept(info.config.metadata, self.url)

    def count(self) -> int:
        with self.turn():
            return int(self.client.count(self.name, exact=True).count)

    def remove(self) -> None:
        """With its aliases, which Qdrant lets go of by itself."""
        with self.turn():
            if not self.client.delete_collection(self.name):
                raise SinkError(f"{self.url} was not removed: is {self.name!r} an alias, or gone already?")

    def alias(self, name: str) -> None:
        """Have `name` stand for this collection: in one request, so that it is never missing."""
        m = self.models
        gone = m.DeleteAliasOperation(delete_alias=m.DeleteAlias(alias_name=name))  # if it is there
        made = m.CreateAliasOperation(create_alias=m.CreateAlias(collection_name=self.name, alias_name=name))
        with self.turn():
            self.client.update_collection_aliases([gone, made])

    def fetch(self, ids: Sequence[str], space: VectorSpec) -> list[Point]:
        wanted = list(dict.fromkeys(ids))
        found: list[Point] = []
        for start in range(0, len(wanted), PAGE):
            keys = [key(id) for id in wanted[start : start + PAGE]]
            with self.turn():
                records = self.client.retrieve(self.name, keys, with_payload=True, with_vectors=True)
            found += [self._point(record, space) for record in records]
        return found

    def _point(self, record: models.Record, space: VectorSpec) -> Point:
        payload, vectors = record.payload, record.vector
        if not isinstance(vectors, dict) or VECTOR not in vectors:
            raise SinkError(f"{self.url} holds a point without a vector: {record.id}")
        return Point(self.chunk(payload, record.id), {VECTOR: _vector(vectors[VECTOR], payload or {}, space)})

    def id(self, payload: Mapping[str, Any] | None, lies_under: object) -> str:
        if not payload or not isinstance(payload.get("id"), str):
            raise SinkError(f"{self.url} holds a point that is not Penstock's: {lies_under}")
        return str(payload["id"])

    def chunk(self, payload: Mapping[str, Any] | None, lies_under: object) -> Chunk:
        self.id(payload, lies_under)
        cells: dict[str, Any] = dict.fromkeys(rows.COLUMNS) | dict(payload or {})
        image = cells["image"]
        cells["image"] = None if image is None else base64.b64decode(image)
        return rows.chunk(tuple(cells[name] for name in rows.COLUMNS))


class _Refused(SinkError):
    """A request that Qdrant found wrong: for a batch, one point of it may be."""


def _said(content: bytes) -> str:
    """What Qdrant gives as the reason; nothing if it is not Qdrant that answers."""
    try:
        return line(json.loads(content)["status"]["error"])
    except (ValueError, KeyError, TypeError):
        return ""


def _kept(metadata: Mapping[str, Any] | None, url: str) -> Manifest:
    text = (metadata or {}).get(MANIFEST)
    if not isinstance(text, str):
        raise SinkError(f"{url} is a collection that is not Penstock's; name another one")
    return manifests.from_json(text, url)


def _in_folder(folder: Path, name: str, url: str) -> Manifest | None:
    """The manifest in a folder, without its client, which would read every point and lock the folder."""
    try:
        config = json.loads((folder / "meta.json").read_bytes())["collections"].get(name)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SinkError(f"{url} cannot be read: {line(error)}") from error
    return None if config is None else _kept(config.get("metadata"), url)


def _vector(values: Any, payload: Mapping[str, Any], space: VectorSpec) -> Vector:
    import numpy as np

    if space.kind == "Sparse":
        return Sparse(np.array(values.indices, np.int32), np.array(values.values, np.float32))
    if ORIGINAL in payload:
        flat = np.frombuffer(base64.b64decode(payload[ORIGINAL]), np.dtype("<f4")).astype(np.float32)
    else:
        flat = np.array(values, np.float32)
    return MultiVector(flat.reshape(-1, space.dim)) if space.kind == "MultiVector" else Dense(flat)


def translate(wanted: Filter, m: Any) -> Any:
    """The tree in Qdrant's language. Raises UsageError for what it has no words for: the order of texts."""
    none = m.HasIdCondition(has_id=[])
    match wanted:
        case Compare("id", "=", str(value)):
            return m.HasIdCondition(has_id=[key(value)])
        case Among("id", values):
            return m.HasIdCondition(has_id=[key(str(value)) for value in values])
        case Compare(field, "=", value):
            return m.FieldCondition(key=field, match=m.MatchValue(value=value)) if _speakable(value) else none
        case Compare(field, sign, int(value)):
            if abs(value) > 1 << 53:
                raise UsageError(f"{field}: Qdrant compares numbers up to 2^53, not {value}")
            bound = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}[sign]
            return m.FieldCondition(key=field, range=m.Range(**{bound: value}))
        case Compare(field, sign, _):
            raise UsageError(f"{field}: Qdrant does not order texts: {sign} is for numbers")
        case Among(field, values):
            known = [value for value in values if _speakable(value)]
            return m.FieldCondition(key=field, match=m.MatchAny(any=known)) if known else none
        case Absent(field):
            return m.IsEmptyCondition(is_empty=m.PayloadField(key=field))
        case Every(terms):
            return m.Filter(must=[translate(term, m) for term in terms])
        case Some(terms):
            return m.Filter(should=[translate(term, m) for term in terms])
        case Not(term):
            return m.Filter(must_not=[translate(term, m)])


def _speakable(value: str | int) -> bool:
    """A text with a lone surrogate has no UTF-8, and equals nothing that is stored."""
    return not (isinstance(value, str) and re.search("[\ud800-\udfff]", value))


class _Qdrant(Store[_Collection]):
    def __init__(self, url: str, client: QdrantClient | None = None) -> None:
        super().__init__(url, client)
        self._where = _address(url)

    def _connect(self) -> _Collection:
        return _Collection(self._url, self._where, self._client)

    def _kept(self) -> Manifest | None:
        folder = self._where.folder
        if folder is not None and self._client is None:
            return _in_folder(folder, self._where.names[0], self._url)
        return super()._kept()

    def fetch(self, ids: Sequence[str]) -> Sequence[Point]:
        collection, space = self._opened()
        return collection.fetch(ids, space)


class QdrantSink(_Qdrant, Sink):
    """A collection: `qdrant://host:6333/notes?tls=1`, or `qdrant://./stores/notes` for one process at a time."""

    accepts = frozenset({Dense, MultiVector, Sparse})
    max_rows = 512
    max_bytes = 4 << 20
    """As JSON a vector takes five times its bytes, and a server reads 32 MB at most."""

    def manifest(self) -> Manifest | None:
        return self._kept()

    def drop(self) -> None:
        self._drop()

    def alias(self, number: int) -> str:
        name = self._sibling("live")._where.names[0]
        with closing((self.generation(number) if number else self)._connect()) as collection:
            collection.alias(name)
        return name

    def open(self, manifest: Manifest) -> None:
        manifests.supported(manifest.schema, self, manifests.PRODUCTS)
        if self._where.folder is not None and self._client is None:
            manifests.make_folder(self._where.folder, self._url)
        collection = self._connect()
        try:
            info = collection.info() or self._create(collection, manifest)
            kept = _kept(info.config.metadata, self._url)
            manifests.agree(kept, manifest, self._url)
            self._index(collection, info)
        except BaseException:
            collection.close()
            raise
        self._hold(collection, kept.schema.only)

    def _create(self, collection: _Collection, manifest: Manifest) -> models.CollectionInfo:
        m, space = collection.models, manifest.schema.only
        given: dict[str, Any] = {"metadata": {MANIFEST: manifests.to_json(manifest)}}
        if space.kind == "Sparse":
            given |= {"vectors_config": {}, "sparse_vectors_config": {VECTOR: m.SparseVectorParams()}}
        else:
            distance = m.Distance.EUCLID if space.metric == "l2" else m.Distance.DOT
            params = m.VectorParams(size=space.dim, distance=distance)
            if space.kind == "MultiVector":
                params.multivector_config = m.MultiVectorConfig(comparator=m.MultiVectorComparator.MAX_SIM)
            given["vectors_config"] = {VECTOR: params}
        try:
            with collection.turn():
                collection.client.create_collection(collection.name, **given)
        except SinkError:
            if (made := collection.info()) is None:  # else another run was first
                raise
            return made
        made = collection.info()
        if made is None or not made.config.metadata:
            with collection.turn():
                collection.client.delete_collection(collection.name)
            raise SinkError(
                f"{self._url}: this server keeps no metadata of collections; Qdrant 1.16 or later is needed"
            )
        return made

    def _index(self, collection: _Collection, info: models.CollectionInfo) -> None:
        """What filters ask for. Servers in strict mode refuse to filter by anything else."""
        if collection.local:
            return
        for field, kind in INDEXED.items():
            if field not in info.payload_schema:
                schema = collection.models.PayloadSchemaType(kind)
                with collection.turn():
                    collection.client.create_payload_index(collection.name, field, schema, wait=True)

    def replace_manifest(self, manifest: Manifest) -> None:
        collection, _ = self._opened()
        with collection.turn():
            collection.client.update_collection(collection.name, metadata={MANIFEST: manifests.to_json(manifest)})
        self._space = manifest.schema.only

    def write(self, points: Sequence[Point]) -> None:
        collection, space = self._opened()
        batch = rows.Batch(points, single(space), self._url)
        structs = self._structs(batch, points, space, collection.models)
        refused = self._put(collection, structs)
        if len(refused) == len(structs) > 1:
            raise SinkError(next(iter(refused.values())))
        batch.reasons |= refused
        batch.finish()

    def _structs(
        self, batch: rows.Batch, points: Sequence[Point], space: VectorSpec, m: Any
    ) -> list[models.PointStruct]:
        """Made without the models' checks: the values are made here."""
        lie: Iterable[tuple[Any, bool]]
        if space.kind == "Sparse":
            newest = {point.id: cast(Sparse, point.vectors[VECTOR]).indices for point in points}
            ids = (cells[0] for cells in batch.rows)
            pairs = zip(ids, batch.vectors, strict=True)
            lie = ((m.SparseVector(indices=newest[id].tolist(), values=v.tolist()), False) for id, v in pairs)
        else:
            lie = lying(*batch.columns.values())
        made = []
        for cells, values, (vector, other) in zip(batch.rows, batch.vectors, lie, strict=True):
            payload = dict(zip(rows.COLUMNS, cells, strict=True))
            if payload["page"] is None:
                del payload["page"]
            if (image := payload.pop("image")) is not None:
                payload["image"] = base64.b64encode(image).decode()
            if other:
                payload[ORIGINAL] = base64.b64encode(values.astype("<f4").tobytes()).decode()
            made.append(m.PointStruct.model_construct(id=key(cells[0]), vector={VECTOR: vector}, payload=payload))
        return made

    def _put(self, collection: _Collection, structs: list[models.PointStruct]) -> dict[str, str]:
        """Write them; the reasons for those that Qdrant refuses, which it says of a batch as a whole."""
        if not structs:
            return {}
        try:
            with collection.turn():
                collection.client.upsert(collection.name, structs, wait=True)
        except _Refused as error:
            if len(structs) == 1:
                return {(structs[0].payload or {})["id"]: str(error)}
            half = len(structs) // 2
            return self._put(collection, structs[:half]) | self._put(collection, structs[half:])
        return {}

    def delete(self, ids: Sequence[str]) -> None:
        collection, _ = self._opened()
        if ids:
            selector = collection.models.PointIdsList(points=[key(id) for id in ids])
            with collection.turn():
                collection.client.delete(collection.name, selector, wait=True)

    def flush(self) -> None:
        """Each write waits until it is applied, and is in the server's log before that."""
        self._opened()

    def ids(self) -> Iterator[Sequence[str]]:
        collection, _ = self._opened()
        offset: Any = None
        while True:
            with collection.turn():
                page, offset = collection.client.scroll(
                    collection.name, limit=PAGE, offset=offset, with_payload=["id"], with_vectors=False
                )
            if page:
                yield [collection.id(record.payload, record.id) for record in page]
            if offset is None:
                return


class QdrantIndex(_Qdrant, Index):
    """Asks the collection's own index, and goes through all of it where that finds fewer than asked for."""

    def open(self) -> None:
        kept = self._found()
        self._hold(self._connect(), kept.schema.only)

    def manifest(self) -> Manifest:
        return self._found()

    def search(
        self, vector: Vector, k: int = 10, where: Mapping[str, Any] | None = None, *, using: str | None = None
    ) -> list[Hit]:
        collection, space = self._opened()
        rows.check(vector, space, f"a query of {self._url}")
        if k < 1:
            return []
        m = collection.models
        wanted = filters.parse(where)
        asked: dict[str, Any] = {"limit": k, "using": VECTOR, "with_payload": True, "with_vectors": False}
        if wanted is not None:
            asked["query_filter"] = m.Filter(must=[translate(wanted, m)])
        if isinstance(vector, Sparse):
            asked["query"] = m.SparseVector(indices=vector.indices.tolist(), values=vector.values.tolist())
        else:
            values = vector.values.astype("float32").reshape(-1, space.dim)
            values = units(values)[0] if space.metric == "cosine" else values
            asked["query"] = values.reshape(vector.values.shape).tolist()
        with collection.turn():
            found = collection.client.query_points(collection.name, **asked).points
            if len(found) < k and not collection.local and not isinstance(vector, Sparse):
                exact = m.SearchParams(exact=True)
                found = collection.client.query_points(collection.name, search_params=exact, **asked).points
        sign = -1.0 if space.metric == "l2" else 1.0
        return [Hit(sign * hit.score, collection.chunk(hit.payload, hit.id)) for hit in found]
