"""The data files of a Delta table, and the rows of the next ones."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from penstock.core.precision import FP32
from penstock.core.schema import IndexSchema
from penstock.sinks import rows
from penstock.support import durable

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake.transaction import AddAction

PENDING_BYTES = 32 << 20
PENDING_IDS = 50_000
"""Rows and deletions that are held in memory; more are committed without a flush."""
GROUP_ROWS = 8192
GROUP_BYTES = 16 << 20
"""Sizes of the row groups that are read and written at a time."""
PART_ROWS = 50_000
PART_BYTES = 64 << 20


def table_schema(schema: IndexSchema) -> pa.Schema:
    """The columns of rows.schema, with lists for vectors: Delta has none of a fixed size."""
    import pyarrow as pa

    shape = rows.schema(schema, packed=True)
    for name, space in schema.vectors.items():
        number = pa.field("element", pa.float32(), nullable=False)
        vector = pa.list_(number) if space.precision == FP32 else pa.binary()
        if space.kind == "MultiVector":
            vector = pa.list_(pa.field("element", vector, nullable=False))
        column = rows.vector_column(name)
        shape = shape.set(shape.get_field_index(column), pa.field(column, vector, nullable=False))
    return shape


class Pending:
    """Rows written and ids deleted since the last commit; the latest of an id counts."""

    def __init__(self) -> None:
        self.tables: list[pa.Table] = []
        self.newest: dict[str, int] = {}
        """The row of each id in the tables put together; -1 if it was deleted."""
        self.rows = self.bytes = 0

    @property
    def full(self) -> bool:
        return self.bytes >= PENDING_BYTES or max(self.rows, len(self.newest)) >= PENDING_IDS

    def add(self, table: pa.Table) -> None:
        self.newest.update(zip(table.column("id").to_pylist(), range(self.rows, self.rows + len(table)), strict=True))
        self.tables.append(table)
        self.rows += len(table)
        self.bytes += table.nbytes

    def counting(self) -> list[pa.Table]:
        """The rows that count."""
        import numpy as np

        mask = np.zeros(self.rows, dtype=bool)
        mask[[at for at in self.newest.values() if at >= 0]] = True
        ends = np.cumsum([len(table) for table in self.tables])
        return [
            table if mask[end - len(table) : end].all() else table.filter(mask[end - len(table) : end])
            for table, end in zip(self.tables, ends, strict=True)
        ]


class Files:
    """The data files of a table, in a folder or an object store."""

    def __init__(self, uri: str, path: Path | None, options: dict[str, str]) -> None:
        from deltalake.fs import DeltaStorageHandler
        from pyarrow import fs

        self.path = path
        if path is not None:
            self.system = fs.SubTreeFileSystem(str(path), fs.LocalFileSystem())
        else:
            self.system = fs.PyFileSystem(DeltaStorageHandler(uri, options))

    def names(self) -> list[str]:
        from pyarrow import fs

        found = self.system.get_file_info(fs.FileSelector("", allow_not_found=True))
        return [info.base_name for info in found if not info.base_name.startswith(".")]

    def read(self, name: str, shape: pa.Schema) -> Iterator[pa.Table]:
        import pyarrow.parquet as pq

        with self.system.open_input_file(name) as source, pq.ParquetFile(source) as file:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group, columns=shape.names).select(shape.names).cast(shape)

    def write(self, tables: Iterable[pa.Table], schema: pa.Schema, *, changes: bool = True) -> list[AddAction]:
        """Write files of these rows, of about PART_BYTES: they are in no version of the table yet.

        `changes` says whether they change the table, or are rows of files that they replace.
        """
        added: list[AddAction] = []
        groups = grouped(tables)
        for first in groups:
            added.append(self._part(first, groups, schema, changes))
        if self.path is not None and added:
            durable.sync(self.path)
        return added

    def _part(self, first: pa.Table, groups: Iterator[pa.Table], schema: pa.Schema, changes: bool) -> AddAction:
        import pyarrow.compute as pc
        import pyarrow.parquet as pq
        from deltalake.transaction import AddAction

        name = f"part-{uuid4()}.parquet"
        count, ends = 0, []
        with self.system.open_output_stream(name) as file:
            with pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=["uri", "headings"]) as writer:
                group: pa.Table | None = first
                while group is not None:
                    writer.write_table(group, row_group_size=len(group))
                    count += len(group)
                    extremes = pc.min_max(group.column("uri"))
                    ends += [extremes["min"].as_py(), extremes["max"].as_py()]
                    full = count >= PART_ROWS or file.tell() >= PART_BYTES
                    group = None if full else next(groups, None)
            size = file.tell()
        if self.path is not None:
            durable.sync(self.path / name)
        stats: dict[str, Any] = {"numRecords": count}
        if max(map(len, ends)) <= 256:  # so that queries of one document open few files
            stats |= {"minValues": {"uri": min(ends)}, "maxValues": {"uri": max(ends)}, "nullCount": {"uri": 0}}
        return AddAction(name, size, {}, int(time.time() * 1000), changes, json.dumps(stats))


def grouped(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in groups of about the size of a row group."""
    import pyarrow as pa

    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        if sum(map(len, held)) >= GROUP_ROWS or sum(t.nbytes for t in held) >= GROUP_BYTES:
            yield pa.concat_tables(held)
            held = []
    if any(map(len, held)):
        yield pa.concat_tables(held)


def without(table: pa.Table, ids: pa.Array) -> pa.Table:
    import pyarrow.compute as pc

    found = pc.is_in(table.column("id"), value_set=ids)
    return table.filter(pc.invert(found)) if pc.any(found).as_py() else table
