"""Texts and vectors as PostgreSQL keeps them, and back.

PostgreSQL takes no NUL in a text: the characters U+0000 and U+0001 of an id, uri or text are kept as U+0001 U+0001 and
U+0001 U+0002, which leaves the order of texts as it was.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from penstock.core.records import Chunk, Dense, Sparse, Vector
from penstock.core.schema import VectorSpec
from penstock.sinks import rows

WIDTH = 1_000_000_000
"""Dimensions of all sparse vectors: the most there are. Only vectors of as many are compared."""


def encoded(text: str) -> str:
    if "\0" in text or "\1" in text:
        return text.replace("\1", "\1\2").replace("\0", "\1\1")
    return text


def decoded(text: str) -> str:
    return re.sub("\1([\1\2])", lambda pair: "\0" if pair[1] == "\1" else "\1", text) if "\1" in text else text


def storable(ids: Sequence[str]) -> Iterator[str]:
    """Those of the ids that a table can hold, as it holds them."""
    return (encoded(id) for id in ids if id.isascii() or not re.search("[\ud800-\udfff]", id))


def chunk_of(cells: rows.Row) -> Chunk:
    id, uri, ordinal, text, *rest = cells
    return rows.chunk((decoded(id), decoded(uri), ordinal, decoded(text), *rest))


def column_type(space: VectorSpec) -> str:
    return f"sparsevec({WIDTH})" if space.kind == "Sparse" else f"vector({space.dim})"


def literal(vector: Vector) -> str:
    """The vector as a statement writes it."""
    if not isinstance(vector, Sparse):
        return str(vector.values.tolist())
    pairs = zip(vector.indices.tolist(), vector.values.tolist(), strict=True)
    return f"{{{','.join(f'{index + 1}:{value!r}' for index, value in pairs if value and index < WIDTH)}}}/{WIDTH}"


def encoder(space: VectorSpec) -> Callable[[Any], bytes]:
    """The function that turns a vector of the space into the bytes that COPY takes: a Sparse, or a dense one's values.

    It raises ValueError for an index that pgvector does not have.
    """
    if space.kind == "Sparse":
        return _sparse_bytes
    head = struct.pack(">hh", space.dim, 0)

    def dense_bytes(values: Any) -> bytes:
        return bytes(head + values.astype(">f4").tobytes())

    return dense_bytes


def _sparse_bytes(vector: Sparse) -> bytes:
    if len(vector.indices) and int(vector.indices[-1]) >= WIDTH:
        raise ValueError(f"its vector has an index beyond {WIDTH - 1:,}, the last that pgvector has")
    entries = vector.indices.astype(">i4").tobytes() + vector.values.astype(">f4").tobytes()
    return bytes(struct.pack(">iii", WIDTH, len(vector.indices), 0) + entries)


def from_binary(data: bytes, space: VectorSpec) -> Vector:
    import numpy as np

    if space.kind != "Sparse":
        return Dense(np.frombuffer(data, dtype=">f4", offset=4).astype(np.float32))
    end = 12 + 4 * struct.unpack_from(">i", data, 4)[0]
    indices, values = np.frombuffer(data[12:end], ">i4"), np.frombuffer(data[end:], ">f4")
    return Sparse(indices.astype(np.int32), values.astype(np.float32))
