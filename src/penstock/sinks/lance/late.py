"""Exact MaxSim by ourselves, of vectors in numbers that LanceDB does not compare: all rows, some at a time."""

from __future__ import annotations

from typing import Any

from penstock.core.records import Hit, MultiVector
from penstock.core.schema import VectorSpec
from penstock.sinks import maxsim, rows

BATCH = 256
"""Rows that are read at once: of pages of 1,030 vectors of 128 bytes, 34 MB."""


def nearest(
    table: Any, condition: str, target: tuple[str, VectorSpec], vector: MultiVector, k: int, url: str
) -> list[Hit]:
    """The k nearest of the rows that meet the condition. Raises RuntimeError, as LanceDB does of files that are gone,
    where the table becomes another version meanwhile."""
    name, space = target
    column = rows.vector_column(name)
    best: maxsim.Best[tuple[str, int]] = maxsim.Best(maxsim.Query(vector, space.metric, url, space.precision), k)
    scan = table.search().with_row_id(True).select(["id", column])
    for batch in (scan.where(condition) if condition else scan).to_batches(BATCH):
        if batch.num_rows:
            keys = zip(batch.column("id").to_pylist(), batch.column("_rowid").to_pylist(), strict=True)
            vectors = batch.column(column)
            best.add_rows(list(keys), rows.matrix(vectors.flatten(), space), vectors.value_lengths().to_pylist())
    if not best.found:
        return []
    taken = table.take_row_ids([row for _, (_, row) in best.found]).select(list(rows.COLUMNS)).to_arrow()
    chunks = {chunk.id: chunk for batch in taken.to_batches() for chunk in rows.chunks(batch)}
    try:
        return [Hit(score, chunks[id]) for score, (id, _) in best.found]
    except KeyError:
        raise RuntimeError("row not found: the table has become another version") from None
