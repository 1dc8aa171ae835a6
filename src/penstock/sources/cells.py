"""Rows of Parquet files: their plain values in a listing, and one value where an image is opened.

pyarrow reads a column by pages, of some megabytes mostly: those are in memory, and never a row group.
"""

from __future__ import annotations

import io
import math
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

from penstock.core.errors import LimitExceeded, ParseError, SourceError

BYTES, TEXT, PLAIN = "bytes", "text", "plain"
"""Kinds of columns: images, texts, other single values."""
ROWS = 1024
"""The most rows that a listing reads at a time."""
LISTED = 4 << 20
"""Bytes that a listing reads at a time, on average."""
FILES = 2
"""Files that are kept open for their images."""
KEPT = 32 << 20
"""Bytes of the latest values of an open file: threads that read side by side come a little out of order."""
_BUFFER = 1 << 20
_CURSORS = 2
_LIKELY = 1000
"""The most rows a byte of a file: a column of equal values takes next to nothing."""


class TableRow(NamedTuple):
    """A row of a file, with where it is."""

    number: int
    """In its file, from 0 on; of a list the line, from 1 on."""
    values: Mapping[str, Any] | None
    """None of a row that is broken."""
    group: int = 0
    offset: int = 0
    """In its group."""
    cause: str = ""


class Watched(io.RawIOBase):
    """Remembers a failure to read; whatever else a format's reader raises is the content's fault."""

    def __init__(self, real: BinaryIO) -> None:
        self.trouble: Exception | None = None
        self._real = real

    def readinto(self, buffer: Any) -> int:
        with self._watching():
            data = self._real.read(len(buffer))
            buffer[: len(data)] = data
            return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        with self._watching():
            return self._real.seek(offset, whence)

    def tell(self) -> int:
        return self._real.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._real.close()
        super().close()

    @contextmanager
    def _watching(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.trouble = error
            raise


class Stream(io.BufferedReader):
    raw: Watched


def opened(file: Callable[[], BinaryIO]) -> Stream:
    return Stream(Watched(file()), 1 << 16)


# ---------------------------------------------------------------- listing


class ParquetTable:
    def __init__(self, stream: BinaryIO) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        size = stream.seek(0, io.SEEK_END)
        self._file = pq.ParquetFile(stream, buffer_size=_BUFFER, pre_buffer=False)
        if self._file.metadata.num_rows > size * _LIKELY:
            raise ParseError("the Parquet file claims more rows than it can hold")
        self.fields: dict[str, str] = {}
        for field in self._file.schema_arrow:
            if (kind := _kind(field.type, pa.types)) is not None:
                self.fields[field.name] = kind
        texts = [name for name, kind in self.fields.items() if kind == TEXT]
        # As a dictionary, a long text that many rows have is in memory once.
        how = {"buffer_size": _BUFFER, "pre_buffer": False, "read_dictionary": texts}
        self._file = pq.ParquetFile(stream, metadata=self._file.metadata, **how)

    @property
    def count(self) -> int:
        return int(self._file.metadata.num_rows)

    def rows(self, names: Sequence[str] | None = None) -> Iterator[TableRow]:
        """The rows with the values of these columns; by default of all that hold no images."""
        names = [name for name, kind in self.fields.items() if kind != BYTES] if names is None else names
        number = 0
        for group in range(self._file.num_row_groups):
            for offset, values in enumerate(self._group(group, names)):
                yield TableRow(number, values, group, offset)
                number += 1

    def image(self, column: str, number: int, most: int) -> bytes | None:
        """The image of one row. Reads those before it in its row group, some at a time, and keeps none. Raises
        LimitExceeded where the row group has more than `most` bytes of images."""
        group = 0
        while group < self._file.num_row_groups and number >= (rows := self._file.metadata.row_group(group).num_rows):
            group, number = group + 1, number - rows
        if number < 0 or group == self._file.num_row_groups:
            return None
        paths = [_path(self._file.schema_arrow.field(column))]
        if self._size(group, paths) > most:
            raise LimitExceeded(f"a row group has more than {most:,} bytes of images")
        for batch in self._batches(group, paths):
            if number < len(batch):
                return _bytes(batch.column(0)[number])
            number -= len(batch)
        return None

    def _group(self, group: int, names: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        if not names:
            yield from ({} for _ in range(self._file.metadata.row_group(group).num_rows))
            return
        for batch in self._batches(group, names):
            held = [_plain(column) for column in batch.columns]
            for values in zip(*held, strict=True):
                yield dict(zip(batch.schema.names, values, strict=True))

    def _batches(self, group: int, paths: Sequence[str]) -> Iterator[Any]:
        share = LISTED * self._file.metadata.row_group(group).num_rows // max(self._size(group, paths), 1)
        rows = max(1, min(ROWS, share))
        yield from self._file.iter_batches(rows, row_groups=[group], columns=list(paths), use_threads=False)

    def _size(self, group: int, paths: Sequence[str]) -> int:
        metadata, schema, wanted = self._file.metadata, self._file.metadata.schema, {*paths}
        # A column whose metadata contradict each other ends the process where pyarrow is asked for them. Reading a row
        # raises instead.
        next(self._file.iter_batches(1, row_groups=[group], columns=list(paths), use_threads=False), None)
        columns = [at for at in range(len(schema)) if schema.column(at).path in wanted]
        return sum(metadata.row_group(group).column(at).total_uncompressed_size for at in columns)


def _path(field: Any) -> str:
    """The name that Parquet has for a column of images."""
    import pyarrow as pa

    return f"{field.name}.bytes" if pa.types.is_struct(field.type) else str(field.name)


def _bytes(value: Any) -> bytes | None:
    held = value.as_py()
    image: bytes | None = held["bytes"] if isinstance(held, dict) else held
    return image


def _kind(type_: Any, types: Any) -> str | None:
    if types.is_dictionary(type_):
        type_ = type_.value_type
    if types.is_struct(type_) and (at := type_.get_field_index("bytes")) >= 0:
        type_ = type_.field(at).type
        return BYTES if types.is_binary(type_) or types.is_large_binary(type_) else None
    if types.is_binary(type_) or types.is_large_binary(type_) or types.is_binary_view(type_):
        return BYTES
    if types.is_string(type_) or types.is_large_string(type_) or types.is_string_view(type_):
        return TEXT
    plain = (types.is_boolean, types.is_integer, types.is_floating, types.is_decimal, types.is_date, types.is_timestamp)
    return PLAIN if any(is_a(type_) for is_a in plain) else None


def _plain(column: Any) -> list[Any]:
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(column, pa.DictionaryArray):
        used = pc.unique(column.indices.drop_null())
        words = dict(zip(used.to_pylist(), _plain(column.dictionary.take(used)), strict=True))
        return [None if at is None else words[at] for at in column.indices.to_pylist()]
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.timestamp(column.type.unit))  # a zone would need the list of zones
        column = column.cast(pa.string())
    return [_value(value) for value in column.to_pylist()]


def _value(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


# ---------------------------------------------------------------- opening


@dataclass(frozen=True, slots=True)
class Cell:
    """Opens the image in a row."""

    file: Callable[[], BinaryIO]
    version: str
    """The file's fingerprint when it was listed."""
    column: str
    group: int
    row: int
    """In its group."""

    def __call__(self) -> BinaryIO:
        value = _shelf.value(self)
        if value is None:
            raise ParseError("the row has no image")
        return io.BytesIO(value)


class _Open:
    """A file that is read forward; the latest values are kept."""

    def __init__(self, cell: Cell) -> None:
        import pyarrow.parquet as pq

        self._stream = opened(cell.file)
        try:
            with _blaming(self._stream):
                self._file = pq.ParquetFile(self._stream, buffer_size=_BUFFER, pre_buffer=False)
                self._path = _path(self._file.schema_arrow.field(cell.column))
        except BaseException:
            self.close()
            raise
        self._cursors: OrderedDict[int, tuple[Iterator[Any], int]] = OrderedDict()
        """By row group: threads read two of them where one ends and the next begins."""
        self._kept: OrderedDict[tuple[int, int], bytes | None] = OrderedDict()
        self._bytes = 0

    def close(self) -> None:
        self._stream.close()

    def value(self, group: int, row: int) -> bytes | None:
        if (group, row) in self._kept:
            return self._kept[group, row]
        with _blaming(self._stream):
            return self._read(group, row)

    def _read(self, group: int, row: int) -> bytes | None:
        if group >= self._file.num_row_groups:
            raise SourceError("the file has changed: it no longer has this row")
        batches, begin = self._cursors.pop(group, (None, 0))
        if batches is None or begin > row:
            # One row at a time: a single one may be as large as a page.
            batches = self._file.iter_batches(1, row_groups=[group], columns=[self._path], use_threads=False)
            begin = 0
        value: bytes | None = None
        for at in range(begin, row + 1):
            if (batch := next(batches, None)) is None:
                raise SourceError("the file has changed: it no longer has this row")
            value = _bytes(batch.column(0)[0])
            self._keep(group, at, value)
        self._cursors[group] = batches, row + 1
        if len(self._cursors) > _CURSORS:
            self._cursors.popitem(last=False)
        return value

    def _keep(self, group: int, row: int, value: bytes | None) -> None:
        if (group, row) not in self._kept:
            self._kept[group, row] = value
            self._bytes += sys.getsizeof(value)
        while self._bytes > KEPT:
            self._bytes -= sys.getsizeof(self._kept.popitem(last=False)[1])


@contextmanager
def _blaming(stream: Stream) -> Iterator[None]:
    """Raise what went wrong with reading as it was, and all else as a ParseError."""
    try:
        yield
    except SourceError:
        raise
    except Exception as error:  # pyarrow raises what it likes
        if stream.raw.trouble is not None:
            raise stream.raw.trouble from None
        raise ParseError(f"the Parquet file is broken: {type(error).__name__}: {error}") from None


class _Shelf:
    """The files of this process that images are read from."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[tuple[Any, ...], _Open] = OrderedDict()

    def value(self, cell: Cell) -> bytes | None:
        key = (cell.file, cell.version, cell.column)
        with self._lock:
            if (file := self._open.pop(key, None)) is None:
                file = _Open(cell)
            try:
                value = file.value(cell.group, cell.row)
            except BaseException:
                file.close()
                raise
            self._open[key] = file
            if len(self._open) > FILES:
                self._open.popitem(last=False)[1].close()
            return value

    def clear(self) -> None:
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()


_shelf = _Shelf()


def close_files() -> None:
    """Close the files that images were read from. A thread that still reads from one opens it again."""
    _shelf.clear()
