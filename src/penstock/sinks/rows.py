"""Chunks as the columns of a table, and back: shared by the sinks that keep tables.

A chunk comes back as it was, but for `tokens`, which are not kept. Headings and metadata are JSON text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from penstock.core.errors import Rejected, SinkError
from penstock.core.filters import literal
from penstock.core.records import NOTHING, VECTOR, Chunk, Dense, MultiVector, Point, Vector
from penstock.core.schema import VectorSpec

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = ("id", "uri", "ordinal", "text", "start", "end", "page", "headings", "metadata", "image")

Row = tuple[Any, ...]


def row(chunk: Chunk) -> Row:
    """The chunk's values in the order of COLUMNS. Raises ValueError or TypeError where it cannot be told in them."""
    headings = _headings(chunk.headings) if chunk.headings else "[]"
    metadata = _json(chunk.metadata) if chunk.metadata else "{}"
    for text in (chunk.id, chunk.uri, chunk.text, headings, metadata):
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
    """Neighbours have the same ones."""
    return _json(headings)


def _mapping(value: object) -> dict[Any, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"metadata holds a {type(value).__name__}, which is not JSON")


_json = json.JSONEncoder(ensure_ascii=False, default=_mapping).encode


class Batch:
    """What of a batch can be written, one row an id, the last one counting; and why the rest cannot."""

    __slots__ = ("flat", "reasons", "rows", "space", "vectors")

    def __init__(self, points: Sequence[Point], space: VectorSpec, url: str) -> None:
        import numpy as np

        self.space = space
        self.reasons: dict[str, str] = {}
        self.rows: list[Row] = []
        self.vectors: list[Any] = []
        newest = {point.id: point for point in points}.values()
        vectors = [_values(point, space, url) for point in newest]
        # All values of all rows, one after the other. Asked of all together, since asking takes longer than looking.
        self.flat = np.concatenate(vectors, axis=None) if vectors else np.empty(0, np.float32)
        sound = bool(np.isfinite(self.flat).all())
        for point, values in zip(newest, vectors, strict=True):
            try:
                if not sound and not np.isfinite(values).all():
                    raise ValueError("its vector holds NaN or infinity")
                cells = row(point.chunk)
            except (ValueError, TypeError, RecursionError) as error:
                self.reasons[point.id] = str(error)
            else:
                self.rows.append(cells)
                self.vectors.append(values)
        if self.reasons:
            self.flat = np.concatenate([np.empty(0, np.float32), *self.vectors], axis=None)

    def finish(self) -> None:
        """Called when the good ones are written."""
        if self.reasons:
            raise Rejected(self.reasons)

    def arrow(self) -> pa.RecordBatch:
        import numpy as np
        import pyarrow as pa

        shape = schema(self.space)
        columns = list(zip(*self.rows, strict=True)) or [()] * len(COLUMNS)
        arrays = [pa.array(column, type=shape.field(i).type) for i, column in enumerate(columns)]
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(self.flat), self.space.dim)
        if self.space.kind == "MultiVector":
            offsets = np.cumsum([0, *(len(v) for v in self.vectors)], dtype=np.int32)
            vectors = pa.ListArray.from_arrays(pa.array(offsets), vectors)
        return pa.record_batch([*arrays, vectors], schema=shape)


def _values(point: Point, space: VectorSpec, url: str) -> Any:
    """The point's vector as an array of the space's shape."""
    import numpy as np

    vector = point.vectors.get(VECTOR)
    if vector is None or len(point.vectors) != 1:
        names = ", ".join(sorted(point.vectors)) or "none"
        raise SinkError(f"{url} takes one vector a point, named {VECTOR!r}; point {point.id} has: {names}")
    check(vector, space, f"{url}, point {point.id}")
    return np.ascontiguousarray(vector.values, dtype=np.float32)


def check(vector: Vector, space: VectorSpec, where: str) -> None:
    """Raise SinkError unless the vector is of the space's kind and dimension."""
    kind = type(vector).__name__
    if kind != space.kind:
        raise SinkError(f"{where}: a {kind} vector; the index holds {space.kind} ones")
    if isinstance(vector, Dense | MultiVector):
        axes = 1 if isinstance(vector, Dense) else 2
        if vector.values.ndim != axes or vector.values.shape[-1] != space.dim:
            raise SinkError(f"{where}: a vector of shape {vector.values.shape}; the index has {space.dim} dimensions")


def schema(space: VectorSpec) -> pa.Schema:
    import pyarrow as pa

    text, number = pa.string(), pa.int64()
    types = {"ordinal": number, "start": number, "end": number, "page": number, "image": pa.binary()}
    fields = [pa.field(name, types.get(name, text), nullable=name in ("page", "image")) for name in COLUMNS]
    vector = pa.list_(pa.float32(), space.dim)
    fields.append(pa.field(VECTOR, pa.list_(vector) if space.kind == "MultiVector" else vector, nullable=False))
    return pa.schema(fields)


def chunks(batch: pa.RecordBatch) -> list[Chunk]:
    columns = [batch.column(name).to_pylist() for name in COLUMNS]
    return [chunk(cells) for cells in zip(*columns, strict=True)]


def points(batch: pa.RecordBatch, space: VectorSpec) -> list[Point]:
    found = chunks(batch)
    column = batch.column(VECTOR)
    vectors: Iterable[Vector]
    if space.kind == "MultiVector":
        vectors = (MultiVector(_matrix(column[i].values, space.dim)) for i in range(len(column)))
    else:
        vectors = (Dense(values) for values in _matrix(column, space.dim))
    return [Point(c, {VECTOR: v}) for c, v in zip(found, vectors, strict=True)]


def _matrix(vectors: pa.FixedSizeListArray, dim: int) -> Any:
    return vectors.flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)


def listed(ids: Iterable[str]) -> str:
    return f"id IN ({', '.join(map(literal, ids))})"
