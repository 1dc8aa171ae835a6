"""Points as Qdrant keeps them.

A payload has the columns of `rows.COLUMNS`, and what metadata are filtered by, see `fields`. Qdrant scales the vectors
of its cosine collections, so a cosine space is kept as one of dot products: a vector of length 1, as models make them,
is kept as it is; of any other a copy of length 1 is kept, and its own bytes in the payload. Vectors have the names of
the schema, as named vectors of Qdrant; one more, which is not read back, has the words of the text.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from penstock.core.errors import SinkError
from penstock.core.precision import DTYPES, from_bytes, to_bytes
from penstock.core.records import VECTOR, Chunk, Dense, MultiVector, Point, Sparse, Vector
from penstock.core.schema import IndexSchema, VectorSpec
from penstock.sinks import hashed_words, rows, terms
from penstock.sinks.lengths import key, lying
from penstock.sinks.qdrant import fields
from penstock.sinks.qdrant.wire import WORDS
from penstock.sinks.terms import TERMS

if TYPE_CHECKING:
    from qdrant_client import models


def original(name: str) -> str:
    """The payload's key for the bytes of a vector of that name, where another one is kept in its stead."""
    return "original" if name == VECTOR else f"original_{name}"


def structs(batch: rows.Batch, m: Any, *, filterable: bool, words: bool) -> list[models.PointStruct]:
    """The batch for Qdrant, by the client's models `m` but without their checks, as the values come from here."""
    written: dict[str, dict[str, list[Any]]] = {}
    columns = [(column, _kept(column, m)) for column in batch.columns.values()]
    found = []
    for position, cells in enumerate(batch.rows):
        payload = dict(zip(rows.COLUMNS, cells, strict=True))
        if payload["page"] is None:
            del payload["page"]
        if (image := payload.pop("image")) is not None:
            payload["image"] = base64.b64encode(image).decode()
        if filterable:
            if (metadata := payload["metadata"]) not in written:
                written[metadata] = fields.payload(metadata)
            payload |= written[metadata]
            if image is not None:
                payload[TERMS] = [*payload.get(TERMS, ()), terms.IMAGE]
        vectors = {}
        for column, kept in columns:
            vectors[column.name], scaled = next(kept)
            if scaled:
                own = to_bytes(column.rows[position])
                payload[original(column.name)] = base64.b64encode(own).decode()
        if words and (counted := hashed_words.of_document(payload["text"])):
            vectors[WORDS] = m.SparseVector.model_construct(indices=[*counted], values=[*counted.values()])
        found.append(m.PointStruct.model_construct(id=key(cells[0]), vector=vectors, payload=payload))
    return found


def _kept(column: rows.Vectors, m: Any) -> Iterator[tuple[Any, bool]]:
    """For each row the vector that Qdrant keeps, and whether it is another one than the row's."""
    if column.space.kind != "Sparse":
        return lying(column)
    return ((m.SparseVector(indices=v.indices.tolist(), values=v.values.tolist()), False) for v in column.rows)


def payload_selector(m: Any) -> Any:
    """All of a payload but for what is only filtered by."""
    return m.PayloadSelectorExclude(exclude=[TERMS, fields.NUMBERS])


def point(record: models.Record, schema: IndexSchema, url: str) -> Point:
    payload, kept = record.payload or {}, record.vector
    vectors = {}
    for name, space in schema.vectors.items():
        if not isinstance(kept, dict) or name not in kept:
            raise SinkError(f"{url} holds a point without a vector {name!r}: {record.id}")
        vectors[name] = _vector(kept[name], payload.get(original(name)), space)
    return Point(chunk(payload, record.id, url), vectors)


def _vector(values: Any, own: str | None, space: VectorSpec) -> Vector:
    import numpy as np

    if space.kind == "Sparse":
        return Sparse(np.array(values.indices, np.int32), np.array(values.values, np.float32))
    if own is not None:
        matrix = from_bytes(base64.b64decode(own), space.precision, space.dim)
    else:
        matrix = np.array(values, DTYPES[space.precision]).reshape(-1, space.dim)
    return MultiVector(matrix) if space.kind == "MultiVector" else Dense(matrix[0])


def chunk(payload: Mapping[str, Any] | None, record: object, url: str) -> Chunk:
    id_of(payload, record, url)
    cells: dict[str, Any] = dict.fromkeys(rows.COLUMNS) | dict(payload or {})
    image = cells["image"]
    cells["image"] = None if image is None else base64.b64decode(image)
    return rows.chunk(tuple(cells[name] for name in rows.COLUMNS))


def id_of(payload: Mapping[str, Any] | None, record: object, url: str) -> str:
    if not payload or not isinstance(payload.get("id"), str):
        raise SinkError(f"{url} holds a point that is not Penstock's: {record}")
    return str(payload["id"])
