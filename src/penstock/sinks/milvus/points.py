"""Points as rows of Milvus.

Each field of a chunk is one of the collection's; headings and metadata are JSON text. A VARCHAR holds 65,535 bytes: a
longer text goes on in `more`, an array of pieces, each after the initial of its field; so does an image, as base64.
`page` is 0 where `has_page` is false, as stores differ in their nulls. Sparse vectors have one value at least, and none
that is negative or zero. What filters ask of the metadata is in `terms` and `bounds`, which older collections lack. The
server makes `words` of the text, which searches by BM25 compare with.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any

from penstock.core.records import Chunk, Dense, Point, Sparse
from penstock.core.schema import IndexSchema
from penstock.sinks import hashed_terms as terms
from penstock.sinks import rows, sparse
from penstock.sinks.milvus.filters import ordered
from penstock.sinks.milvus.wire import WORDS
from penstock.sinks.rows import vector_column

VARCHAR = 65_535
"""The longest a field can be, in bytes."""
PIECES = 4096
LARGEST_ROW = 48 << 20
"""A call takes 64 MB."""

TERM = 16
"""Characters of a term."""
MOST_TERMS = 3800
"""Of a chunk: as many as its field holds, a text or an array."""
LARGEST_BOUNDS = 65_000
"""A field of JSON takes 65,536 bytes."""

VECTOR_FIELDS = 4
"""Vector fields that a server takes, unless it is configured for more."""
_ANALYZER = {"tokenizer": "standard", "filter": ["lowercase", "asciifolding"]}

_LONG = {"text": "t", "headings": "h", "metadata": "m"}
_IMAGE = "i"
_NUMBERS = ("ordinal", "start", "end", "page")
CHUNK = ["id", "uri", *_NUMBERS, "has_page", *_LONG, "more"]
"""The fields that a chunk is read from."""


def collection_schema(schema: IndexSchema, *, lite: bool, words: bool) -> Any:
    """The collection's fields; with one of the text's words, if `words`, where another vector field has room."""
    from pymilvus import DataType, Function, FunctionType, MilvusClient

    fields = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    fields.add_field("id", DataType.VARCHAR, is_primary=True, max_length=VARCHAR)
    words = words and len(schema.vectors) < VECTOR_FIELDS
    for name in ("uri", *_LONG):
        analyzed = {"enable_analyzer": True, "analyzer_params": _ANALYZER} if words and name == "text" else {}
        fields.add_field(name, DataType.VARCHAR, max_length=VARCHAR, **analyzed)
    if words:
        fields.add_field(WORDS, DataType.SPARSE_FLOAT_VECTOR)
        fields.add_function(Function("words", FunctionType.BM25, ["text"], [WORDS]))
    for name in _NUMBERS:
        fields.add_field(name, DataType.INT64)
    fields.add_field("has_page", DataType.BOOL)
    pieces = {"element_type": DataType.VARCHAR, "max_capacity": PIECES, "max_length": VARCHAR}
    fields.add_field("more", DataType.ARRAY, **pieces)
    if lite:
        fields.add_field("terms", DataType.VARCHAR, max_length=VARCHAR)
    else:
        each = {"element_type": DataType.VARCHAR, "max_capacity": MOST_TERMS, "max_length": TERM}
        fields.add_field("terms", DataType.ARRAY, **each)
    fields.add_field("bounds", DataType.JSON)
    for name, space in schema.vectors.items():
        if space.kind == "Sparse":
            fields.add_field(vector_column(name), DataType.SPARSE_FLOAT_VECTOR)
        else:
            fields.add_field(vector_column(name), DataType.FLOAT_VECTOR, dim=space.dim)
    return fields


class _Whole(str):
    """A text that the driver does not take for a list of characters, to check each, which is slower than to send it."""

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


class Filterable:
    """The fields that filters look into, for the chunks of one batch."""

    def __init__(self, *, lite: bool) -> None:
        self._lite = lite
        self._written: dict[tuple[int, bool], dict[str, Any]] = {}
        """By the identity of the metadata, which the chunks of a document share, and the type."""

    def cells(self, chunk: Chunk) -> dict[str, Any]:
        """Raises ValueError where the metadata have more values than the fields hold."""
        key = id(chunk.metadata), chunk.image is not None
        if (written := self._written.get(key)) is None:
            found = [terms.of_type(image=key[1]), *terms.of_metadata(chunk.metadata)]
            if len(found) > MOST_TERMS:
                raise ValueError(f"its metadata have more than {MOST_TERMS:,} fields and values to filter by")
            bounds = json.dumps(terms.bounds(chunk.metadata, ordered), ensure_ascii=False)
            if len(bounds) * 4 > LARGEST_BOUNDS and len(bounds.encode()) > LARGEST_BOUNDS:
                raise ValueError(f"its metadata have more than {LARGEST_BOUNDS:,} bytes of values in an order")
            one = _Whole(f" {' '.join(found)} ")
            written = self._written[key] = {"terms": one if self._lite else found, "bounds": bounds}
        return written


def row(row: rows.Row, vectors: Mapping[str, Any]) -> dict[str, Any]:
    """A chunk's fields and its vectors by their names. Raises ValueError where Milvus cannot take it."""
    cells: dict[str, Any] = dict(zip(rows.COLUMNS, row, strict=True))
    image = cells.pop("image")
    cells["has_page"] = cells["page"] is not None
    cells["page"] = cells["page"] or 0
    more: list[str] = []
    if image is not None:
        more = [_IMAGE + piece for piece in _pieces(base64.b64encode(image).decode()) or [""]]
    for name, initial in _LONG.items():
        if may_go_on(cells[name]):
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
    for name, vector in vectors.items():
        cells[vector_column(name)] = entries(vector) if isinstance(vector, Sparse) else vector
    return cells


def chunk(cells: Mapping[str, Any]) -> Chunk:
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


def may_go_on(text: str) -> bool:
    """Whether the text of a field may be the first piece of a longer one."""
    return len(text) * 4 > VARCHAR


def described(cells: Mapping[str, Any]) -> Chunk:
    """A chunk of which only the metadata are known."""
    return Chunk(cells["id"], "", 0, "", (0, 0), metadata=json.loads(cells["metadata"]))


def point(cells: Mapping[str, Any], schema: IndexSchema) -> Point:
    return Point(chunk(cells), {name: _vector(cells[vector_column(name)]) for name in schema.vectors})


def entries(vector: Sparse) -> dict[int, float]:
    if not len(vector.values):
        raise ValueError("its vector has no values, and Milvus takes none without")
    return dict(zip(vector.indices.tolist(), vector.values.tolist(), strict=True))


def _vector(values: Any) -> Dense | Sparse:
    import numpy as np

    if isinstance(values, dict):
        indices, weights = np.array(list(values), np.int32), np.array(list(values.values()), np.float32)
        return sparse.ordered(Sparse(indices, weights))
    return Dense(np.asarray(values, dtype=np.float32))
