"""Writes points to a table of PostgreSQL."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any, Self

from penstock.core.errors import SinkError, UsageError
from penstock.core.precision import PRECISIONS
from penstock.core.records import Dense, MultiVector, Point, Sparse
from penstock.core.schema import Manifest
from penstock.sinks import manifests, maxsim, rows, sparse
from penstock.sinks.collection import AddressStore, CollectionSink, closed_on_error
from penstock.sinks.pgvector import carry, columns, full_text
from penstock.sinks.pgvector.columns import COLUMNS, kept_by_user
from penstock.sinks.pgvector.connection import BUILD, scalar
from penstock.sinks.pgvector.table import PAGE, Hnsw, Table
from penstock.sinks.pgvector.url import identifier, parse
from penstock.sinks.pgvector.values import column_types, decoded, dense_bytes, encoded, encoder, json_bytes, storable

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

VACUUM = 10
"""A run that deletes one row in so many has their room made usable at its end."""

_TYPES = ("text", "text", "int8", "text", "int8", "int8", "int8", "bytea", "bytea", "bytea")
"""Of the columns, as COPY takes them; JSON, vectors and what the user keeps in columns are bytes."""
_SIZE = "SELECT reltuples, EXISTS (SELECT FROM {0}) FROM pg_class WHERE oid = to_regclass(%s)"
_OPERATORS = {"cosine": "vector_cosine_ops", "l2": "vector_l2_ops", "dot": "vector_ip_ops"}
_MEMORY = """SELECT set_config('maintenance_work_mem', %s, true),
    set_config('max_parallel_maintenance_workers', '0', true)"""


class PgvectorStore(AddressStore[Table]):
    """The part that sink and index share."""

    _parse = staticmethod(parse)

    @property
    def _name(self) -> str:
        return self._address.names[-1]

    def _connect(self) -> Table:
        return Table(self._address, self._client)

    def fetch(self, ids: Sequence[str]) -> Sequence[Point]:
        table, schema = self._opened()
        return table.fetch(ids, schema)


class PgvectorSink(PgvectorStore, CollectionSink[Table]):
    """A table of PostgreSQL: `pgvector://user@host:5432/database/table`. Any number of processes read and write.

    The table has a GIN index of the words of its texts. `maintain` builds one of the metadata and, once there are
    INDEX_ROWS rows, an HNSW index of the dense vectors of each name, of at most INDEX_DIM dimensions. As writes are
    slow with an HNSW index, a run that writes many rows drops them, and rebuilds them at its end. Sparse vectors need
    pgvector 0.7, and have no zeros. Many vectors a point are kept as bytes, beside
    their pooled vector.

    What the user keeps in columns added to the table stays when a row is written anew, or by a re-index.
    """

    accepts = frozenset({Dense, MultiVector, Sparse})
    precisions = frozenset(PRECISIONS)
    named = True
    max_rows = 2048

    def __init__(self, url: str, client: psycopg.Connection[Any] | None = None, base: str = "") -> None:
        """`base` is the name of the table that this one is a generation of."""
        super().__init__(url, client)
        self._base = base or self._name
        self._indexes: list[Hnsw] = []
        self._written = self._deleted = 0
        self._added: list[str] = []
        self._former: str | None = None
        self._jsonb: Collection[str] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        kind, (url,) = super().__reduce__()
        return kind, (url, None, self._base)

    def generation(self, number: int) -> Self:
        self._sibling("live")  # raises where the alias's name is too long
        return type(self)(manifests.numbered(self._url, number), self._client, self._base)

    def _connect(self) -> Table:
        return Table(self._address, self._client, self._base)

    def drop(self) -> None:
        self.close()
        with closing(self._connect()) as table:
            table.remove()

    def open(self, manifest: Manifest) -> None:
        manifests.supported(manifest.schema, self, manifests.PRODUCTS)
        for space in manifest.schema.vectors.values():
            if space.kind != "Sparse" and not 0 < space.dim <= LARGEST_DIM:
                raise UsageError(f"{self._url} takes vectors of at most {LARGEST_DIM:,} dimensions, not {space.dim:,}")
        with closed_on_error(self._connect()) as table:
            with table.transaction() as cursor:
                kept = table.create(cursor, manifest)
                manifests.check_schema(kept.schema, manifest.schema, self._url)
                self._indexes, self._written, self._deleted = table.indexes(cursor), 0, 0
                self._jsonb = table.jsonb(cursor)
                self._added = kept_by_user(table.columns(cursor))
                former = table.former(cursor)
                holds_all = former and set(self._added) <= set(kept_by_user(columns.of(cursor, former)))
                self._former = former if holds_all else None
            self._hold(table, kept.schema)

    def replace_manifest(self, manifest: Manifest) -> None:
        table, _ = self._opened()
        with table.transaction() as cursor:
            table.keep(cursor, manifest)
        self._schema = manifest.schema

    def exchange_manifest(self, old: Manifest, new: Manifest) -> bool:
        table, _ = self._opened()
        with table.transaction() as cursor:
            if not table.exchange(cursor, old, new):
                return False
        self._schema = new.schema
        return True

    def write(self, points: Sequence[Point]) -> None:
        table, schema = self._opened()
        batch = sparse.batched(points, schema, self._url, refused="zero", most=MOST_VALUES)
        copied = {cells[0]: cells for cells in _copied(batch, self._jsonb)}
        if copied:
            self._make_way(table, len(copied))
            names = [COLUMNS, *map(identifier, column_types(schema))]
            with table.transaction() as cursor:
                kept = self._replaced(cursor, table, list(copied))
                _copy(cursor, table, names, [cells for id, cells in copied.items() if id not in kept])
                names += map(identifier, self._added)
                _copy(cursor, table, names, [copied[id] + cells for id, cells in kept.items()])
        batch.finish()

    def _replaced(self, cursor: psycopg.Cursor[Any], table: Table, ids: list[str]) -> carry.Values:
        """Remove these rows; return what the user kept in columns of theirs, here or else in the former table."""
        if not self._added:
            self._remove(cursor, table, ids)
            return {}
        matching = "WHERE id = ANY(%s)"
        former = f"SELECT {{}} FROM {self._former} {matching}"
        kept = carry.values(cursor, former, ids, self._added) if self._former else {}
        here = carry.values(cursor, f"DELETE FROM {table.name} {matching} RETURNING {{}}", ids, self._added)
        self._deleted += len(here)
        return kept | here

    def _make_way(self, table: Table, count: int) -> None:
        """Drop the HNSW indexes if much is written. Where readers or rights forbid it, writing is only slower."""
        self._written += count
        ours = [index for index in self._indexes if index.ours]
        if not ours or self._written < max(REBUILD, *(index.rows // 10 for index in ours)):
            return
        with suppress(SinkError):
            self._drop_indexes(table)
        self._written = 0

    def _drop_indexes(self, table: Table) -> None:
        with table.transaction(lock=2) as cursor:
            for index in self._indexes:
                if index.ours:
                    cursor.execute(f"DROP INDEX IF EXISTS {index.name}".encode())
            self._indexes = [index for index in self._indexes if not index.ours]

    def _remove(self, cursor: psycopg.Cursor[Any], table: Table, ids: list[str]) -> None:
        cursor.execute(f"DELETE FROM {table.name} WHERE id = ANY(%s)".encode(), (ids,))
        self._deleted += cursor.rowcount

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
        self._free(table)
        with table.transaction(BUILD * max(1, len(wanted))) as cursor:
            cursor.execute(f"ANALYZE {table.name}".encode())
            self._indexes = table.indexes(cursor)
            if not table.owned(cursor):
                return
            table.index_metadata(cursor)
            full_text.create(cursor, table.name)
            missing = wanted.keys() - {index.column for index in self._indexes}
            if not missing:
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

    def _free(self, table: Table) -> None:
        """Make the room of many deleted rows usable at once. Where rights or a lock forbid it, or the vectors have an
        index, which takes long to clean, autovacuum does so later."""
        [(rows, filled)] = table.all(_SIZE.format(table.name), (table.name,))
        if not self._deleted or self._deleted * VACUUM < rows or (filled and self._indexes):
            return
        with suppress(SinkError):
            if not filled:
                self._drop_indexes(table)  # an index keeps its size
            table.outside(f"VACUUM (SKIP_LOCKED) {table.name}", BUILD)
            self._deleted = 0


def _copy(cursor: psycopg.Cursor[Any], table: Table, names: Sequence[str], copied: Sequence[rows.Row]) -> None:
    if not copied:
        return
    with cursor.copy(f"COPY {table.name} ({', '.join(names)}) FROM STDIN (FORMAT BINARY)".encode()) as copy:
        copy.set_types([*_TYPES, *["bytea"] * (len(copied[0]) - len(_TYPES))])
        for cells in copied:
            copy.write_row(cells)


def _copied(batch: rows.Batch, jsonb: Collection[str]) -> Iterator[rows.Row]:
    """The rows that can be written, with JSON and vectors as bytes; reasons for the others go into the batch."""
    vectors = batch.columns.values()
    encoders = [encoder(column.space) for column in vectors]
    many = [position for position, column in enumerate(vectors) if column.space.kind == "MultiVector"]
    for cells, *values in zip(batch.rows, *(column.rows for column in vectors), strict=True):
        id, uri, ordinal, text, start, end, page, headings, metadata, image = cells
        try:
            data = [encode(vector) for encode, vector in zip(encoders, values, strict=True)]
            data += [dense_bytes(maxsim.pooled(values[position])) for position in many]
            stored = encoded(id)
            if len(stored.encode()) > LONGEST_ID:
                raise ValueError(f"its id has more than {LONGEST_ID:,} bytes")
            lists, fields = json_bytes(headings, "headings" in jsonb), json_bytes(metadata, "metadata" in jsonb)
            row = (stored, encoded(uri), ordinal, encoded(text), start, end, page, lists, fields, image, *data)
        except ValueError as error:
            batch.reasons[id] = str(error)
        else:
            yield row
