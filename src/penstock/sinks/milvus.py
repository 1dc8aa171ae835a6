"""`milvus://`: a collection of a Milvus server, of Zilliz Cloud, or of Milvus Lite in a folder of this machine.

    milvus://localhost:19530/notes?tls=1&database=docs      a server; key: MILVUS_TOKEN, as user:password or API key
    milvus://./stores/notes.db/notes                        Milvus Lite; one process at a time has it open

Each field of a chunk is one of the collection's; headings and metadata are JSON text. A VARCHAR holds 65,535 bytes:
what is longer goes on in `more`, an array of pieces, each after the initial of its field; so does an image, as base64.
`page` is 0 where `has_page` is false: what stores make of nulls differs. The manifest is a property of the collection.
Sparse vectors have one value at least, and none that is negative or zero.
"""

from __future__ import annotations

import base64
import heapq
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

from penstock.core import filters
from penstock.core.contracts import Index, Sink
from penstock.core.errors import TooLarge, UsageError
from penstock.core.records import VECTOR, Dense, Hit, Point, Sparse, Vector
from penstock.core.schema import Manifest, VectorSpec, single
from penstock.sinks import address, manifests, rows, sparse
from penstock.sinks.milvus_wire import Collection, literal
from penstock.sinks.store import Store

EXAMPLE = "milvus://localhost:19530/notes or milvus://./notes.db/notes"
VARCHAR = 65_535
"""The longest a field can be, in bytes."""
PIECES = 4096
LARGEST_ROW = 48 << 20
"""A call takes 64 MB."""
LARGEST_K = 16_384
LONGEST_COMPARED = VARCHAR - 5
"""A longer text lies in pieces, which are not compared with."""
FETCH = 512

_LONG = {"text": "t", "headings": "h", "metadata": "m"}
_IMAGE = "i"
_NUMBERS = ("ordinal", "start", "end", "page")
_FIELDS = ["id", "uri", *_NUMBERS, "has_page", *_LONG, "more"]
_METRICS = {"cosine": "COSINE", "dot": "IP", "l2": "L2"}


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


# ---------------------------------------------------------------- rows


class _Whole(str):
    """The driver checks a row's text as if it were a list of texts, which takes it longer than to send it."""

    __slots__ = ()

    def __iter__(self) -> Iterator[str]:
        yield self


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
    image = cells.pop("image")
    cells["has_page"] = cells["page"] is not None
    cells["page"] = cells["page"] or 0
    more: list[str] = []
    if image is not None:
        more = [_IMAGE + piece for piece in _pieces(base64.b64encode(image).decode()) or [""]]
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
    cells["text"], cells["more"] = _Whole(cells["text"]), more
    cells[VECTOR] = _entries(vector) if isinstance(vector, Sparse) else vector
    return cells


def _chunk(cells: Mapping[str, Any]) -> Any:
    found = dict(cells)
    rest: dict[str, list[str]] = {}
    for piece in found["more"]:
        rest.setdefault(piece[0], []).append(piece[1:])
    for name, initial in _LONG.items():
        found[name] += "".join(rest.get(initial, ()))
    found["image"] = base64.b64decode("".join(rest[_IMAGE])) if _IMAGE in rest else None
    if not found["has_page"]:
        found["page"] = None
    return rows.chunk(tuple(found[name] for name in rows.COLUMNS))


def _entries(vector: Sparse) -> dict[int, float]:
    if not len(vector.values):
        raise ValueError("its vector has no values, and Milvus takes none without")
    return dict(zip(vector.indices.tolist(), vector.values.tolist(), strict=True))


def _vector(values: Any) -> Dense | Sparse:
    import numpy as np

    if isinstance(values, dict):
        indices, weights = np.array(list(values), np.int32), np.array(list(values.values()), np.float32)
        return sparse.ordered(Sparse(indices, weights))
    return Dense(np.asarray(values, dtype=np.float32))


def _schema(space: VectorSpec) -> Any:
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
    if space.kind == "Sparse":
        schema.add_field(VECTOR, DataType.SPARSE_FLOAT_VECTOR)
    else:
        schema.add_field(VECTOR, DataType.FLOAT_VECTOR, dim=space.dim)
    return schema


def _fetched(collection: Collection, ids: Sequence[str]) -> list[Point]:
    found: list[Point] = []
    wanted = _writable(ids)
    for start in range(0, len(wanted), FETCH):
        found += _page(collection, wanted[start : start + FETCH])
    return found


def _page(collection: Collection, ids: list[str]) -> list[Point]:
    try:
        page = collection.query(_listed(ids), [*_FIELDS, VECTOR])
    except TooLarge:
        if len(ids) == 1:
            raise
        middle = len(ids) // 2
        return _page(collection, ids[:middle]) + _page(collection, ids[middle:])
    return [Point(_chunk(cells), {VECTOR: _vector(cells[VECTOR])}) for cells in page]


# ---------------------------------------------------------------- expressions


def _listed(ids: Sequence[str]) -> str:
    return f"id in [{', '.join(map(literal, ids))}]"


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
    return literal(value)


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
            return f"({' and '.join(map(_expression, terms))})"
        case filters.Some(terms):
            return f"({' or '.join(map(_expression, terms))})"
        case filters.Not(term):
            return f"(not {_expression(term)})"


def _present(field: str, condition: str) -> str:
    return f"(has_page == true and {condition})" if field == "page" else f"({condition})"


# ---------------------------------------------------------------- the sink


class _Milvus(Store[Collection]):
    def __init__(self, url: str, client: Any = None) -> None:
        super().__init__(url, client)
        self._place = _address(url)

    def _connect(self) -> Collection:
        return Collection(self._url, self._place, self._client)

    def _kept(self) -> Manifest | None:
        folder = self._place.folder
        if folder is not None and self._handle is None and self._client is None and not folder.exists():
            return None  # the engine would make the file
        return super()._kept()

    def fetch(self, ids: Sequence[str]) -> Sequence[Point]:
        return _fetched(self._opened()[0], ids)


class MilvusSink(_Milvus, Sink):
    """Reads are strongly consistent: what was acknowledged is seen by all who leave the collection's default."""

    accepts = frozenset({Dense, Sparse})
    max_rows = 1024
    max_text = 4 << 20
    """Servers pass rows on in messages of 5 MB."""

    def manifest(self) -> Manifest | None:
        return self._kept()

    def drop(self) -> None:
        self._drop()

    def alias(self, number: int) -> str:
        name = self._sibling("live")._place.names[0]
        with closing((self.generation(number) if number else self)._connect()) as collection:
            collection.alias(name)
        return name

    def open(self, manifest: Manifest) -> None:
        manifests.supported(manifest.schema, self, manifests.PRODUCTS)
        collection = self._connect()
        try:
            kept = collection.manifest()
            if kept is not None:
                manifests.agree(kept, manifest, self._url)
            else:
                collection.create(_schema(manifest.schema.only), manifest)
            collection.load(_measure(manifest.schema.only), manifest.schema.only.kind)
        except BaseException:
            collection.close()
            raise
        self._hold(collection, manifest.schema.only)

    def replace_manifest(self, manifest: Manifest) -> None:
        self._opened()[0].keep(manifest)

    def write(self, points: Sequence[Point]) -> None:
        collection, space = self._opened()
        batch = sparse.batched(points, single(space), self._url, refused="negative or zero")
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


class MilvusIndex(_Milvus, Index):
    """Asks the store's index; where that gives too few, as it may under a narrow filter, compares with every vector."""

    def open(self) -> None:
        space = self._found().schema.only
        collection = self._connect()
        self._hold(collection, space)
        collection.load(_measure(space), space.kind)

    def manifest(self) -> Manifest:
        return self._found()

    def search(
        self, vector: Vector, k: int = 10, where: Mapping[str, Any] | None = None, *, using: str | None = None
    ) -> list[Hit]:
        collection, space = self._opened()
        rows.check(vector, space, f"a query of {self._url}")
        if k < 1:
            return []
        if k > LARGEST_K:
            raise UsageError(f"{self._url} finds {LARGEST_K:,} at most, not {k:,}")
        wanted = filters.parse(where)
        condition = "" if wanted is None else _expression(wanted)
        query: Any = vector.values.astype("float32")
        if isinstance(vector, Sparse):
            given = sparse.asked(vector, self._url, negative=False)
            if not len(given.values):
                return []
            query = _entries(given)
        (found,) = collection.call(
            "search",
            data=[query],
            anns_field=VECTOR,
            filter=condition,
            limit=k,
            output_fields=_FIELDS,
            search_params={"metric_type": _measure(space), "params": {}},
            consistency_level="Strong",
        )
        if len(found) < k and space.kind == "Dense" and len(found) < collection.count(condition):
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
        chunks = {point.id: point.chunk for point in _fetched(collection, [id for _, id in best])}
        return [Hit(score, chunks[id]) for score, id in best if id in chunks]


def _measure(space: VectorSpec) -> str:
    return "IP" if space.kind == "Sparse" else _METRICS[space.metric]


def _score(distance: float, space: VectorSpec) -> float:
    return -(max(distance, 0.0) ** 0.5) if space.metric == "l2" else distance
