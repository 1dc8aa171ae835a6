"""Chunks and vectors as Pinecone's records, and back.

`id`, `uri`, `text`, `ordinal` and `page` are searched by; `has_page` stands for a null, which the store does not know.
Headings and metadata are JSON text, an image is base64. What filters ask of the metadata is in `terms`, see
penstock.sinks.terms, and in numbers, which are the least and the greatest of a field; older records lack them.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from penstock.core.fields import Scalar, seconds
from penstock.core.records import Chunk, Dense, Point, Sparse, Vector
from penstock.core.schema import VectorSpec
from penstock.sinks import hashed_terms as terms
from penstock.sinks import rows, sparse

LARGEST_NUMBER = 1 << 53
"""Numbers are doubles in Pinecone."""
METADATA = 40_000
"""Bytes of a record's metadata, at most."""
HASHED = "sha256-"
"""What a record's id begins with where the point's own is none for Pinecone."""
LEAST, GREATEST = "_min", "_max"
"""What the names of the two numbers of a field end with."""
ENTRY = 40
"""Bytes of an index and its value as JSON, at most."""


def key(id: str) -> str:
    """The record's id: the id itself, if it is one for Pinecone (printable ASCII, at most 512)."""
    if re.fullmatch(r"[!-~]{1,512}", id) and not id.startswith(HASHED):
        return id
    return HASHED + hashlib.sha256(id.encode("utf-8", "surrogatepass")).hexdigest()


def metadata_of(row: rows.Row) -> dict[str, Any]:
    """Raises ValueError for a number that no double can hold."""
    fields = dict(zip(rows.COLUMNS, row, strict=True))
    for name in ("ordinal", "page", "start", "end"):
        if fields[name] is not None and abs(fields[name]) > LARGEST_NUMBER:
            raise ValueError(f"its {name} is {fields[name]}; Pinecone keeps numbers up to 2^53")
    page, image = fields.pop("page"), fields.pop("image")
    fields["has_page"] = page is not None
    if page is not None:
        fields["page"] = page
    if image is not None:
        fields["image"] = base64.b64encode(image).decode("ascii")
    return fields


class Filterable:
    """The fields that filters look into, for the points of one batch."""

    def __init__(self, points: Sequence[Point], dumps: Callable[[Any], bytes]) -> None:
        self._metadata = {point.id: point.chunk.metadata for point in points}
        self._dumps = dumps
        self._written: dict[int, tuple[dict[str, Any], int]] = {}
        """By the identity of the metadata: chunks of a document share them."""

    def fields(self, point: str) -> tuple[dict[str, Any], int]:
        """The fields, and the bytes that they add to others."""
        metadata = self._metadata[point]
        if (written := self._written.get(id(metadata))) is None:
            # One term at least, as no comparison finds a record without the list.
            found: dict[str, Any] = {"terms": [terms.present(()), *terms.of_metadata(metadata)]}
            for name, (least, greatest) in terms.bounds(metadata, ordered).items():
                found[name + LEAST], found[name + GREATEST] = least, greatest
            written = self._written[id(metadata)] = found, len(self._dumps(found)) - 1
        return written


def ordered(value: Scalar) -> float | None:
    """A value of metadata as a number in the same order; None for texts that are no date or time."""
    return seconds(value) if isinstance(value, str) else terms.double(value)


def chunk_of(metadata: Mapping[str, Any]) -> Chunk:
    cells = dict(metadata)
    for name in ("ordinal", "start", "end", "page"):
        if name in cells:
            cells[name] = int(cells[name])
    if "image" in cells:
        cells["image"] = base64.b64decode(cells["image"])
    return rows.chunk(tuple(cells.get(name) for name in rows.COLUMNS))


def vector_of(record: Any, space: VectorSpec) -> Vector:
    import numpy as np

    if space.kind != "Sparse":
        return Dense(np.array(record.values, np.float32))
    kept = record.sparse_values
    return sparse.ordered(Sparse(np.array(kept.indices, np.int32), np.array(kept.values, np.float32)))


def probe(space: VectorSpec) -> Any:
    """A vector that is as good as any other."""
    if space.kind == "Sparse":
        return {"indices": [0], "values": [1.0]}
    return [1.0] + [0.0] * (space.dim - 1)


def entries(vector: Sparse) -> dict[str, list[Any]]:
    return {"indices": vector.indices.tolist(), "values": vector.values.tolist()}


def vector_fields(vectors: Sequence[Any]) -> Iterator[tuple[dict[str, Any], int]]:
    """For each vector the field of the record that holds it, and the bytes that it takes."""
    if isinstance(vectors[0], Sparse):
        for vector in vectors:
            yield {"sparse_values": entries(vector)}, ENTRY * len(vector.values)
        return
    lists, each = _shortest(vectors)
    for values in lists:
        yield {"values": values}, each


def _shortest(vectors: Sequence[Any]) -> tuple[list[list[float]], int]:
    """The float32 values as the shortest decimals that mean them, and the bytes of one vector as JSON."""
    import numpy as np
    import orjson

    matrix = np.stack(vectors)
    text = orjson.dumps(matrix, option=orjson.OPT_SERIALIZE_NUMPY)
    values: list[list[float]] = orjson.loads(text)
    if (np.array(values, np.float32).view(np.int32) != matrix.view(np.int32)).any():
        values = matrix.tolist()  # one of them, read as a double, is nearer to the next float
        return values, 26 * matrix.shape[1]
    return values, len(text) // len(matrix) + 2 * matrix.shape[1]


def same(found: Any, record: Mapping[str, Any]) -> bool:
    """Whether the record that was read is the one that was written."""
    import numpy as np

    if found is None or dict(found.metadata) != record["metadata"]:
        return False
    if (wanted := record.get("sparse_values")) is not None:
        kept = dict(zip(found.sparse_values.indices, found.sparse_values.values, strict=True))
        return sorted(kept) == wanted["indices"] and bool(
            np.allclose([kept[index] for index in wanted["indices"]], wanted["values"], rtol=1e-3)
        )
    return bool(np.allclose(found.values, record["values"], rtol=1e-3))
