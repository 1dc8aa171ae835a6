"""`chroma://`: a collection of a Chroma server, or of a folder.

    chroma://host:8000/notes?tls=1      a server (`chroma run`), or what speaks its API; 8000 if no port is given
    chroma://./stores/notes             the collection `notes` of the folder ./stores

For servers, CHROMA_TOKEN is sent as `x-chroma-token` and as a bearer token; CHROMA_TENANT and CHROMA_DATABASE name
others than Chroma's defaults. Chroma's telemetry is off, and its embedding functions are never loaded.

A point is Chroma's id, its document (the text) and four metadata: `uri`, `ordinal`, `page`, and `chunk`, which is
JSON of the rest. Chroma normalizes the vectors of cosine collections, so `chunk` has their very bits, which `fetch`
gives back and hits are scored by.

**A folder serves one process at a time while it is written to**: each keeps the vector index in memory, and a second
one makes Chroma lose vectors. So a writer locks all others out, and readers lock writers out; or run a server.
"""

from __future__ import annotations

import json
import re
import shutil
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import count
from typing import Any, Self

from penstock.core import filters
from penstock.core.contracts import Index, Sink
from penstock.core.errors import SinkError, UsageError
from penstock.core.filters import Absent, Among, Compare, Every, Filter, Not, Some
from penstock.core.records import NOTHING, VECTOR, Chunk, Dense, Hit, Point, Vector
from penstock.core.schema import Manifest, VectorSpec, single
from penstock.sinks import address, manifests, rows
from penstock.sinks.chroma_wire import Lock, client, drivers, left_behind, told

EXAMPLE = "chroma://localhost:8000/notes?tls=1 or chroma://./stores/notes"
PAGE = 1000
SPACES = {"cosine": "cosine", "dot": "ip", "l2": "l2"}

ABSENT = -(1 << 63)
"""The page of what has none: an upsert merges metadata, so that all keys are written each time. No filter names it."""
ALWAYS = {"ordinal": {"$gt": ABSENT}}
NEVER = {"ordinal": {"$lte": ABSENT}}
MOST = 5000
"""Values that Chroma compares a field with; its database takes some thirty thousand in all."""

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{1,510}[a-zA-Z0-9]")
_SIGNS = {"=": ("$eq", "$ne"), "<": ("$lt", "$gte"), "<=": ("$lte", "$gt"), ">": ("$gt", "$lte"), ">=": ("$gte", "$lt")}


def _place(url: str) -> address.Address:
    place = address.parse(url, "chroma", EXAMPLE, port=8000, options=frozenset({"tls"}))
    if not _NAME.fullmatch(place.names[0]):
        raise UsageError(f"{url}: Chroma wants names of 3 to 512 letters, digits and .-_, not {place.names[0]!r}")
    return place


class _Collection:
    """What sink and index have in common: a client, the user's or one of its own, and a collection of it."""

    def __init__(self, url: str, client: Any = None) -> None:
        self._url, self._place, self._given = url, _place(url), client
        self._lock: Lock | None = None
        self._client: Any = None
        self._collection: Any = None
        self._space: VectorSpec | None = None

    @property
    def url(self) -> str:
        return self._url

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._url!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._url, self._given)

    def generation(self, number: int) -> Self:
        return type(self)(manifests.numbered(self._url, number), self._given)

    def _kept(self) -> Manifest | None:
        """The manifest, by a client of its own: no lock, since it does not touch the vectors."""
        folder = self._place.folder
        if self._given is None and folder is not None and not (folder / "chroma.sqlite3").exists():
            return None  # a client would make the folder
        other = _Collection(self._url, self._given)
        with closing(other):
            other._connect()
            return other._find()

    def _connect(self) -> None:
        with told(self._url):
            self._client = self._given if self._given is not None else client(self._place)

    def _find(self) -> Manifest | None:
        from chromadb.errors import NotFoundError

        with told(self._url):
            try:
                self._collection = self._client.get_collection(self._place.names[0], embedding_function=None)
            except NotFoundError:
                return None
        kept = (self._collection.metadata or {}).get("penstock")
        if not isinstance(kept, str):
            raise SinkError(f"{self._url} is a collection that is not Penstock's; name another one")
        return manifests.from_json(kept, self._url)

    @contextmanager
    def _opening(self, *, write: bool) -> Iterator[None]:
        """Connected, and locked if it is a folder; closed again if something goes wrong."""
        self.close()
        drivers(self._url)
        folder = self._place.folder
        try:
            if self._given is None and folder is not None:
                if write:
                    manifests.make_folder(folder, self._url)
                self._lock = Lock(folder.resolve(), self._url, write=write)
            self._connect()
            yield
        except BaseException:
            self.close()
            raise

    def _opened(self) -> tuple[Any, VectorSpec]:
        if self._collection is None or self._space is None:
            raise SinkError(f"{self._url} is not open")
        return self._collection, self._space

    def count(self) -> int:
        collection, _ = self._opened()
        with told(self._url):
            return int(collection.count())

    def _get(self, **asked: Any) -> Any:
        collection, _ = self._opened()
        with told(self._url):
            return collection.get(**asked)

    def _pages(self, keys: Sequence[str] | None, where: Mapping[str, Any] | None = None) -> Iterator[list[Point]]:
        """The points of these keys, or all that Chroma finds by `where`."""
        for start in count(0, PAGE):
            if keys is None:
                asked: dict[str, Any] = {"where": where, "limit": PAGE, "offset": start}
            elif start < len(keys):
                asked = {"ids": list(keys[start : start + PAGE])}
            else:
                return
            page = _points(self._get(include=["documents", "metadatas"], **asked))
            if not page and keys is None:
                return
            yield page

    def fetch(self, ids: Sequence[str]) -> Sequence[Point]:
        return [point for page in self._pages([*dict.fromkeys(map(_key, ids))]) for point in page]

    def close(self) -> None:
        mine, lock = self._client, self._lock
        self._client = self._collection = self._space = self._lock = None
        try:
            if mine is not None and mine is not self._given:
                mine.close()
        finally:
            if lock is not None:
                lock.close()


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


def _where(wanted: Filter, yes: bool = True) -> dict[str, Any] | None:
    """The filter, or its negation, which Chroma has none of. None for what Chroma cannot say: of ids and texts, and of
    the order of strings."""
    match wanted:
        case Compare("ordinal" | "page" | "uri" as field, sign, value) if field != "uri" or sign == "=":
            said: dict[str, Any] = {field: {_SIGNS[sign][not yes]: value}}
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

    query = query.astype(np.float64)
    matrix = np.stack([point.vectors[VECTOR].values for point in points]).astype(np.float64)
    if metric == "l2":
        return -np.linalg.norm(matrix - query, axis=1)
    scores = matrix @ query
    if metric == "cosine":
        lengths = np.linalg.norm(matrix, axis=1) * np.linalg.norm(query)
        scores = np.divide(scores, lengths, out=np.zeros_like(scores), where=lengths > 0)
    return scores


# ---------------------------------------------------------------- the two


class ChromaSink(_Collection, Sink):
    max_rows = 2048
    max_bytes = 12 << 20
    """A server takes requests of 40 MB, and vectors are in them twice, in base 64."""

    def manifest(self) -> Manifest | None:
        return self._kept()

    def drop(self) -> None:
        if self._kept() is not None:
            with self._opening(write=True), told(self._url):
                self._find()
                left = [] if self._given is not None else left_behind(self._place, str(self._collection.id))
                self._client.delete_collection(self._place.names[0])
                for folder in left:
                    shutil.rmtree(folder, ignore_errors=True)  # nothing but room on the disk is lost with it
        self.close()

    def open(self, manifest: Manifest) -> None:
        manifests.supported(manifest.schema, self)
        with self._opening(write=True):
            kept = self._find() or self._create(manifest)
            manifests.agree(kept, manifest, self._url)
            with told(self._url):
                self._most = int(self._client.get_max_batch_size())
            self._space = kept.schema.only

    def _create(self, manifest: Manifest) -> Manifest:
        """Another process may have been faster: what is there then counts."""
        with told(self._url):
            self._client.create_collection(
                self._place.names[0],
                embedding_function=None,
                configuration={"hnsw": {"space": SPACES[manifest.schema.only.metric]}},
                metadata={"penstock": manifests.to_json(manifest)},
                get_or_create=True,
            )
        return self._find() or manifest

    def replace_manifest(self, manifest: Manifest) -> None:
        collection, _ = self._opened()
        others = {k: v for k, v in collection.metadata.items() if not k.startswith("hnsw:")}
        with told(self._url):
            collection.modify(metadata={**others, "penstock": manifests.to_json(manifest)})
        self._space = manifest.schema.only

    def write(self, points: Sequence[Point]) -> None:
        collection, space = self._opened()
        batch = rows.Batch(points, single(space), self._url)
        good = []
        for cells, vector in zip(batch.rows, batch.vectors, strict=True):
            if all(ABSENT < number < -ABSENT for number in (cells[2], cells[6] or 0)):
                good.append((cells, vector))
            else:
                batch.reasons[cells[0]] = "its ordinal or page does not fit into 64 bits"
        for start in range(0, len(good), self._most):
            part = good[start : start + self._most]
            with told(self._url):
                collection.upsert(
                    ids=[_key(cells[0]) for cells, _ in part],
                    embeddings=[vector for _, vector in part],
                    documents=[cells[3] for cells, _ in part],
                    metadatas=[_metadata(cells, vector) for cells, vector in part],
                )
        batch.finish()

    def delete(self, ids: Sequence[str]) -> None:
        collection, _ = self._opened()
        keys = [*dict.fromkeys(map(_key, ids))]
        for start in range(0, len(keys), self._most):
            with told(self._url):
                collection.delete(ids=keys[start : start + self._most])

    def flush(self) -> None:
        """Chroma has written what it acknowledged to its log, which every reader sees."""
        self._opened()

    def ids(self) -> Iterator[Sequence[str]]:
        start = 0
        while page := self._get(limit=PAGE, offset=start, include=[])["ids"]:
            yield [_id(key) for key in page]
            start += len(page)


class ChromaIndex(_Collection, Index):
    """Asks Chroma's HNSW index; where that finds fewer than there are, or cannot filter so, it compares with all."""

    def open(self) -> None:
        self.manifest()  # before a lock is put into a folder that is not there
        with self._opening(write=False):
            self._space = (self._find() or self.manifest()).schema.only

    def manifest(self) -> Manifest:
        if (kept := self._kept()) is None:
            raise SinkError(f"there is no index at {self._url}")
        return kept

    def search(
        self, vector: Vector, k: int = 10, where: Mapping[str, Any] | None = None, *, using: str | None = None
    ) -> list[Hit]:
        collection, space = self._opened()
        rows.check(vector, space, f"a query of {self._url}")
        wanted = filters.parse(where)
        if (k := min(k, self.count())) < 1:
            return []
        assert isinstance(vector, Dense)
        query, said = vector.values.astype("float32"), _where(wanted) if wanted else None
        found: dict[str, Hit] = {}
        if said or not wanted:
            include = ["documents", "metadatas"]
            with told(self._url):
                answer = collection.query(query_embeddings=[query], n_results=k, where=said, include=include)
            found = _best(found, _points({name: answer[name][0] for name in ("ids", *include)}), query, space, k)
        if len(found) < k:
            for page in self._pages(_named(wanted), said):
                passing = [point for point in page if not wanted or filters.passes(point.chunk, wanted)]
                found = _best(found, passing, query, space, k)
        return list(found.values())


def _best(found: dict[str, Hit], points: Sequence[Point], query: Any, space: VectorSpec, k: int) -> dict[str, Hit]:
    """The k nearest, nearest first."""
    scores = _scores(query, points, space.metric) if points else ()
    more = {point.id: Hit(float(score), point.chunk) for score, point in zip(scores, points, strict=True)}
    return dict(sorted((found | more).items(), key=lambda item: -item[1].score)[:k])
