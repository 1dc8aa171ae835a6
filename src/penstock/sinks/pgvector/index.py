"""Searches a table of PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from penstock.core.errors import UsageError
from penstock.core.fields import Path, Scalar, kind
from penstock.core.filters import Filter
from penstock.core.records import Hit, MultiVector, Sparse, Vector
from penstock.sinks import maxsim, rows, sparse
from penstock.sinks.collection import CollectionIndex, Target
from penstock.sinks.facets import most, type_of
from penstock.sinks.pgvector import full_text
from penstock.sinks.pgvector.columns import SELECTED
from penstock.sinks.pgvector.connection import scalar
from penstock.sinks.pgvector.filters import column, condition, held, json_path
from penstock.sinks.pgvector.sink import PgvectorStore
from penstock.sinks.pgvector.table import PAGE, Table
from penstock.sinks.pgvector.url import parse
from penstock.sinks.pgvector.values import chunk_of, column_type, from_jsonb, literal

if TYPE_CHECKING:
    import psycopg

LARGEST_K = 500
"""Of the HNSW index; for more, every vector is compared with."""
_SCALAR = r"""jsonb_typeof(value) IN ('string', 'number', 'boolean') AND value <> '"\u0001NaN"'"""
"""A value that equals itself: see `values.to_jsonb`."""
_WRITTEN = r"""CASE jsonb_typeof(value) WHEN 'boolean' THEN initcap(value #>> '{}')
    WHEN 'number' THEN regexp_replace(value #>> '{}', '\.0+$', '')
    ELSE regexp_replace(value #>> '{}', '^\u0001(?=[-I])', '') END"""
"""As `facets.written`, for which values are cut off at the limit."""
_MOST = f"""GROUP BY value ORDER BY 2 DESC, ({_WRITTEN}) COLLATE "C", jsonb_typeof(value) LIMIT"""
_DISTANCES = {"cosine": "<=>", "l2": "<->", "dot": "<#>"}


class PgvectorIndex(PgvectorStore, CollectionIndex[Table]):
    """Compares with every vector of the rows that `where` leaves; without `where` by the HNSW index where there is
    one. Many vectors a point are compared with those of a shortlist, or with `?exact` of all."""

    keeps_fields = False
    """Metadata of tables of earlier versions can be filtered by as well."""
    _parse = staticmethod(partial(parse, more=frozenset({maxsim.EXACT})))

    def __init__(self, url: str, client: psycopg.Connection[Any] | None = None) -> None:
        super().__init__(url, client)
        self._exact = maxsim.compares_all(self._address.options, url)

    def _nearest(self, collection: Table, target: Target, vector: Vector, k: int, where: Filter | None) -> list[Hit]:
        name, space = target
        if isinstance(vector, MultiVector):
            asked = maxsim.Query(vector, space.metric, self._url, space.precision)
            return _by_tokens(collection, name, asked, k, where, exact=self._exact)
        dense = space.kind == "Dense"
        query = literal(sparse.checked_query(vector, self._url) if isinstance(vector, Sparse) else vector)
        operator = _DISTANCES[space.metric if dense else "dot"]
        distance = f'"{rows.vector_column(name)}" {operator} %s::{column_type(space)}'
        values: list[Any] = [query]
        found: list[tuple[Any, ...]] = []
        with collection.transaction() as cursor:
            jsonb = collection.jsonb(cursor)
            passing = condition(where, "metadata" in jsonb, values)

            def nearest(distance: str) -> list[tuple[Any, ...]]:
                columns = f"{SELECTED}, {distance} AS distance"
                sql = f"SELECT {columns} FROM {collection.name} WHERE {passing} ORDER BY distance LIMIT {k}"
                return _rows(cursor, sql, values)

            if where is None and k <= LARGEST_K and dense:
                cursor.execute("SELECT set_config('hnsw.ef_search', %s, true)", (str(max(100, 2 * k)),))
                found = nearest(distance)
            # The index leaves out deleted rows only after its choice, and vectors without a direction. It does not
            # bear on an order by an expression of the distance.
            if len(found) < k or any(cells[-1] != cells[-1] for cells in found):
                found = nearest(f"coalesce(nullif(({distance}), 'NaN'), 1)")
        best = 1.0 if dense and space.metric == "cosine" else 0.0
        return [Hit(best - cells[-1], chunk_of(cells[:-1], jsonb)) for cells in found]

    @property
    def finds_words(self) -> bool:
        collection, _ = self._opened()
        with collection.transaction() as cursor:
            return full_text.exists(cursor, collection.name)

    def search_words(self, text: str, k: int = 10, where: Mapping[str, Any] | None = None) -> list[Hit]:
        collection, _ = self._opened()
        wanted = self._parsed(where)
        with collection.transaction() as cursor:
            if not full_text.exists(cursor, collection.name):
                raise UsageError(f"{self._url} has no full text yet; the next ingest into it makes it")
            asked = full_text.queries(cursor, collection.name, text) if k > 0 else []
            if not asked:
                return []
            estimated = scalar(cursor, "SELECT reltuples FROM pg_class WHERE oid = to_regclass(%s)", (collection.name,))
            weights = full_text.weights([count for _, count in asked], int(estimated))
            jsonb, queries = collection.jsonb(cursor), [query for query, _ in asked]
            found: list[tuple[Any, ...]] = []
            for number in dict.fromkeys((full_text.rarest(asked), len(asked))):
                values: list[Any] = [" | ".join(queries[:number])]
                passing = condition(wanted, "metadata" in jsonb, values)
                sql = full_text.ranked(collection.name, SELECTED, passing, k)
                found = _rows(cursor, sql, [*values, queries, weights])
                if len(found) >= k:
                    break
        return [Hit(cells[-1], chunk_of(cells[:-1], jsonb)) for cells in found]

    def _facet(
        self, collection: Table, path: Path | None, where: Filter | None, limit: int
    ) -> Sequence[tuple[Scalar, int]]:
        with collection.transaction() as cursor:
            jsonb = "metadata" in collection.jsonb(cursor)
            values: list[Any] = []
            if path is None:
                passing = condition(where, jsonb, values)
                sql = f"SELECT image IS NULL, count(*) FROM {collection.name} WHERE {passing} GROUP BY 1"
                types = _rows(cursor, sql, values)
                return most({(str, type_of(text)): number for text, number in types}, limit)
            values += [json_path(path), f"{json_path(path)}[*]"]
            each = f"LATERAL ({held(column(jsonb), '%s', '%s')}) AS held (value)"
            sql = (
                f"SELECT min(value::text), count(*) FROM {collection.name}, {each} WHERE {_SCALAR}"
                f" AND {condition(where, jsonb, values)} {_MOST} {max(limit, 0)}"
            )
            found = [(json.loads(from_jsonb(text)), number) for text, number in _rows(cursor, sql, values)]
        return most({(kind(value), value): number for value, number in found}, limit)


def _by_tokens(table: Table, name: str, query: maxsim.Query, k: int, where: Filter | None, *, exact: bool) -> list[Hit]:
    """Compare with all vectors of a shortlist, which is exact by the pooled ones, or of all points."""
    best: maxsim.Best[str] = maxsim.Best(query, k)
    tokens = f'"{rows.vector_column(name)}"'
    values: list[Any] = []
    with table.transaction() as cursor:
        jsonb = table.jsonb(cursor)
    passing = condition(where, "metadata" in jsonb, values)
    sizes = f"SELECT id, octet_length({tokens}) FROM {table.name} WHERE ({passing})"

    # Others have their turn between two pages: a transaction over all points would hold the connection for minutes.
    def shortlist() -> Iterator[tuple[str, int]]:
        with table.transaction() as cursor:
            total = scalar(cursor, f"SELECT count(*) FROM {table.name}")
            count = max(maxsim.shortlist(total, k), min(total, k))
            order = f'"{maxsim.pooled_column(name)}" <=> %s::vector({query.dim})'
            pooled = str(query.pooled.tolist())
            page = _rows(cursor, f"{sizes} ORDER BY {order} LIMIT {count}", [*values, pooled])
        yield from ((id, size) for id, size in page)

    def all_points() -> Iterator[tuple[str, int]]:
        sql, last = f"{sizes} AND id > %s ORDER BY id LIMIT {PAGE}", ""
        while True:
            with table.transaction() as cursor:
                page = _rows(cursor, sql, [*values, last])
            if not page:
                return
            yield from ((id, size) for id, size in page)
            last = page[-1][0]

    for ids in maxsim.pages(all_points() if exact else shortlist()):
        read = f"SELECT id, {tokens} FROM {table.name} WHERE id = ANY(%s)".encode()
        with table.transaction() as cursor:
            found = cursor.execute(read, (ids,), binary=True).fetchall()
        best.add([id for id, _ in found], [data for _, data in found])
    read = f"SELECT {SELECTED} FROM {table.name} WHERE id = ANY(%s)".encode()
    with table.transaction() as cursor:
        cells = cursor.execute(read, ([id for _, id in best.found],), binary=True).fetchall()
    chunks = {row[0]: chunk_of(row, jsonb) for row in cells}
    return [Hit(score, chunks[id]) for score, id in best.found if id in chunks]


def _rows(cursor: psycopg.Cursor[Any], sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
    """The rows of a statement into which the client writes the values: a filter may have more than the 65,535
    parameters that a statement takes."""
    import psycopg

    asking = psycopg.ClientCursor(cursor.connection, row_factory=psycopg.rows.tuple_row)
    return list(asking.execute(sql.encode(), values))
