"""Searches a table of PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from penstock.core import filters
from penstock.core.records import Hit, Sparse, Vector
from penstock.sinks import rows, sparse
from penstock.sinks.collection import CollectionIndex, Target
from penstock.sinks.pgvector.columns import SELECTED
from penstock.sinks.pgvector.filters import as_stored
from penstock.sinks.pgvector.sink import PgvectorStore
from penstock.sinks.pgvector.table import Table
from penstock.sinks.pgvector.values import chunk_of, column_type, literal

if TYPE_CHECKING:
    import psycopg

LARGEST_K = 500
"""Of the HNSW index; for more, every vector is compared with."""
_DISTANCES = {"cosine": "<=>", "l2": "<->", "dot": "<#>"}


class PgvectorIndex(PgvectorStore, CollectionIndex[Table]):
    """Compares with every vector of the rows that `where` leaves; without `where` by the HNSW index where there is
    one."""

    def _nearest(
        self, collection: Table, target: Target, vector: Vector, k: int, where: filters.Filter | None
    ) -> list[Hit]:
        name, space = target
        dense = space.kind == "Dense"
        query = literal(sparse.checked_query(vector, self._url) if isinstance(vector, Sparse) else vector)
        operator = _DISTANCES[space.metric if dense else "dot"]
        distance = f'"{rows.vector_column(name)}" {operator} %s::{column_type(space)}'
        values: list[Any] = [query]
        condition = filters.sql(as_stored(where), filters.Parameters("%s", values)) if where else "true"
        sql = (
            f"SELECT {SELECTED}, {{}} AS distance FROM {collection.name} WHERE {condition} ORDER BY distance LIMIT {k}"
        )
        found: list[tuple[Any, ...]] = []
        with collection.transaction() as cursor:
            jsonb = collection.jsonb(cursor)
            if where is None and k <= LARGEST_K and dense:
                cursor.execute("SELECT set_config('hnsw.ef_search', %s, true)", (str(max(100, 2 * k)),))
                found = _rows(cursor, sql.format(distance), values)
            # The index leaves out deleted rows only after its choice, and vectors without a direction. It does not
            # bear on an order by an expression of the distance.
            if len(found) < k or any(cells[-1] != cells[-1] for cells in found):
                found = _rows(cursor, sql.format(f"coalesce(nullif(({distance}), 'NaN'), 1)"), values)
        best = 1.0 if dense and space.metric == "cosine" else 0.0
        return [Hit(best - cells[-1], chunk_of(cells[:-1], jsonb)) for cells in found]


def _rows(cursor: psycopg.Cursor[Any], sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
    """The rows of a statement into which the client writes the values: a filter may have more than the 65,535
    parameters that a statement takes."""
    import psycopg

    asking = psycopg.ClientCursor(cursor.connection, row_factory=psycopg.rows.tuple_row)
    return list(asking.execute(sql.encode(), values))
