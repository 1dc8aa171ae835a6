"""A part: one Parquet file, with entries for inputs that have no row in its footer.

id            32 hexadecimal digits: of uri and content, the same in every run
uri           of the image
content_hash  SHA-256 of its bytes; null where they are unknown
width, height in pixels, by its header
text          its caption
metadata      JSON
vector        a list of float32 of fixed size
model         the fingerprint of the space
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from penstock.core.errors import SinkError, SourceError
from penstock.core.schema import VectorSpec

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from numpy.typing import NDArray

FACTS, ACCOUNT = b"penstock.part", b"penstock.account"
EMBEDDED, DUPLICATE, FAILED, SKIPPED = "embedded", "duplicate", "failed", "skipped"
NOTED = "noted"
STATES = (EMBEDDED, DUPLICATE, FAILED, SKIPPED)


class Row(NamedTuple):
    """One image, in the order of the columns; the model is the same for all."""

    id: str
    uri: str
    content_hash: str | None
    width: int | None
    height: int | None
    text: str
    metadata: str
    vector: NDArray[np.float32]


class Entry(NamedTuple):
    """The state of an input without a row, or a note about one that has a row."""

    uri: str
    state: str
    """`duplicate`, `failed`, `skipped`; `noted` if it was embedded, and something about it could not be read."""
    why: str
    """The cause; of a duplicate, the uri of the embedded image with the same content."""
    final: bool = True
    """False for a failure that may pass: the next worker on this shard tries the input again."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part as read from its file."""

    name: str
    sha256: str
    table: pa.Table
    entries: Sequence[Entry]
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Listed:
    """A part in the record of a finished shard."""

    name: str
    rows: int
    sha256: str
    entries: int = 0


@dataclass(slots=True)
class Digest:
    """Digest of a set of texts, whatever their order."""

    count: int = 0
    total: int = field(default=0)

    def add(self, text: str) -> None:
        self.count += 1
        raw = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()
        self.total = (self.total + int.from_bytes(raw, "big")) % (1 << 128)

    def __str__(self) -> str:
        return f"{self.total:032x}"


GROUP = 512
"""Rows of a row group."""
SMALL = 256 << 20
AT_ONCE = 16
RATIO = 100
"""A part of over SMALL bytes of rows may grow so much in unpacking. Vectors hardly can be packed."""


def schema(dim: int) -> pa.Schema:
    import pyarrow as pa

    def column(name: str, kind: Any, nullable: bool = False) -> Any:
        return pa.field(name, kind, nullable=nullable)

    return pa.schema(
        [
            column("id", pa.string()),
            column("uri", pa.string()),
            column("content_hash", pa.string(), nullable=True),
            column("width", pa.int32(), nullable=True),
            column("height", pa.int32(), nullable=True),
            column("text", pa.string()),
            column("metadata", pa.string()),
            column("vector", pa.list_(pa.float32(), dim)),
            column("model", pa.string()),
        ]
    )


class PartBuilder:
    """Builds a part in a temporary file, a row group at a time."""

    def __init__(self, space: VectorSpec) -> None:
        self.rows = self.nbytes = 0
        self._space, self._group = space, list[Row]()
        self._file: Any = None
        self._writer: Any = None
        self._failed = ""

    def add(self, row: Row) -> None:
        self._group.append(row)
        self.rows += 1
        self.nbytes += row.vector.nbytes + len(row.text) + len(row.metadata) + len(row.uri)
        if len(self._group) == GROUP:
            self._write()

    def finish(self, entries: Sequence[Entry], facts: Mapping[str, Any]) -> bytes:
        """Give the whole file, and close."""
        if self._group or self._writer is None:
            self._write()
        with self._writing():
            # Only here, and not in the schema: that is kept twice.
            self._writer.add_key_value_metadata({FACTS: json.dumps(dict(facts)), ACCOUNT: json.dumps(entries)})
            self._writer.close()
            self._file.seek(0)
            data: bytes = self._file.read()
        self.close()
        return data

    def close(self) -> None:
        if self._file is not None:
            with suppress(OSError, ValueError):  # the disk may be full, and what failed once fails again
                if self._writer is not None:
                    self._writer.close()
            with suppress(OSError):
                self._file.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Raise SinkError for what fails, and for every call after it: a part that lacks rows must not be finished."""
        if self._failed:
            raise SinkError(self._failed)
        try:
            yield
        except (OSError, ValueError) as error:  # Arrow's own errors are of these
            self._failed = f"a part cannot be written to {tempfile.gettempdir()}: {type(error).__name__}: {error}"
            raise SinkError(self._failed) from error

    def _write(self) -> None:
        import numpy as np
        import pyarrow as pa
        import pyarrow.parquet as pq

        shape = schema(self._space.dim)
        rows, self._group = self._group, []
        columns = list(zip(*rows, strict=True)) or [()] * len(Row._fields)
        flat = np.concatenate(columns[-1]) if rows else np.empty(0, np.float32)
        with self._writing():
            arrays = [pa.array(column, type=shape.field(n).type) for n, column in enumerate(columns[:-1])]
            arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float32()), self._space.dim))
            arrays.append(pa.array([self._space.fingerprint] * len(rows), pa.string()))
            if self._writer is None:
                self._file = tempfile.TemporaryFile(prefix="penstock-")  # noqa: SIM115 - close() does
                self._writer = pq.ParquetWriter(self._file, shape, compression="zstd", use_dictionary=["model"])
            self._writer.write_table(pa.Table.from_arrays(arrays, schema=shape))


def decode(name: str, data: bytes) -> Part:
    """Read a part. Raises SourceError for a damaged file, or one that is no part."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            kept = file.metadata.metadata or {}
            facts = json.loads(kept[FACTS])
            if not isinstance(facts, dict):
                raise ValueError(f"its facts are a {type(facts).__name__}")
            entries = [_entry(*entry) for entry in json.loads(kept[ACCOUNT])]
            table = _table(file, len(data))
            table.validate(full=True)  # texts may be no UTF-8
        kind = table.schema.field("vector").type
        if table.schema.remove_metadata() != schema(kind.list_size):
            raise ValueError("unexpected columns")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, pa.ArrowException) as error:
        raise SourceError(f"{name} cannot be read as a part: {type(error).__name__}: {error}") from error
    return Part(name, hashlib.sha256(data).hexdigest(), table, entries, facts)


def _table(file: pq.ParquetFile, size: int) -> pa.Table:
    """The rows, read some at a time: a file of kilobytes may unpack to any number of bytes, whatever it says itself."""
    import pyarrow as pa

    most = max(SMALL, RATIO * size)
    if file.metadata.num_rows > most // 16:  # each has an id
        raise ValueError("it claims more rows than it can hold")
    batches, held = [], 0
    for batch in file.iter_batches(AT_ONCE, use_threads=False):  # a text of megabytes may be said once, for all rows
        batches.append(batch)
        held += batch.nbytes
        if held > most:
            raise ValueError(f"its rows unpack to more than {most >> 20} MiB")
    return pa.Table.from_batches(batches, file.schema_arrow)


def _entry(uri: Any, state: Any, why: Any, final: Any = True) -> Entry:
    texts = isinstance(uri, str) and isinstance(why, str) and isinstance(final, bool)
    if not texts or state not in (DUPLICATE, FAILED, SKIPPED, NOTED):
        raise ValueError("invalid entries in its footer")
    uri.encode()  # UnicodeEncodeError, a ValueError, for half a surrogate pair
    return Entry(uri, state, why.encode(errors="replace").decode(), final)


def records(table: pa.Table) -> Iterator[Row]:
    """Yield the rows; vectors are views of one matrix."""
    import numpy as np

    for batch in table.to_batches():
        vectors = batch.column("vector")
        flat = vectors.flatten().to_numpy(zero_copy_only=False)
        matrix = np.ascontiguousarray(flat, np.float32).reshape(len(batch), -1)
        plain = [batch.column(name).to_pylist() for name in Row._fields[:-1]]
        yield from (Row(*cells) for cells in zip(*plain, matrix, strict=True))
