"""A part: a Parquet file of what a worker made of documents, and of how work on them ended.

A row is a chunk: with its vectors; or without, where the index has them under the id in `moved`; or nothing but an id,
where the index has the chunk as it is. `document` is the number in the shard. The endings are in the footer, each after
the rows of its document, which are in this part or earlier ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from penstock.core.errors import SourceError
from penstock.core.precision import DTYPES, columns
from penstock.core.records import Chunk, Dense, MultiVector, Point, Sparse, Vector
from penstock.core.schema import IndexSchema, VectorSpec
from penstock.engine.journal import DONE, FAILED, OPEN, SKIPPED
from penstock.shards.folder import SENSELESS
from penstock.sinks import rows

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

FACTS, ENDINGS = b"penstock.part", b"penstock.endings"
STATES = (DONE, FAILED, OPEN, SKIPPED)
GROUP_BYTES = 4 << 20
"""Of a row group, about."""
AT_ONCE, MOST = 64, 256 << 20
"""Rows that are read at once, and the bytes that they may unpack to."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A failure of a document, or of a part of it: see engine.journal.Failure."""

    stage: str
    cause: str
    permanent: bool = True
    place: str = ""
    traceback: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How work on a document ended."""

    document: int
    fingerprint: str
    revision: str
    state: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    faults: Sequence[Fault] = ()

    def to_json(self) -> list[Any]:
        faults = [[f.stage, f.cause, f.permanent, f.place, f.traceback] for f in self.faults]
        return [self.document, self.fingerprint, self.revision, self.state, dict(self.facts), faults]


@dataclass(frozen=True, slots=True)
class Row:
    """A chunk of a document, on its way to the index."""

    document: int
    id: bytes
    content: int = 0
    digest: int = 0
    length: int = 0
    """Tokens."""
    chunk: Chunk | None = None
    """None where it is kept."""
    vectors: Mapping[str, Vector] | None = None
    moved: bytes | None = None

    @property
    def nbytes(self) -> int:
        chunk = 0 if self.chunk is None else self.chunk.nbytes
        return 200 + chunk + sum(vector.nbytes for vector in (self.vectors or {}).values())


OWN = ("document", "id", "content", "digest", "length", "moved")
"""The columns beside those of the chunk: its uri is that of the document."""
CHUNK = rows.COLUMNS[2:]

# ---------------------------------------------------------------- writing


class Part:
    """Rows and endings as they come, made into a file at the end."""

    def __init__(self, schema: IndexSchema) -> None:
        self.rows = self.nbytes = 0
        self.outcomes: list[Outcome] = []
        self._schema, self._shape = schema, _shape(schema)
        self._made: list[Row] = []
        self._cells: list[rows.Row] = []
        self._written: dict[int, str] = {}

    def __bool__(self) -> bool:
        return bool(self._made or self.outcomes)

    def add(self, row: Row) -> None:
        """Raises ValueError, TypeError or RecursionError where its metadata or texts cannot be kept; SinkError where
        its vectors are others than those of the index."""
        cells: rows.Row = (None,) * len(rows.COLUMNS)
        if row.chunk is not None:
            cells = rows.row(row.chunk, self._written)
            if row.vectors is not None:
                rows.check_point(Point(row.chunk, row.vectors), self._schema, "a part")
        self._made.append(row)
        self._cells.append(cells)
        self.rows += row.vectors is not None
        self.nbytes += row.nbytes

    def encode(self, facts: Mapping[str, Any]) -> bytes:
        import pyarrow as pa
        import pyarrow.parquet as pq

        shape, made = self._shape, self._made
        cells = dict(zip(rows.COLUMNS, zip(*self._cells, strict=True), strict=True)) if made else {}
        arrays = [
            *(pa.array([getattr(row, name) for row in made], shape.field(name).type) for name in OWN),
            *(pa.array(cells.get(name, ()), shape.field(name).type) for name in CHUNK),
            *(
                _column([row.vectors[name] if row.vectors is not None else None for row in made], spec)
                for name, spec in self._schema.vectors.items()
            ),
        ]
        group = max(1, GROUP_BYTES * len(made) // max(1, self.nbytes))
        sink = pa.BufferOutputStream()
        with pq.ParquetWriter(sink, shape, compression="zstd") as writer:
            writer.write_table(pa.Table.from_arrays(arrays, schema=shape), row_group_size=group)
            endings = json.dumps([one.to_json() for one in self.outcomes])
            writer.add_key_value_metadata({FACTS: json.dumps(dict(facts)), ENDINGS: endings})
        data: bytes = sink.getvalue().to_pybytes()
        return data


def _shape(schema: IndexSchema) -> pa.Schema:
    import pyarrow as pa

    number, id = pa.int64(), pa.binary(16)
    own = dict(zip(OWN, (pa.int32(), id, number, number, pa.int32(), id), strict=True))
    chunk = rows.schema(schema)
    fields = [pa.field(name, kind, nullable=name == "moved") for name, kind in own.items()]
    fields += [pa.field(name, chunk.field(name).type) for name in CHUNK]
    fields += [pa.field(rows.vector_column(name), _type(spec)) for name, spec in schema.vectors.items()]
    return pa.schema(fields)


def _type(spec: VectorSpec) -> pa.DataType:
    import pyarrow as pa

    if spec.kind == "Sparse":
        return pa.list_(pa.struct([pa.field("index", pa.int32()), pa.field("value", pa.float32())]))
    vector = pa.list_(pa.from_numpy_dtype(DTYPES[spec.precision]), columns(spec.precision, spec.dim))
    return pa.list_(vector) if spec.kind == "MultiVector" else vector


def _column(vectors: Sequence[Vector | None], spec: VectorSpec) -> pa.Array:
    """A null where there is none."""
    import numpy as np
    import pyarrow as pa

    missing = np.array([vector is None for vector in vectors], bool)
    there = [vector for vector in vectors if vector is not None]
    kind = _type(spec)
    if spec.kind == "Dense":
        flat = np.zeros((len(vectors), spec.dim), np.float32)
        if there:
            flat[~missing] = [vector.values for vector in there]
        return pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), type=kind, mask=pa.array(missing))
    lengths = np.zeros(len(vectors), np.int64)
    lengths[~missing] = [len(vector.values) for vector in there]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    if spec.kind == "MultiVector":
        flat = np.concatenate([np.empty(0, DTYPES[spec.precision]), *(vector.values.reshape(-1) for vector in there)])
        values = pa.FixedSizeListArray.from_arrays(pa.array(flat), columns(spec.precision, spec.dim))
    else:
        indices = [vector.indices for vector in there if isinstance(vector, Sparse)]
        numbers = np.concatenate(indices).astype(np.int32) if indices else np.empty(0, np.int32)
        weights = np.concatenate([vector.values for vector in there]) if there else np.empty(0, np.float32)
        values = pa.StructArray.from_arrays(
            [pa.array(numbers), pa.array(weights, pa.float32())], fields=list(kind.value_type)
        )
    return pa.ListArray.from_arrays(pa.array(offsets), values, type=kind, mask=pa.array(missing))


# ---------------------------------------------------------------- reading


@dataclass(frozen=True, slots=True)
class Read:
    """A part as it was read: the rows are drawn some at a time."""

    rows: Iterator[list[Row]]
    outcomes: Sequence[Outcome]


def decode(name: str, data: bytes, schema: IndexSchema, uris: Sequence[str]) -> Read:
    """`uris`: those of the shard's documents. Raises SourceError for a damaged file, or one that is no such part: here,
    or as the rows are drawn."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _refused(name):
        file = pq.ParquetFile(pa.BufferReader(data))
        if not file.schema_arrow.remove_metadata().equals(_shape(schema)):
            raise ValueError("its columns are others than those of this index")
        kept = file.metadata.metadata or {}
        outcomes = [_outcome(*row) for row in json.loads(kept[ENDINGS])]
        if any(not 0 <= one.document < len(uris) for one in outcomes):
            raise ValueError("a document that is not in the shard")
    return Read(_rows(name, file, schema, uris), outcomes)


def _rows(name: str, file: pq.ParquetFile, schema: IndexSchema, uris: Sequence[str]) -> Iterator[list[Row]]:
    with _refused(name):
        for batch in file.iter_batches(AT_ONCE, use_threads=False):
            if batch.nbytes > MOST:  # a text of megabytes may be said once, for all rows
                raise ValueError(f"{len(batch)} of its rows unpack to more than {MOST >> 20} MiB")
            batch.validate(full=True)  # texts may be no UTF-8
            yield [*_unpacked(batch, schema, uris)]


def _unpacked(batch: pa.RecordBatch, schema: IndexSchema, uris: Sequence[str]) -> Iterator[Row]:
    own = [batch.column(name).to_pylist() for name in OWN]
    cells = [batch.column(name).to_pylist() for name in CHUNK]
    vectors_of = {name: _vectors(batch.column(rows.vector_column(name)), spec) for name, spec in schema.vectors.items()}
    for at, (document, id, content, digest, length, moved) in enumerate(zip(*own, strict=True)):
        if not 0 <= document < len(uris):
            raise ValueError("a chunk of a document that is not in the shard")
        values = [column[at] for column in cells]
        vectors = {name: column[at] for name, column in vectors_of.items()}
        if values[0] is None:
            yield Row(document, id)
            continue
        chunk = rows.chunk((id.hex(), uris[document], *values))
        missing = [name for name, vector in vectors.items() if vector is None]
        if bool(missing) != (moved is not None):
            raise ValueError(f"the chunk {id.hex()} lacks vectors")
        yield Row(document, id, content, digest, length, chunk, None if missing else vectors, moved)


def _vectors(column: pa.Array, spec: VectorSpec) -> list[Any]:
    import numpy as np

    there = column.is_valid().to_pylist()
    if spec.kind == "Dense":
        flat = column.values.slice(column.offset * spec.dim, len(column) * spec.dim)
        matrix = flat.to_numpy(zero_copy_only=False).reshape(-1, spec.dim)
        return [Dense(np.ascontiguousarray(row)) if valid else None for row, valid in zip(matrix, there, strict=True)]
    found: list[Any] = []
    for at, valid in enumerate(there):
        if not valid:
            found.append(None)
        elif spec.kind == "MultiVector":
            values = column[at].values
            width = columns(spec.precision, spec.dim)
            flat = values.values.slice(values.offset * width, len(values) * width)
            found.append(MultiVector(flat.to_numpy(zero_copy_only=False).reshape(-1, width)))
        else:
            pairs = column[at].values
            found.append(Sparse(*(pairs.field(name).to_numpy(zero_copy_only=False) for name in ("index", "value"))))
    return found


def _outcome(document: int, fingerprint: str, revision: str, state: str, facts: dict[str, Any], faults: Any) -> Outcome:
    read = [Fault(*fault) for fault in faults]
    texts = [fingerprint, revision, state, *(text for f in read for text in (f.stage, f.cause, f.place, f.traceback))]
    if type(document) is not int or {*map(type, texts)} != {str} or not isinstance(facts, dict):
        raise ValueError("an ending of other types than expected")
    if state not in STATES:
        raise ValueError(f"unknown state {state!r}")
    return Outcome(document, fingerprint, revision, state, facts, read)


@contextmanager
def _refused(name: str) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (*SENSELESS, OSError, pa.ArrowException) as error:
        raise SourceError(f"{name} cannot be read as a part: {type(error).__name__}: {error!s:.300}") from error
