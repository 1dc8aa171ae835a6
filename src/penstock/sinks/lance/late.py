"""Many vectors a point in a LanceDB table: the nearest by their pooled vectors are compared exactly, or all points.

By ourselves, as LanceDB's own MaxSim reads gigabytes ahead, takes several times as long and knows no int8 or bits. A
table of an earlier version has no pooled vectors: all of its points are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from penstock.core.pieces import PieceSize
from penstock.core.records import Hit
from penstock.core.schema import IndexSchema, VectorSpec
from penstock.sinks import maxsim, rows
from penstock.sinks.lance.table import PAGE

if TYPE_CHECKING:
    import pyarrow as pa


def fields(schema: IndexSchema) -> list[pa.Field]:
    """The columns of pooled vectors."""
    import pyarrow as pa

    late = [(name, space.dim) for name, space in schema.vectors.items() if space.kind == "MultiVector"]
    return [pa.field(maxsim.pooled_column(name), pa.list_(pa.float32(), dim), nullable=False) for name, dim in late]


def with_pooled(record: pa.RecordBatch, batch: rows.Batch, names: Sequence[str]) -> pa.RecordBatch:
    """The rows of a batch with those columns of pooled vectors that are named: all that the table has."""
    import numpy as np
    import pyarrow as pa

    for name, vectors in batch.columns.items():
        if (column := maxsim.pooled_column(name)) in names:
            flat = np.concatenate([maxsim.pooled(values) for values in vectors.rows] or [np.empty(0, np.float32)])
            pooled = pa.FixedSizeListArray.from_arrays(pa.array(flat), vectors.space.dim)
            record = record.append_column(pa.field(column, pooled.type, nullable=False), pooled)
    return record


def nearest(
    table: Any, condition: str, target: tuple[str, VectorSpec], query: maxsim.Query, k: int, *, exact: bool
) -> list[Hit]:
    """The k points with the highest MaxSim of the rows that meet the condition. The table has to stay at its version
    meanwhile, as rows are read by their ids."""
    name, space = target
    column = rows.vector_column(name)
    best: maxsim.Best[int] = maxsim.Best(query, k)
    size = PieceSize({name: space}, PAGE)
    for page in _row_ids(table, condition, name, query, k, exact=exact):
        start = 0
        while start < len(page):
            some = page[start : start + size.rows]
            start += len(some)
            for batch in table.take_row_ids(some).with_row_id().select([column]).to_arrow().to_batches():
                vectors = batch.column(column)
                counts = vectors.value_lengths().to_pylist()
                flat = rows.matrix(vectors.flatten(), space)
                size.learn([flat[:count] for count in counts])
                best.add_rows(batch.column("_rowid").to_pylist(), flat, counts)
    if not best.found:
        return []
    found = table.take_row_ids([row for _, row in best.found]).with_row_id().select(list(rows.COLUMNS)).to_arrow()
    ids = found.column("_rowid").to_pylist()
    chunks = dict(zip(ids, (chunk for batch in found.to_batches() for chunk in rows.chunks(batch)), strict=True))
    return [Hit(score, chunks[row]) for score, row in best.found]


def _row_ids(table: Any, condition: str, name: str, query: maxsim.Query, k: int, *, exact: bool) -> Iterator[list[int]]:
    """The rows to compare: of a shortlist, if there are pooled vectors, or all."""
    pooled, total = maxsim.pooled_column(name), table.count_rows()
    if exact or pooled not in table.schema.names:
        found = table.search().select(["id"])
    else:
        count = max(maxsim.shortlist(total, k), min(total, k), 1)
        found = table.search(query.pooled, vector_column_name=pooled).distance_type("cosine").limit(count)
        found = found.select(["id", "_distance"])
    found = found.where(condition, prefilter=True) if condition else found
    for batch in found.with_row_id(True).to_batches(PAGE):
        yield sorted(batch.column("_rowid").to_pylist())
