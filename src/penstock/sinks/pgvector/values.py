"""Texts and vectors as PostgreSQL keeps them, and back.

PostgreSQL takes no NUL in a text: the characters U+0000 and U+0001 of an id, uri or text are kept as U+0001 U+0001 and
U+0001 U+0002, which leaves the order of texts as it was. The same goes for the texts within a jsonb.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Collection, Iterator, Sequence
from decimal import Decimal
from typing import Any

from penstock.core.records import Chunk, Dense, MultiVector, Sparse, Vector
from penstock.core.schema import IndexSchema, VectorSpec
from penstock.sinks import maxsim, rows

WIDTH = 1_000_000_000
"""Dimensions of all sparse vectors: the most there are. Only vectors of as many are compared."""


def encoded(text: str) -> str:
    if "\0" in text or "\1" in text:
        return text.replace("\1", "\1\2").replace("\0", "\1\1")
    return text


def decoded(text: str) -> str:
    return re.sub("\1([\1\2])", lambda pair: "\0" if pair[1] == "\1" else "\1", text) if "\1" in text else text


_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?[eE][+-]?\d+|NaN|-?Infinity')
_CONSTANT = re.compile(r'"\\u0001(NaN|-?Infinity)"')


def to_jsonb(text: str) -> str:
    """The JSON as a jsonb holds it: without NUL and exponents, from which floats would come back as integers; NaN and
    infinity are strings that start with U+0001."""
    if re.search(r"\\u000[01]|\d[eE][+-]?\d|NaN|Infinity", text):
        return _TOKEN.sub(_to_jsonb, text)
    return text


def json_bytes(text: str, jsonb: bool) -> bytes:
    """The JSON as COPY takes it: a jsonb after the number of its format."""
    return b"\1" + to_jsonb(text).encode() if jsonb else text.encode()


def _to_jsonb(token: re.Match[str]) -> str:
    text = token[0]
    if text.startswith('"'):
        pairs = {"\\u0000": r"\u0001\u0001", "\\u0001": r"\u0001\u0002"}
        return re.sub(r"\\(?:u000[01]|.)", lambda escape: pairs.get(escape[0], escape[0]), text)
    if text.endswith(("N", "y")):
        return f'"\\u0001{text}"'
    number = f"{Decimal(text):f}"
    return number if "." in number else f"{number}.0"


def from_jsonb(text: str) -> str:
    return _TOKEN.sub(_from_jsonb, text) if r"\u0001" in text else text


def _from_jsonb(token: re.Match[str]) -> str:
    if constant := _CONSTANT.fullmatch(token[0]):
        return constant[1]
    pairs = {r"\u0001\u0001": r"\u0000", r"\u0001\u0002": r"\u0001"}
    return re.sub(r"\\(?:u0001\\u000[12]|.)", lambda escape: pairs.get(escape[0], escape[0]), token[0])


def storable(ids: Sequence[str]) -> Iterator[str]:
    """Those of the ids that a table can hold, as it holds them."""
    return (encoded(id) for id in ids if id.isascii() or not re.search("[\ud800-\udfff]", id))


def chunk_of(cells: rows.Row, jsonb: Collection[str]) -> Chunk:
    """The chunk of a row; `jsonb` has the names of the columns of that type, whose values come as text."""
    id, uri, ordinal, text, *rest, headings, metadata, image = cells
    if "headings" in jsonb:
        headings = from_jsonb(headings)
    if "metadata" in jsonb:
        metadata = from_jsonb(metadata)
    return rows.chunk((decoded(id), decoded(uri), ordinal, decoded(text), *rest, headings, metadata, image))


def column_type(space: VectorSpec) -> str:
    """The type of the column that a search compares with: of many vectors a point, that of the pooled one."""
    return f"sparsevec({WIDTH})" if space.kind == "Sparse" else f"vector({space.dim})"


def column_types(schema: IndexSchema) -> dict[str, str]:
    """The columns of all vectors, and the type of each."""
    types: dict[str, str] = {}
    for name, space in schema.vectors.items():
        column = rows.vector_column(name)
        types |= {column: column_type(space)} if space.kind != "MultiVector" else {column: "bytea"}
    for name, space in schema.vectors.items():
        if space.kind == "MultiVector":
            types[maxsim.pooled_column(name)] = column_type(space)
    return types


def literal(vector: Vector) -> str:
    """The vector as a statement writes it."""
    if not isinstance(vector, Sparse):
        return str(vector.values.tolist())
    pairs = zip(vector.indices.tolist(), vector.values.tolist(), strict=True)
    return f"{{{','.join(f'{index + 1}:{value!r}' for index, value in pairs if value and index < WIDTH)}}}/{WIDTH}"


def encoder(space: VectorSpec) -> Callable[[Any], bytes]:
    """The function that turns a vector of the space into the bytes that COPY takes: a Sparse, or the values of others.

    It raises ValueError for an index that pgvector does not have.
    """
    if space.kind == "Sparse":
        return _sparse_bytes
    if space.kind == "MultiVector":
        return maxsim.packed
    return dense_bytes


def dense_bytes(values: Any) -> bytes:
    return bytes(struct.pack(">hh", len(values), 0) + values.astype(">f4").tobytes())


def _sparse_bytes(vector: Sparse) -> bytes:
    if len(vector.indices) and int(vector.indices[-1]) >= WIDTH:
        raise ValueError(f"its vector has an index beyond {WIDTH - 1:,}, the last that pgvector has")
    entries = vector.indices.astype(">i4").tobytes() + vector.values.astype(">f4").tobytes()
    return bytes(struct.pack(">iii", WIDTH, len(vector.indices), 0) + entries)


def from_binary(data: bytes, space: VectorSpec) -> Vector:
    import numpy as np

    if space.kind == "MultiVector":
        return MultiVector(maxsim.unpacked(data, space.precision, space.dim))
    if space.kind != "Sparse":
        return Dense(np.frombuffer(data, dtype=">f4", offset=4).astype(np.float32))
    end = 12 + 4 * struct.unpack_from(">i", data, 4)[0]
    indices, values = np.frombuffer(data[12:end], ">i4"), np.frombuffer(data[end:], ">f4")
    return Sparse(indices.astype(np.int32), values.astype(np.float32))
