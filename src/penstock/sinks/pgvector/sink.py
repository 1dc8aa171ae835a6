"""Writes points to a table of PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

from penstock.core.errors import SinkError, UsageError
from penstock.core.records import Dense, Point, Sparse
from penstock.core.schema import Manifest
from penstock.sinks import manifests, rows, sparse
from penstock.sinks.collection import AddressStore, CollectionSink, closed_on_error
from penstock.sinks.pgvector.connection import BUILD, scalar
from penstock.sinks.pgvector.table import COLUMNS, PAGE, Hnsw, Table, parse
from penstock.sinks.pgvector.values import decoded, encoded, encoder, storable

if TYPE_CHECKING:
    import psycopg

LONGEST_ID = 2600
"""In bytes: more does not fit into an entry of a B-tree."""
LARGEST_DIM = 16_000
MOST_VALUES = 16_000
"""Of a sparse vector."""
INDEX_ROWS = 20_000
INDEX_DIM = 2000
REBUILD = 2000
"""Rows that a run may write before it is quicker to rebuild the HNSW indexes."""

_TYPES = ("text", "text", "int8", "text", "int8", "int8", "int8", "text", "text", "bytea")
"""Of the columns, as COPY takes them; a vector is bytes."""
_OPERATORS = {"cosine": "vector_cosine_ops", "l2": "vector_l2_ops", "dot": "vector_ip_ops"}
_MEMORY = """SELECT set_config('maintenance_work_mem', %s, true),
    set_config('max_parallel_maintenance_workers', '0', true)"""


class PgvectorStore(AddressStore[Table]):
    """The part that sink and index share."""

    _parse = staticmethod(parse)

    @property
    def _name(self) -> str:
        return self._address.names[1]

    def _connect(self) -> Table:
        return Table(self._address, self._client)

    def fetch(self, ids: Sequence[str]) -> Sequence[Point]:
        table, schema = self._opened()
        return table.fetch(ids, schema)


class PgvectorSink(PgvectorStore, CollectionSink[Table]):
    """A table of PostgreSQL: `pgvector://user@host:5432/database/table`. Any number of processes read and write.

    `maintain` builds an HNSW index of the dense vectors of each name, of at most INDEX_DIM dimensions, once there are
    INDEX_ROWS rows. As writes are slow with such an index, a run that writes many rows drops them, and rebuilds them
    at its end. Sparse vectors need pgvector 0.7, and have no zeros.
    """

    accepts = frozenset({Dense, Sparse})
    named = True
    max_rows = 2048

    def __init__(self, url: str, client: psycopg.Connection[Any] | None = None) -> None:
        super().__init__(url, client)
        self._indexes: list[Hnsw] = []
        self._written = 0

    def drop(self) -> None:
        self.close()
        with closing(self._connect()) as table:
            table.remove()

    def open(self, manifest: Manifest) -> None:
        manifests.supported(manifest.schema, self, manifests.PRODUCTS)
        for space in manifest.schema.vectors.values():
            if space.kind == "Dense" and not 0 < space.dim <= LARGEST_DIM:
                raise UsageError(f"{self._url} takes vectors of at most {LARGEST_DIM:,} dimensions, not {space.dim:,}")
        with closed_on_error(self._connect()) as table:
            with table.transaction() as cursor:
                kept = table.create(cursor, manifest)
                manifests.check_schema(kept.schema, manifest.schema, self._url)
                self._indexes, self._written = table.indexes(cursor), 0
            self._hold(table, kept.schema)

    def replace_manifest(self, manifest: Manifest) -> None:
        table, _ = self._opened()
        with table.transaction() as cursor:
            table.keep(cursor, manifest)
        self._schema = manifest.schema

    def write(self, points: Sequence[Point]) -> None:
        table, schema = self._opened()
        batch = sparse.batched(points, schema, self._url, refused="zero", most=MOST_VALUES)
        copied = list(_copied(batch))
        if copied:
            self._make_way(table, len(copied))
            vectors = [f'"{rows.vector_column(name)}"' for name in schema.vectors]
            copying = f"COPY {table.name} ({', '.join([COLUMNS, *vectors])}) FROM STDIN (FORMAT BINARY)"
            with table.transaction() as cursor:
                self._remove(cursor, table, [cells[0] for cells in copied])
                with cursor.copy(copying.encode()) as copy:
                    copy.set_types([*_TYPES, *("bytea" for _ in vectors)])
                    for cells in copied:
                        copy.write_row(cells)
        batch.finish()

    def _make_way(self, table: Table, count: int) -> None:
        """Drop the HNSW indexes if much is written. Where readers or rights forbid it, writing is only slower."""
        self._written += count
        if not self._indexes or self._written < max(REBUILD, *(index.rows // 10 for index in self._indexes)):
            return
        with suppress(SinkError), table.transaction(lock=2) as cursor:
            for index in self._indexes:
                cursor.execute(f"DROP INDEX IF EXISTS {index.name}".encode())
            self._indexes = []
        self._written = 0

    def _remove(self, cursor: psycopg.Cursor[Any], table: Table, ids: list[str]) -> None:
        cursor.execute(f"DELETE FROM {table.name} WHERE id = ANY(%s)".encode(), (ids,))

    def delete(self, ids: Sequence[str]) -> None:
        table, _ = self._opened()
        with table.transaction() as cursor:
            self._remove(cursor, table, list(storable(ids)))

    def flush(self) -> None:
        """Do nothing: each write is a transaction, as durable as the server's synchronous_commit makes it."""
        self._opened()

    def ids(self) -> Iterator[Sequence[str]]:
        table, _ = self._opened()
        page = table.all(f"SELECT id FROM {table.name} ORDER BY id LIMIT {PAGE}")
        while page:
            yield [decoded(id) for (id,) in page]
            page = table.all(f"SELECT id FROM {table.name} WHERE id > %s ORDER BY id LIMIT {PAGE}", page[-1])

    def maintain(self) -> None:
        table, schema = self._opened()
        wanted = {
            rows.vector_column(name): space
            for name, space in schema.vectors.items()
            if space.kind == "Dense" and space.dim <= INDEX_DIM
        }
        with table.transaction(BUILD * max(1, len(wanted))) as cursor:
            cursor.execute(f"ANALYZE {table.name}".encode())
            self._indexes = table.indexes(cursor)
            missing = wanted.keys() - {index.column for index in self._indexes}
            if not missing or not table.owned(cursor):
                return
            count = scalar(cursor, f"SELECT count(*) FROM {table.name}")
            if count < INDEX_ROWS:
                return
            for column in sorted(missing):
                space = wanted[column]
                # In memory it takes minutes, else hours. Several workers would share it, and containers limit that
                # to 64 MB.
                megabytes = min(max(64, count * (space.dim * 4 + 1000) >> 20), 2000)
                cursor.execute(_MEMORY, (f"{megabytes}MB",))
                operators = _OPERATORS[space.metric]
                cursor.execute(f'CREATE INDEX ON {table.name} USING hnsw ("{column}" {operators})'.encode())
            self._indexes = table.indexes(cursor)


def _copied(batch: rows.Batch) -> Iterator[rows.Row]:
    """The rows that can be written, with their vectors as bytes; reasons for the others go into the batch."""
    columns = batch.columns.values()
    encoders = [encoder(column.space) for column in columns]
    for cells, *vectors in zip(batch.rows, *(column.rows for column in columns), strict=True):
        id, uri, ordinal, text, *rest = cells
        try:
            data = [encode(vector) for encode, vector in zip(encoders, vectors, strict=True)]
            stored = encoded(id)
            if len(stored.encode()) > LONGEST_ID:
                raise ValueError(f"its id has more than {LONGEST_ID:,} bytes")
            row = (stored, encoded(uri), ordinal, encoded(text), *rest, *data)
        except ValueError as error:
            batch.reasons[id] = str(error)
        else:
            yield row
