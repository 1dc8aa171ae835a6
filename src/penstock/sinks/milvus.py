"""`milvus://`: a collection of a Milvus server, of Zilliz Cloud, or of Milvus Lite in a folder of this machine.

    milvus://localhost:19530/notes?tls=1&database=docs      a server; key: MILVUS_TOKEN, as `user:password` or an API key
    milvus://./stores/notes.db/notes                        Milvus Lite; one process at a time has it open

Each field of a chunk is one of the collection's; headings and metadata are JSON text, an image is base64 after a `=`.
A VARCHAR holds 65,535 bytes: what is longer goes on in `more`, an array of pieces, each after the initial of its field.
`page` is 0 where `has_page` is false: what stores make of nulls differs. The manifest is a property of the collection.
"""

from __future__ import annotations

import base64
import heapq
import logging
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from penstock import filters
from penstock.contracts import Index, Sink
from penstock.errors import MissingExtra, SinkError, TooLarge, Transient, UsageError
from penstock.records import VECTOR, Dense, Hit, Manifest, Point, Space, Vector
from penstock.sinks import address, manifests, rows

EXAMPLE = "milvus://localhost:19530/notes or milvus://./notes.db/notes"
VARCHAR = 65_535
"""The longest a field can be, in bytes."""
PIECES = 4096
LARGEST_ROW = 48 << 20
"""A call takes 64 MB."""
LARGEST_K = 16_384
LONGEST_COMPARED = VARCHAR - 5
"""A longer text lies in pieces, which are not compared with."""
PAGE = 4096
FETCH = 512
CONNECT, TIMEOUT, LOAD = 10.0, 60.0, 600.0
PROPERTY = "penstock"

_LONG = {"text": "t", "headings": "h", "metadata": "m", "image": "i"}
_NUMBERS = ("ordinal", "start", "end", "page")
_FIELDS = ["id", "uri", *_NUMBERS, "has_page", *_LONG, "more"]
_METRICS = {"cosine": "COSINE", "dot": "IP", "l2": "L2"}
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r"})
_BUSY = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "CANCELLED"}
_REFUSED = {"UNAUTHENTICATED", "PERMISSION_DENIED"}


def _address(url: str) -> address.Address:
    place = address.parse(url, "milvus", EXAMPLE, port=19530, options=frozenset({"tls", "database"}))
    (name,) = place.names
    if place.folder is not None and place.folder.suffix != ".db":
        raise UsageError(f"{url!r} names no file of Milvus Lite, which ends in .db; write it like {EXAMPLE}")
    if place.folder is not None and place.options:
        raise UsageError(f"{url!r}: a file has no option {min(place.options)!r}")
    if place.user:
        raise UsageError(f"{url!r}: the user belongs into the environment variable MILVUS_TOKEN, as user:password")
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,254}", name):
        raise UsageError(f"{url!r}: Milvus allows letters, digits and _ in a collection's name, not {name!r}")
    return place


# ---------------------------------------------------------------- Milvus Lite


class _Lite:
    """The engine of Milvus Lite on one file, which all of this process share; the last one to leave closes it."""

    running: dict[Path, _Lite] = {}
    lock = threading.Lock()

    def __init__(self, path: Path, url: str) -> None:
        from milvus_lite.adapter.grpc.server import start_server_in_thread
        from milvus_lite.exceptions import DataDirLockedError

        if path.exists() and not (path / "collections").is_dir():
            raise SinkError(f"{url}: {path} is not a database of Milvus Lite 3; name another file")
        manifests.make_folder(path.parent, url)
        try:
            self.server, self.engine, self.port = start_server_in_thread(str(path), host="127.0.0.1", port=0)
        except DataDirLockedError:
            raise SinkError(
                f"{url} is open already, and Milvus Lite lets one in at a time: close it there, pass its client, "
                "or run `milvus-lite server` and name its host"
            ) from None
        except Exception as error:  # whatever a damaged file makes of it
            raise SinkError(f"{url} cannot be opened: {type(error).__name__}: {error}") from error
        self.path, self.users = path, 0

    @classmethod
    def enter(cls, path: Path, url: str) -> _Lite:
        with cls.lock:
            path = path.absolute()
            lite = cls.running.get(path) or cls(path, url)
            cls.running[path] = lite
            lite.users += 1
            return lite

    def leave(self) -> None:
        with self.lock:
            self.users -= 1
            if not self.users:
                del self.running[self.path]
                self.server.stop(grace=0).wait(5)
                self.engine.close()


# ---------------------------------------------------------------- a collection


class _Collection:
    """A client, the user's or one of our own, and the collection that it is used for."""

    def __init__(self, url: str, place: address.Address, client: Any) -> None:
        try:
            import grpc
            import pymilvus
        except ImportError as error:
            raise MissingExtra(f"{url} ({error.name})", "milvus") from None
        self.url, self.name = url, place.names[0]
        self._errors = (pymilvus.MilvusException, grpc.RpcError)
        self._lite: _Lite | None = None
        self._own = client is None
        self.client = client or self._connect(pymilvus, place)
        self.lite = "lite" in str(self.call("get_server_version", named=False))

    def _connect(self, pymilvus: Any, place: address.Address) -> Any:
        for noisy in ("pymilvus", "milvus_lite"):  # they log each error they raise, with its traceback
            logging.getLogger(noisy).setLevel(logging.CRITICAL)
        if place.folder is None:
            host = f"[{place.host}]" if ":" in place.host else place.host
            uri, token = f"{'https' if place.tls else 'http'}://{host}:{place.port}", os.environ.get("MILVUS_TOKEN", "")
        else:
            try:
                self._lite = _Lite.enter(place.folder, self.url)
            except ImportError as error:
                raise MissingExtra(f"{self.url} ({error.name})", "milvus") from None
            uri, token = f"http://127.0.0.1:{self._lite.port}", ""
        database = place.options.get("database", "")
        try:
            with self._told():
                return pymilvus.MilvusClient(uri, token=token, db_name=database, timeout=CONNECT, dedicated=True)
        except BaseException:
            self._leave()
            raise

    def close(self) -> None:
        if self._own:
            self.client.close()
        self._leave()

    def _leave(self) -> None:
        if self._lite is not None:
            self._lite.leave()
        self._lite = None

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            raise _meant(error, self.url) from error

    def call(self, method: str, *, named: bool = True, timeout: float = TIMEOUT, **given: Any) -> Any:
        if named:
            given["collection_name"] = self.name
        with self._told():
            return getattr(self.client, method)(timeout=timeout, **given)

    # -------------------------------------------------------- the collection itself

    def exists(self) -> bool:
        return bool(self.call("has_collection"))

    def manifest(self) -> Manifest | None:
        if not self.exists():
            return None
        kept = self.call("describe_collection").get("properties", {}).get(PROPERTY)
        return manifests.from_json(kept, self.url) if kept else None

    def keep(self, manifest: Manifest) -> None:
        self.call("alter_collection_properties", properties={PROPERTY: manifests.to_json(manifest)})

    def create(self, manifest: Manifest) -> None:
        from pymilvus import DataType, MilvusClient

        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=VARCHAR)
        for name in ("uri", *_LONG):
            schema.add_field(name, DataType.VARCHAR, max_length=VARCHAR)
        for name in _NUMBERS:
            schema.add_field(name, DataType.INT64)
        schema.add_field("has_page", DataType.BOOL)
        pieces = {"element_type": DataType.VARCHAR, "max_capacity": PIECES, "max_length": VARCHAR}
        schema.add_field("more", DataType.ARRAY, **pieces)
        schema.add_field(VECTOR, DataType.FLOAT_VECTOR, dim=manifest.space.dim)
        kept = {PROPERTY: manifests.to_json(manifest)}
        self.call("create_collection", schema=schema, consistency_level="Strong", properties=kept)

    def load(self, space: Space) -> None:
        """Make it searchable; the index too, if a run was cut off before it was made."""
        if not self.call("list_indexes"):
            index = self.client.prepare_index_params()
            kind = "FLAT" if self.lite else "AUTOINDEX"
            index.add_index(VECTOR, index_type=kind, metric_type=_METRICS[space.metric])
            self.call("create_index", index_params=index)
        self.call("load_collection", timeout=LOAD)

    # -------------------------------------------------------- points

    def query(self, condition: str, fields: list[str], **given: Any) -> list[dict[str, Any]]:
        return list(self.call("query", filter=condition, output_fields=fields, consistency_level="Strong", **given))

    def count(self, condition: str = "") -> int:
        return int(self.query(condition, ["count(*)"])[0]["count(*)"])

    def pages(self, condition: str = "", fields: Sequence[str] = ("id",)) -> Iterator[list[dict[str, Any]]]:
        """In the order of the ids. The driver's own iterator does not escape them."""
        within = condition
        ordered = {"iterator": "True", "reduce_stop_for_best": True}
        while page := self.query(within, list(fields), limit=PAGE, **ordered):
            yield page
            within = f"id > {_text(page[-1]['id'])}" + (f" and {condition}" if condition else "")

    def fetch(self, ids: Sequence[str]) -> list[Point]:
        found: list[Point] = []
        wanted = _writable(ids)
        for start in range(0, len(wanted), FETCH):
            found += self._fetch(wanted[start : start + FETCH])
        return found

    def _fetch(self, ids: list[str]) -> list[Point]:
        try:
            page = self.query(_listed(ids), [*_FIELDS, VECTOR])
        except TooLarge:
            if len(ids) == 1:
                raise
            middle = len(ids) // 2
            return self._fetch(ids[:middle]) + self._fetch(ids[middle:])
        return [Point(_chunk(cells), {VECTOR: _dense(cells[VECTOR])}) for cells in page]


def _meant(error: Any, url: str) -> SinkError:
    """What the driver raised, as one line of ours."""
    import grpc

    cause = error.__cause__ if isinstance(error.__cause__, grpc.RpcError) else error
    code = cause.code() if isinstance(cause, grpc.RpcError) else cause.code
    status = getattr(code, "name", "")
    told = str(cause.details() if isinstance(cause, grpc.RpcError) else cause.message)
    line = f"{url}: {' '.join(told.split())[:400] or status}"
    if status in _REFUSED or code == 1400 or "auth check failure" in told:
        return SinkError(f"{line}; set MILVUS_TOKEN to user:password or an API key that may use it")
    if "larger than max" in told or "exceeds the limit" in told:
        return TooLarge(line)
    if status in _BUSY or code in (2, 8, 9) or getattr(error, "retriable", False) or "timeout" in told.lower():
        return Transient(line)
    return SinkError(line)


# ---------------------------------------------------------------- rows


def _pieces(text: str) -> list[str]:
    """Cut between characters, with room for an initial."""
    data, found, start = text.encode(), [], 0
    while start < len(data):
        end = min(start + VARCHAR - 1, len(data))
        while end < len(data) and data[end] & 0xC0 == 0x80:
            end -= 1
        found.append(data[start:end].decode())
        start = end
    return found


def _row(row: rows.Row, vector: Any) -> dict[str, Any]:
    """Raises ValueError where Milvus cannot take it."""
    cells: dict[str, Any] = dict(zip(rows.COLUMNS, row, strict=True))
    image = cells["image"]
    cells["image"] = "" if image is None else "=" + base64.b64encode(image).decode()
    cells["has_page"] = cells["page"] is not None
    cells["page"] = cells["page"] or 0
    more: list[str] = []
    for name, initial in _LONG.items():
        if len(cells[name]) * 4 > VARCHAR:
            cells[name], *rest = _pieces(cells[name])
            more += [initial + piece for piece in rest]
    for name in ("id", "uri"):
        if len(cells[name]) * 4 > VARCHAR and len(cells[name].encode()) > VARCHAR:
            raise ValueError(f"its {name} has more than {VARCHAR:,} bytes")
    for name in _NUMBERS:
        if not -(1 << 63) <= cells[name] < 1 << 63:
            raise ValueError(f"its {name} is out of range")
    if len(more) > PIECES or sum(len(piece.encode()) for piece in more) > LARGEST_ROW:
        raise ValueError(f"it has more than {LARGEST_ROW >> 20} MB")
    cells["more"], cells[VECTOR] = more, vector
    return cells


def _chunk(cells: Mapping[str, Any]) -> Any:
    found = dict(cells)
    for name, initial in _LONG.items() if found["more"] else ():
        found[name] += "".join(piece[1:] for piece in found["more"] if piece[0] == initial)
    found["page"] = found["page"] if found["has_page"] else None
    found["image"] = base64.b64decode(found["image"][1:]) if found["image"] else None
    return rows.chunk(tuple(found[name] for name in rows.COLUMNS))


def _dense(values: Any) -> Dense:
    import numpy as np

    return Dense(np.asarray(values, dtype=np.float32))


# ---------------------------------------------------------------- expressions


def _text(value: str) -> str:
    return f'"{value.translate(_ESCAPES)}"'


def _listed(ids: Sequence[str]) -> str:
    return f"id in [{', '.join(map(_text, ids))}]"


def _writable(ids: Sequence[str]) -> list[str]:
    """One each, without those that have no UTF-8, and so cannot be there."""
    return [id for id in dict.fromkeys(ids) if id.isascii() or id.encode(errors="ignore").decode() == id]


def _literal(field: str, value: filters.Value) -> str:
    if isinstance(value, int):
        return str(value)
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise UsageError(f"{field}: {value!r} is no text that Milvus can compare with") from None
    if size > LONGEST_COMPARED:
        raise UsageError(f"{field}: Milvus compares with {LONGEST_COMPARED:,} bytes at most, not {size:,}")
    return _text(value)


def _expression(wanted: filters.Filter) -> str:
    """The tree in Milvus's language, without its nulls and constants."""
    match wanted:
        case filters.Compare(field, sign, value):
            return _present(field, f"{field} {'==' if sign == '=' else sign} {_literal(field, value)}")
        case filters.Among(field, values):
            inside = ", ".join(_literal(field, value) for value in values)
            return _present(field, f"{field} in [{inside}]") if values else "(has_page == true and has_page == false)"
        case filters.Absent(field):
            return "(has_page == false)" if field == "page" else "(has_page == true and has_page == false)"
        case filters.Every(terms):
            told = " and ".join(map(_expression, terms))
            return f"({told})" if terms else "(has_page == true or has_page == false)"
        case filters.Some(terms):
            return f"({' or '.join(map(_expression, terms))})"
        case filters.Not(term):
            return f"(not {_expression(term)})"


def _present(field: str, condition: str) -> str:
    return f"(has_page == true and {condition})" if field == "page" else f"({condition})"


# ---------------------------------------------------------------- the sink


class _Place:
    """What the sink and the index have in common: a url, perhaps a client, and a collection while open."""

    def __init__(self, url: str, client: Any = None) -> None:
        self._url, self._place, self._client = url, _address(url), client
        self._collection: _Collection | None = None
        self._space: Space | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._url!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ((self._url,) if self._client is None else (self._url, self._client))

    @contextmanager
    def _reached(self) -> Iterator[_Collection | None]:
        """The collection that is open, or one for the moment; None where there is not even a file."""
        folder = self._place.folder
        if self._collection is not None:
            yield self._collection
        elif folder is not None and self._client is None and not folder.exists():
            yield None
        else:
            collection = _Collection(self._url, self._place, self._client)
            try:
                yield collection
            finally:
                collection.close()

    def _kept(self) -> Manifest | None:
        with self._reached() as collection:
            return collection.manifest() if collection else None

    def _opened(self) -> tuple[_Collection, Space]:
        if self._collection is None or self._space is None:
            raise SinkError(f"{self._url} is not open")
        return self._collection, self._space

    def count(self) -> int:
        return self._opened()[0].count()

    def fetch(self, ids: Sequence[str]) -> Sequence[Point]:
        return self._opened()[0].fetch(ids)

    def close(self) -> None:
        if self._collection is not None:
            self._collection.close()
        self._collection = self._space = None


class MilvusSink(_Place, Sink):
    """Reads are strongly consistent: what was acknowledged is seen by all who leave the collection's default."""

    max_rows = 1024
    max_text = 4 << 20
    """Servers pass rows on in messages of 5 MB."""

    @property
    def url(self) -> str:
        return self._url

    def manifest(self) -> Manifest | None:
        return self._kept()

    def open(self, manifest: Manifest) -> None:
        manifests.supported(manifest.space, {"Dense"}, self._url)
        collection = _Collection(self._url, self._place, self._client)
        try:
            kept = collection.manifest()
            if kept is not None:
                manifests.agree(kept, manifest, self._url)
            elif collection.exists():
                raise SinkError(f"{self._url} is a collection that is not Penstock's; name another one")
            else:
                collection.create(manifest)
            collection.load(manifest.space)
        except BaseException:
            collection.close()
            raise
        self._collection, self._space = collection, manifest.space

    def replace_manifest(self, manifest: Manifest) -> None:
        self._opened()[0].keep(manifest)

    def write(self, points: Sequence[Point]) -> None:
        collection, space = self._opened()
        batch = rows.Batch(points, space, self._url)
        data = []
        for cells, vector in zip(batch.rows, batch.vectors, strict=True):
            try:
                data.append(_row(cells, vector))
            except ValueError as error:
                batch.reasons[cells[0]] = str(error)
        if data:
            collection.call("upsert", data=data)
        batch.finish()

    def delete(self, ids: Sequence[str]) -> None:
        collection, _ = self._opened()
        if wanted := _writable(ids):
            collection.call("delete", filter=_listed(wanted))

    def flush(self) -> None:
        """A server has what it acknowledged in its log, and lets a client flush once in ten seconds; Lite has not."""
        collection, _ = self._opened()
        if collection.lite:
            collection.call("flush")

    def ids(self) -> Iterator[Sequence[str]]:
        collection, _ = self._opened()
        for page in collection.pages():
            yield [cells["id"] for cells in page]


class MilvusIndex(_Place, Index):
    """Asks the store's index; where that gives too few, as it may under a narrow filter, compares with every vector."""

    def open(self) -> None:
        self._space = self.manifest().space
        self._collection = _Collection(self._url, self._place, self._client)
        self._collection.load(self._space)

    def manifest(self) -> Manifest:
        if (kept := self._kept()) is None:
            raise SinkError(f"there is no index at {self._url}")
        return kept

    def search(self, vector: Vector, k: int = 10, where: Mapping[str, Any] | None = None) -> list[Hit]:
        collection, space = self._opened()
        rows.check(vector, space, f"a query of {self._url}")
        if k < 1:
            return []
        if k > LARGEST_K:
            raise UsageError(f"{self._url} finds {LARGEST_K:,} at most, not {k:,}")
        wanted = filters.parse(where)
        condition = "" if wanted is None else _expression(wanted)
        (found,) = collection.call(
            "search",
            data=[vector.values.astype("float32")],
            anns_field=VECTOR,
            filter=condition,
            limit=k,
            output_fields=_FIELDS,
            search_params={"metric_type": _METRICS[space.metric], "params": {}},
            consistency_level="Strong",
        )
        if len(found) < k and len(found) < collection.count(condition):
            return self._exhaustive(vector.values, k, condition)
        hits = [Hit(_score(hit["distance"], space), _chunk(hit["entity"])) for hit in found]
        return sorted(hits, key=lambda hit: -hit.score)

    def _exhaustive(self, query: Any, k: int, condition: str) -> list[Hit]:
        import numpy as np

        collection, space = self._opened()
        query = query.astype(np.float64)
        best: list[tuple[float, str]] = []
        for page in collection.pages(condition, ("id", VECTOR)):
            vectors = np.array([cells[VECTOR] for cells in page], dtype=np.float64)
            if space.metric == "l2":
                scores = -np.linalg.norm(vectors - query, axis=1)
            else:
                scores = vectors @ query
            if space.metric == "cosine":
                lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
                scores = scores / np.where(lengths == 0, 1, lengths)
            told = zip(scores.tolist(), (cells["id"] for cells in page), strict=True)
            best = heapq.nlargest(k, [*best, *told])
        chunks = {point.id: point.chunk for point in collection.fetch([id for _, id in best])}
        return [Hit(score, chunks[id]) for score, id in best if id in chunks]


def _score(distance: float, space: Space) -> float:
    return -(max(distance, 0.0) ** 0.5) if space.metric == "l2" else distance
