"""`chroma://`: a collection of a Chroma server, or of a folder.

    chroma://host:8000/notes?tls=1      a server (`chroma run`), or whatever speaks its API; 8000 if no port is given
    chroma://./stores/notes             the collection `notes` of the folder ./stores

For servers, CHROMA_TOKEN is sent as `x-chroma-token` and as a bearer token; CHROMA_TENANT and CHROMA_DATABASE name
others than Chroma's defaults. Chroma's telemetry is off, and its embedding functions are never loaded.

A point is Chroma's id, its document (the text) and four metadata: `uri`, `ordinal`, `page`, and `chunk`, which is JSON
of the rest. Chroma normalizes the vectors of cosine collections, so `chunk` has their very bits, which `fetch` gives back
and which hits are scored by.

**A folder serves one process at a time while it is written to**: each keeps the vector index in memory, and a second one
makes Chroma lose vectors. So a writer locks all others out, and readers lock writers out; for more, run a server.
"""

from __future__ import annotations

import json
import os
import re
import threading
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from penstock import filters
from penstock.contracts import Index, Sink
from penstock.errors import MissingExtra, PenstockError, Rejected, SinkError, TooLarge, Transient, UsageError
from penstock.filters import Absent, Among, Compare, Every, Filter, Not, Some
from penstock.records import NOTHING, VECTOR, Chunk, Dense, Hit, Manifest, Point, Space, Vector
from penstock.sinks import address, manifests, rows

EXAMPLE = "chroma://localhost:8000/notes?tls=1 or chroma://./stores/notes"
PAGE = 1000
TIMEOUT = 120.0
"""Seconds that a server may keep silent: it indexes a batch before it answers."""
SPACES = {"cosine": "cosine", "dot": "ip", "l2": "l2"}

ABSENT = -(1 << 63)
"""The page of what has none: an upsert merges metadata, so that all keys are written each time. No filter names it."""
ALWAYS = {"ordinal": {"$gt": ABSENT}}
NEVER = {"ordinal": {"$lte": ABSENT}}
MOST = 10_000
"""Values that Chroma compares a field with; its database takes some thirty thousand in all."""

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{1,510}[a-zA-Z0-9]")
_SIGNS = {"=": ("$eq", "$ne"), "<": ("$lt", "$gte"), "<=": ("$lte", "$gt"), ">": ("$gt", "$lte"), ">=": ("$gte", "$lt")}


def _place(url: str) -> address.Address:
    place = address.parse(url, "chroma", EXAMPLE, port=8000, options=frozenset({"tls"}))
    if not _NAME.fullmatch(place.names[0]):
        raise UsageError(f"{url}: Chroma wants names of 3 to 512 letters, digits and .-_, not {place.names[0]!r}")
    return place


# ---------------------------------------------------------------- reaching it


@contextmanager
def _told(url: str) -> Iterator[None]:
    """What Chroma and its client raise, as errors of Penstock."""
    try:
        import httpx
        from chromadb import errors
    except ImportError as error:
        raise MissingExtra(f"{url} ({error.name})", "chroma") from None
    try:
        yield
    except PenstockError:
        raise
    except (httpx.TransportError, errors.InternalError, errors.RateLimitError) as error:
        raise Transient(f"{url}: {str(error) or type(error).__name__}") from error
    except (errors.AuthorizationError, errors.ChromaAuthError) as error:
        raise _refused(url) from error
    except errors.BatchSizeExceededError as error:
        raise TooLarge(f"{url}: {error}") from error
    except Exception as error:
        # of an answer that is not Chroma's own, its client raises the text, while it handles the status
        status = error.__context__.response.status_code if isinstance(error.__context__, httpx.HTTPStatusError) else 0
        if status in (401, 403):
            raise _refused(url) from error
        cause = f"HTTP {status}: {str(error)[:200]}" if status else f"{type(error).__name__}: {str(error)[:200]}"
        kind = TooLarge if status == 413 else Transient if status == 429 or status >= 500 else SinkError
        raise kind(f"{url}: {cause}") from error


def _refused(url: str) -> SinkError:
    return SinkError(f"{url} refuses the token; set the environment variable CHROMA_TOKEN to one that may do this")


class _Server:
    """What is needed of chromadb's client, which waits for ever: this one has a timeout from its first request on."""

    def __init__(self, place: address.Address) -> None:
        from chromadb.api import ServerAPI
        from chromadb.config import DEFAULT_DATABASE, DEFAULT_TENANT, Settings, System

        token = os.environ.get("CHROMA_TOKEN")
        settings = Settings(
            anonymized_telemetry=False,
            chroma_api_impl="chromadb.api.fastapi.FastAPI",
            chroma_server_host=f"[{place.host}]" if ":" in place.host else place.host,
            chroma_server_http_port=place.port,
            chroma_server_ssl_enabled=place.tls,
            chroma_server_headers={"x-chroma-token": token, "Authorization": f"Bearer {token}"} if token else {},
        )
        self._api: Any = System(settings).instance(ServerAPI)
        self._api._session.timeout = TIMEOUT
        self._within = {
            "tenant": os.environ.get("CHROMA_TENANT") or DEFAULT_TENANT,
            "database": os.environ.get("CHROMA_DATABASE") or DEFAULT_DATABASE,
        }

    def get_collection(self, name: str, embedding_function: None) -> Any:
        return self._collection(self._api.get_collection(name, **self._within))

    def create_collection(self, name: str, embedding_function: None, **given: Any) -> Any:
        return self._collection(self._api.create_collection(name, **given, **self._within))

    def _collection(self, model: Any) -> Any:
        from chromadb.api.models.Collection import Collection

        return Collection(client=self._api, model=model, embedding_function=None)

    def get_max_batch_size(self) -> int:
        return int(self._api.get_max_batch_size())

    def close(self) -> None:
        self._api._session.close()


class _Lock:
    """A lock on a folder against other processes; within one they all have the same index in memory."""

    _held: dict[Path, tuple[IO[bytes], int]] = {}  # noqa: RUF012 - one for the process
    _turn = threading.Lock()

    def __init__(self, folder: Path, url: str, *, write: bool) -> None:
        self._folder = folder
        with self._turn:
            known, users = self._held.get(folder, (None, 0))
            try:
                file = known or open(folder / "penstock.lock", "ab")  # noqa: SIM115 - kept
            except OSError as error:
                raise SinkError(f"{url} cannot be locked: {error.strerror}") from error
            try:
                if write or known is None:
                    _take(file, write)
            except OSError as error:
                if known is None:
                    file.close()
                raise SinkError(
                    f"{url} is in use by another process, and Chroma's folders do not bear two; "
                    f"wait, or serve it: chroma run --path {folder}"
                ) from error
            self._held[folder] = file, users + 1

    def close(self) -> None:
        with self._turn:
            file, users = self._held.pop(self._folder)
            if users > 1:
                self._held[self._folder] = file, users - 1
            else:
                file.close()


def _take(file: IO[bytes], write: bool) -> None:
    if os.name == "nt":  # where a lock can only be exclusive
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    else:
        import fcntl

        fcntl.flock(file, (fcntl.LOCK_EX if write else fcntl.LOCK_SH) | fcntl.LOCK_NB)


class _Store:
    """A client, the user's or one of its own, and what is done with a collection of it."""

    def __init__(self, url: str, client: Any, lock: _Lock | None = None) -> None:
        self.url, self.place, self._given, self._lock = url, _place(url), client, lock
        self.collection: Any = None
        with _told(url):
            self.client = client if client is not None else self._client()

    def _client(self) -> Any:
        if self.place.folder is None:
            return _Server(self.place)
        from chromadb import PersistentClient
        from chromadb.config import Settings

        return PersistentClient(str(self.place.folder.resolve()), settings=Settings(anonymized_telemetry=False))

    def find(self) -> Manifest | None:
        """The collection's manifest, None where there is no collection. SinkError where it is not Penstock's."""
        from chromadb.errors import NotFoundError

        try:
            with _told(self.url):
                try:
                    self.collection = self.client.get_collection(self.place.names[0], embedding_function=None)
                except NotFoundError:
                    return None
        except SinkError as error:
            raise error from None
        kept = (self.collection.metadata or {}).get("penstock")
        if not isinstance(kept, str):
            raise SinkError(f"{self.url} is a collection that is not Penstock's; name another one")
        return manifests.from_json(kept, self.url)

    def create(self, manifest: Manifest) -> Manifest:
        """Another process may have been faster: what is there then counts."""
        with _told(self.url):
            self.client.create_collection(
                self.place.names[0],
                embedding_function=None,
                configuration={"hnsw": {"space": SPACES[manifest.space.metric]}},
                metadata={"penstock": manifests.to_json(manifest)},
                get_or_create=True,
            )
        return self.find() or manifest

    def count(self) -> int:
        with _told(self.url):
            return int(self.collection.count())

    def get(self, **asked: Any) -> Any:
        with _told(self.url):
            return self.collection.get(**asked)

    def fetch(self, ids: Sequence[str]) -> list[Point]:
        keys = list(dict.fromkeys(map(_key, ids)))
        return [p for page in _pages(self, keys, None) for p in page]

    def close(self) -> None:
        try:
            if self._given is None:
                self.client.close()
        finally:
            if self._lock is not None:
                self._lock.close()


def _connected(url: str, given: Any, *, write: bool) -> _Store:
    folder = _place(url).folder
    if folder is None or given is not None:
        return _Store(url, given)
    lock = _Lock(folder.resolve(), url, write=write)
    try:
        return _Store(url, None, lock)
    except BaseException:
        lock.close()
        raise


def _kept(url: str, given: Any) -> Manifest | None:
    folder = _place(url).folder
    if given is None and folder is not None and not (folder / "chroma.sqlite3").exists():
        return None  # a client would make the folder
    store = _Store(url, given)
    try:
        return store.find()
    finally:
        store.close()


# ---------------------------------------------------------------- points and filters


def _key(id: str) -> str:
    """Chroma's id: it wants one character at least."""
    return "\0" + id if not id or id[0] == "\0" else id


def _id(key: str) -> str:
    return key[1:] if key[0] == "\0" else key


def _metadata(cells: rows.Row, vector: Any) -> dict[str, Any]:
    _, uri, ordinal, _, start, end, page, headings, metadata, image = cells
    picture = "null" if image is None else f'"{b64encode(image).decode()}"'
    bits = b64encode(vector.astype("<f4", copy=False)).decode()
    rest = f'"span": [{start}, {end}], "headings": {headings}, "metadata": {metadata}, "image": {picture}'
    page = ABSENT if page is None else page
    return {"uri": uri, "ordinal": ordinal, "page": page, "chunk": f'{{{rest}, "vector": "{bits}"}}'}


def _points(answer: Any) -> list[Point]:
    import numpy as np

    found = []
    for key, text, kept in zip(answer["ids"], answer["documents"], answer["metadatas"], strict=True):
        rest = json.loads(kept["chunk"])
        chunk = Chunk(
            id=_id(key),
            uri=kept["uri"],
            ordinal=kept["ordinal"],
            text=text,
            span=tuple(rest["span"]),
            page=None if kept["page"] == ABSENT else kept["page"],
            headings=tuple(rest["headings"]),
            metadata=rest["metadata"] or NOTHING,
            image=None if rest["image"] is None else b64decode(rest["image"]),
        )
        values = np.frombuffer(b64decode(rest["vector"]), dtype="<f4").astype(np.float32, copy=False)
        found.append(Point(chunk, {VECTOR: Dense(values)}))
    return found


def _pages(store: _Store, keys: Sequence[str] | None, where: Mapping[str, Any] | None) -> Iterator[list[Point]]:
    """The points of these keys, or all that Chroma finds by `where`."""
    include = ["documents", "metadatas"]
    if keys is not None:
        for start in range(0, len(keys), PAGE):
            yield _points(store.get(ids=list(keys[start : start + PAGE]), include=include))
        return
    start = 0
    while page := _points(store.get(where=where, limit=PAGE, offset=start, include=include)):
        yield page
        start += PAGE


def _where(wanted: Filter, yes: bool = True) -> dict[str, Any] | None:
    """The filter, or its negation, which Chroma has none of. None for what Chroma cannot say: of ids and texts, and of
    the order of strings."""
    match wanted:
        case Compare("ordinal" | "page" | "uri" as field, sign, value) if field != "uri" or sign == "=":
            said = {field: {_SIGNS[sign][not yes]: value}}
            if field == "page" and sign in ("<", "<="):  # ABSENT is less than any page
                return {"$and": [said, {field: {"$ne": ABSENT}}]} if yes else {"$or": [said, {field: {"$eq": ABSENT}}]}
            return said
        case Among("ordinal" | "page" | "uri" as field, values) if len(values) <= MOST:
            return {field: {"$in" if yes else "$nin": list(values)}} if values else NEVER if yes else ALWAYS
        case Absent("page"):
            return {"page": {"$eq" if yes else "$ne": ABSENT}}
        case Absent():
            return NEVER if yes else ALWAYS
        case Not(term):
            return _where(term, not yes)
        case Every(terms) | Some(terms):
            every = isinstance(wanted, Every) is yes
            parts = [part for term in terms if (part := _where(term, yes)) is not None]
            if len(parts) < len(terms):
                return None
            if len(parts) < 2:
                return parts[0] if parts else ALWAYS if every else NEVER
            return {"$and" if every else "$or": parts}
    return None


def _named(wanted: Filter | None) -> list[str] | None:
    """The keys that a filter leaves at most, if it names ids."""
    match wanted:
        case Compare("id", "=", str(id)):
            return [_key(id)]
        case Among("id", ids):
            return [_key(id) for id in dict.fromkeys(ids) if isinstance(id, str)]
        case Every(terms):
            return next((keys for term in terms if (keys := _named(term)) is not None), None)
    return None


def _scores(query: Any, points: Sequence[Point], metric: str) -> Any:
    import numpy as np

    matrix = np.stack([point.vectors[VECTOR].values for point in points]).astype(np.float64)
    if metric == "l2":
        return -np.linalg.norm(matrix - query, axis=1)
    scores = matrix @ query
    if metric == "cosine":
        lengths = np.linalg.norm(matrix, axis=1) * np.linalg.norm(query)
        scores = np.divide(scores, lengths, out=np.zeros_like(scores), where=lengths > 0)
    return scores


# ---------------------------------------------------------------- the two


class _Opened:
    """What sink and index have in common."""

    def __init__(self, url: str, client: Any = None) -> None:
        _place(url)
        self._url, self._client = url, client
        self._store: _Store | None = None
        self._space: Space | None = None

    @property
    def url(self) -> str:
        return self._url

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._url!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._url, self._client)

    def _opened(self) -> tuple[_Store, Space]:
        if self._store is None or self._space is None:
            raise SinkError(f"{self._url} is not open")
        return self._store, self._space

    def count(self) -> int:
        return self._opened()[0].count()

    def fetch(self, ids: Sequence[str]) -> Sequence[Point]:
        return self._opened()[0].fetch(ids)

    def close(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            store.close()


class ChromaSink(_Opened, Sink):
    max_rows = 4096

    def manifest(self) -> Manifest | None:
        return _kept(self._url, self._client)

    def open(self, manifest: Manifest) -> None:
        manifests.supported(manifest.space, {"Dense"}, self._url)
        folder = _place(self._url).folder
        if folder is not None and self._client is None:
            manifests.make_folder(folder, self._url)
        store = _connected(self._url, self._client, write=True)
        try:
            kept = store.find() or store.create(manifest)
            manifests.agree(kept, manifest, self._url)
            with _told(self._url):
                self._most = int(store.client.get_max_batch_size())
        except BaseException:
            store.close()
            raise
        self._store, self._space = store, kept.space

    def replace_manifest(self, manifest: Manifest) -> None:
        store, _ = self._opened()
        others = {k: v for k, v in (store.collection.metadata or {}).items() if not k.startswith("hnsw:")}
        with _told(self._url):
            store.collection.modify(metadata={**others, "penstock": manifests.to_json(manifest)})
        self._space = manifest.space

    def write(self, points: Sequence[Point]) -> None:
        store, space = self._opened()
        batch = rows.Batch(points, space, self._url)
        good = []
        for cells, vector in zip(batch.rows, batch.vectors, strict=True):
            numbers = [cells[2], ABSENT + 1 if cells[6] is None else cells[6]]
            if all(ABSENT < number < -ABSENT for number in numbers):
                good.append((cells, vector))
            else:
                batch.reasons[cells[0]] = "its ordinal or page does not fit into 64 bits"
        for start in range(0, len(good), self._most):
            part = good[start : start + self._most]
            with _told(self._url):
                store.collection.upsert(
                    ids=[_key(cells[0]) for cells, _ in part],
                    embeddings=[vector for _, vector in part],
                    documents=[cells[3] for cells, _ in part],
                    metadatas=[_metadata(cells, vector) for cells, vector in part],
                )
        batch.finish()

    def delete(self, ids: Sequence[str]) -> None:
        store, _ = self._opened()
        keys = list(dict.fromkeys(map(_key, ids)))
        for start in range(0, len(keys), self._most):
            with _told(self._url):
                store.collection.delete(ids=keys[start : start + self._most])

    def flush(self) -> None:
        """Chroma has written what it acknowledged to its log, and every reader of it sees that."""
        self._opened()

    def ids(self) -> Iterator[Sequence[str]]:
        store, _ = self._opened()
        start = 0
        while page := store.get(limit=PAGE, offset=start, include=[])["ids"]:
            yield [_id(key) for key in page]
            start += len(page)


class ChromaIndex(_Opened, Index):
    """Searches Chroma's HNSW index; where that finds fewer than there are, or cannot filter so, all of them."""

    def open(self) -> None:
        manifest = self.manifest()
        store = _connected(self._url, self._client, write=False)
        try:
            store.find()
        except BaseException:
            store.close()
            raise
        self._store, self._space = store, manifest.space

    def manifest(self) -> Manifest:
        if (kept := _kept(self._url, self._client)) is None:
            raise SinkError(f"there is no index at {self._url}")
        return kept

    def search(self, vector: Vector, k: int = 10, where: Mapping[str, Any] | None = None) -> list[Hit]:
        store, space = self._opened()
        rows.check(vector, space, f"a query of {self._url}")
        assert isinstance(vector, Dense)
        wanted = filters.parse(where)
        if (k := min(k, store.count())) < 1:
            return []
        said = _where(wanted) if wanted else None
        found: list[Hit] = []
        if said is not None or wanted is None:
            with _told(self._url):
                answer = store.collection.query(
                    query_embeddings=[vector.values.astype("float32")],
                    n_results=k,
                    where=said,
                    include=["documents", "metadatas"],
                )
            found = self._best(
                [], _points({name: answer[name][0] for name in ("ids", "documents", "metadatas")}), vector, k
            )
        if len(found) < k:
            found = []
            for page in _pages(store, _named(wanted), said):
                found = self._best(found, [p for p in page if not wanted or filters.passes(p.chunk, wanted)], vector, k)
        return found

    def _best(self, found: list[Hit], points: Sequence[Point], vector: Dense, k: int) -> list[Hit]:
        if not points:
            return found
        _, space = self._opened()
        scores = _scores(vector.values.astype("float64"), points, space.metric)
        more = [Hit(float(score), point.chunk) for score, point in zip(scores, points, strict=True)]
        return sorted({hit.chunk.id: hit for hit in found + more}.values(), key=lambda hit: -hit.score)[:k]
