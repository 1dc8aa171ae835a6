"""Chunks as the columns of a table, and back: shared by the sinks that keep tables.

A chunk comes back as it was, but for `tokens`, which are not kept. Headings and metadata are JSON text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from penstock.core import precision
from penstock.core.errors import Rejected, SinkError
from penstock.core.filters import literal
from penstock.core.records import NOTHING, VECTOR, Chunk, Dense, MultiVector, Point, Vector
from penstock.core.schema import IndexSchema, VectorSpec

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = ("id", "uri", "ordinal", "text", "start", "end", "page", "headings", "metadata", "image")

Row = tuple[Any, ...]


def row(chunk: Chunk, written: dict[int, str]) -> Row:
    """The chunk's values in the order of COLUMNS. Raises ValueError or TypeError where they cannot hold it.

    `written` has the metadata of other chunks as JSON, by the identity of the mapping: those of a document share it.
    """
    headings = _headings(chunk.headings) if chunk.headings else "[]"
    metadata = "{}"
    if chunk.metadata and not (metadata := written.get(id(chunk.metadata), "")):
        metadata = _json(chunk.metadata)
        metadata.encode()
        written[id(chunk.metadata)] = metadata
    for text in (chunk.id, chunk.uri, chunk.text, headings):
        if not text.isascii():
            text.encode()  # a lone surrogate has no UTF-8
    start, end = chunk.span
    return chunk.id, chunk.uri, chunk.ordinal, chunk.text, start, end, chunk.page, headings, metadata, chunk.image


def chunk(row: Row) -> Chunk:
    id, uri, ordinal, text, start, end, page, headings, metadata, image = row
    return Chunk(
        id=id,
        uri=uri,
        ordinal=ordinal,
        text=text,
        span=(start, end),
        page=page,
        headings=() if headings == "[]" else tuple(json.loads(headings)),
        metadata=NOTHING if metadata == "{}" else json.loads(metadata),
        image=image,
    )


@lru_cache(64)
def _headings(headings: tuple[str, ...]) -> str:
    """Cached, since neighbours have the same headings."""
    return _json(headings)


def _mapping(value: object) -> dict[Any, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"metadata holds a {type(value).__name__}, which is not JSON")


_json = json.JSONEncoder(ensure_ascii=False, default=_mapping).encode


class Vectors:
    """The vectors of one name in a batch: an array a row, and the values of all of them, one after the other."""

    __slots__ = ("flat", "name", "rows", "space")

    def __init__(self, name: str, space: VectorSpec, rows: list[Any]) -> None:
        import numpy as np

        self.name, self.space, self.rows = name, space, rows
        self.flat = np.concatenate(rows, axis=None) if rows else np.empty(0, precision.DTYPES[space.precision])

    def arrow(self, *, packed: bool = False) -> pa.Array:
        import numpy as np
        import pyarrow as pa

        width = precision.columns(self.space.precision, self.space.dim)
        if packed and self.space.precision != precision.FP32:
            kind, data = pa.binary(width * self.flat.itemsize), pa.py_buffer(precision.to_bytes(self.flat))
            vectors = pa.Array.from_buffers(kind, len(self.flat) // width, [None, data]).cast(pa.binary())
        else:
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(self.flat), width)
        if self.space.kind == "MultiVector":
            offsets = np.cumsum([0, *(len(v) for v in self.rows)], dtype=np.int32)
            vectors = pa.ListArray.from_arrays(pa.array(offsets), vectors)
        return vectors


class Batch:
    """The points of a batch that can be written, one row an id, the last one counting; and why the rest cannot.

    `columns` has the vectors by name. Where there is one, `vectors`, `flat` and `space` are short for those of it.
    """

    __slots__ = ("columns", "reasons", "rows")

    def __init__(self, points: Sequence[Point], schema: IndexSchema, url: str) -> None:
        import numpy as np

        self.reasons: dict[str, str] = {}
        self.rows: list[Row] = []
        newest = {point.id: point for point in points}.values()
        for point in newest:
            check_point(point, schema, url)
        self.columns = {
            name: Vectors(name, space, [_values(point.vectors[name], space) for point in newest])
            for name, space in schema.vectors.items()
        }
        # All values in one call, since the call takes longer than looking at them.
        unsound = [column for column in self.columns.values() if not np.isfinite(column.flat).all()]
        written: dict[int, str] = {}
        for position, point in enumerate(newest):
            try:
                for column in unsound:
                    if not np.isfinite(column.rows[position]).all():
                        raise ValueError(f"its {_called(column.name)} holds NaN or infinity")
                cells = row(point.chunk, written)
            except (ValueError, TypeError, RecursionError) as error:
                self.reasons[point.id] = str(error)
                cells = (point.id,)
            self.rows.append(cells)
        if self.reasons:
            self.refuse(self.reasons)

    def refuse(self, reasons: Mapping[str, str]) -> None:
        """Leave these ids out of what is written, and have `finish` say why."""
        self.reasons |= reasons
        kept = [position for position, cells in enumerate(self.rows) if cells[0] not in reasons]
        self.rows = [self.rows[position] for position in kept]
        self.columns = {
            name: Vectors(name, column.space, [column.rows[position] for position in kept])
            for name, column in self.columns.items()
        }

    def finish(self) -> None:
        """Raise Rejected for the points that were left out; called when the others are written."""
        if self.reasons:
            raise Rejected(self.reasons)

    @property
    def _only(self) -> Vectors:
        (column,) = self.columns.values()
        return column

    @property
    def vectors(self) -> list[Any]:
        return self._only.rows

    @property
    def flat(self) -> Any:
        return self._only.flat

    @property
    def space(self) -> VectorSpec:
        return self._only.space

    def arrow(self, *, packed: bool = False) -> pa.RecordBatch:
        """The batch in the columns of `schema`."""
        import pyarrow as pa

        shape = schema(IndexSchema({name: column.space for name, column in self.columns.items()}), packed=packed)
        columns = list(zip(*self.rows, strict=True)) or [()] * len(COLUMNS)
        arrays = [pa.array(cells, type=shape.field(i).type) for i, cells in enumerate(columns)]
        return pa.record_batch(
            [*arrays, *(column.arrow(packed=packed) for column in self.columns.values())], schema=shape
        )


def _called(name: str) -> str:
    return "vector" if name == VECTOR else f"vector {name!r}"


def _values(vector: Vector, space: VectorSpec) -> Any:
    import numpy as np

    return np.ascontiguousarray(vector.values, dtype=precision.DTYPES[space.precision])


def check_point(point: Point, schema: IndexSchema, url: str) -> None:
    """Raise SinkError unless the point has the vectors of the schema, and no others."""
    if point.vectors.keys() != schema.vectors.keys():
        has, takes = (", ".join(sorted(names)) or "none" for names in (point.vectors, schema.vectors))
        raise SinkError(f"{url}, point {point.id}: it has the vectors {has}; the index takes {takes}")
    for name, space in schema.vectors.items():
        check(point.vectors[name], space, f"{url}, point {point.id}", space.precision)


def check(vector: Vector, space: VectorSpec, where: str, kept: str = precision.FP32) -> None:
    """Raise SinkError unless the vector is of the space's kind and dimension, and in the precision `kept`."""
    kind = type(vector).__name__
    if kind != space.kind:
        raise SinkError(f"{where}: a {kind} vector; the index holds {space.kind} ones")
    if isinstance(vector, Dense | MultiVector):
        axes = 1 if isinstance(vector, Dense) else 2
        width = precision.columns(kept, space.dim)
        if vector.values.ndim != axes or vector.values.shape[-1] != width:
            raise SinkError(f"{where}: a vector of shape {vector.values.shape}; the index has {space.dim} dimensions")
        if kept != precision.FP32 and vector.values.dtype != precision.DTYPES[kept]:
            raise SinkError(
                f"{where}: a vector of {vector.values.dtype}; the index has the precision {kept}, and takes"
                f" {precision.DTYPES[kept]}"
            )


def target(query: Vector, schema: IndexSchema, using: str | None, url: str) -> tuple[str, VectorSpec]:
    """The name of the vectors that a search compares with, and their space.

    Raises UsageError where `using` names none of them, and SinkError where the query is of another space.
    """
    name = schema.name(using)
    space = schema.vectors[name]
    check(query, space, f"a query of {url}")
    return name, space


def vector_column(name: str) -> str:
    """The column or field that holds the vectors of that name: `vector`, or `vector_title`."""
    return VECTOR if name == VECTOR else f"{VECTOR}_{name}"


def schema(of: IndexSchema, *, packed: bool = False) -> pa.Schema:
    """The columns of a table. `packed`: a vector of fewer bits than fp32 is its bytes, since files have no such
    numbers, or not in as few bytes."""
    import pyarrow as pa

    text, number = pa.string(), pa.int64()
    types = {"ordinal": number, "start": number, "end": number, "page": number, "image": pa.binary()}
    fields = [pa.field(name, types.get(name, text), nullable=name in ("page", "image")) for name in COLUMNS]
    for name, space in of.vectors.items():
        number = pa.from_numpy_dtype(precision.DTYPES[space.precision])
        bytes_ = packed and space.precision != precision.FP32
        vector = pa.binary() if bytes_ else pa.list_(number, precision.columns(space.precision, space.dim))
        kept = pa.list_(vector) if space.kind == "MultiVector" else vector
        fields.append(pa.field(vector_column(name), kept, nullable=False))
    return pa.schema(fields)


def chunks(batch: pa.RecordBatch) -> list[Chunk]:
    columns = [batch.column(name).to_pylist() for name in COLUMNS]
    return [chunk(cells) for cells in zip(*columns, strict=True)]


def points(batch: pa.RecordBatch, schema: IndexSchema) -> list[Point]:
    columns = [_vectors(batch.column(vector_column(name)), space) for name, space in schema.vectors.items()]
    names = tuple(schema.vectors)
    return [
        Point(chunk, dict(zip(names, vectors, strict=True)))
        for chunk, *vectors in zip(chunks(batch), *columns, strict=True)
    ]


def _vectors(column: pa.Array, space: VectorSpec) -> Iterator[Vector]:
    if space.kind == "MultiVector":
        return (MultiVector(_rows(column[i].values, space)) for i in range(len(column)))
    return (Dense(values) for values in matrix(column, space))


def _rows(vectors: pa.Array, space: VectorSpec) -> Any:
    import pyarrow as pa

    if pa.types.is_binary(vectors.type):
        return precision.from_bytes(b"".join(vectors.to_pylist()), space.precision, space.dim)
    return matrix(vectors, space)


def matrix(vectors: pa.Array, space: VectorSpec) -> Any:
    """The rows of a list of vectors."""
    width = precision.columns(space.precision, space.dim)
    return vectors.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)


def listed(ids: Iterable[str]) -> str:
    return f"id IN ({', '.join(map(literal, ids))})"
