"""`pgvector://`: a table of PostgreSQL with the extension pgvector.

    pgvector://user@host:5432/database/table            the table in the schema `public`, or `?schema=docs`
    pgvector://user@host/database/table?tls=1           over TLS only, the server's certificate checked

The password comes from PGPASSWORD or, as with every client of PostgreSQL, from ~/.pgpass (or the file that PGPASSFILE
names); the certificates that `tls=1` trusts are the system's or those of the file PGSSLROOTCERT.

The table has the columns of `rows.COLUMNS` and `vector`; manifests are rows of `penstock_manifests` in the same schema.
PostgreSQL takes no NUL in a text: the characters U+0000 and U+0001 of an id, uri or text are kept as U+0001 U+0001 and
U+0001 U+0002, which leaves their order as it was. Ids have at most 2,600 bytes.

Sparse vectors are of the type sparsevec, which pgvector has from 0.7 on, with at most 16,000 values, none of them zero,
at indices below a billion.

Search compares with every vector. `maintain` builds an HNSW index of dense ones once there are INDEX_ROWS rows of at
most 2,000 dimensions; searches without a filter use it from then on. As rows come in slowly while it is there, a run
that writes many drops it, and builds it anew at its end.

The alias of the table `notes` is the view `notes_live`, whose column `vector` is of no fixed dimension.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from penstock.core import filters
from penstock.core.contracts import Index, Sink
from penstock.core.errors import SinkError, UsageError
from penstock.core.records import VECTOR, Dense, Hit, Point, Sparse, Vector
from penstock.core.schema import Manifest, VectorSpec, single
from penstock.sinks import manifests, rows, sparse
from penstock.sinks.pgvector_wire import (
    BUILD,
    COLUMNS,
    PAGE,
    TURN,
    Table,
    binary,
    chunk_of,
    column,
    decoded,
    encoded,
    literal,
    one,
    storable,
)
from penstock.sinks.store import line

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
"""Rows that a run may write before it is quicker to build the HNSW index anew."""
LARGEST_K = 500
"""Of the HNSW index; more are looked for exactly."""

_TYPES = ("text", "text", "int8", "text", "int8", "int8", "int8", "text", "text", "bytea", "bytea")
"""Of the columns and the vector, as COPY takes them: a vector is its bytes here."""
_TEXT = 'text COLLATE "C" NOT NULL'
_METRICS = {"cosine": ("<=>", "vector_cosine_ops"), "l2": ("<->", "vector_l2_ops"), "dot": ("<#>", "vector_ip_ops")}
_OWNER = "SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = to_regclass(%s)"
_ROOM = """SELECT set_config('maintenance_work_mem', %s, true),
    set_config('max_parallel_maintenance_workers', '0', true)"""


class PgvectorSink(Sink):
    """A table of PostgreSQL: `pgvector://user@host:5432/database/table`. Any number of processes read and write."""

    accepts = frozenset({Dense, Sparse})
    max_rows = 2048

    def __init__(self, url: str, client: psycopg.Connection[Any] | None = None) -> None:
        self._table = Table(url, client)
        self._manifest: Manifest | None = None
        self._indexes: dict[str, int] = {}
        self._written = 0
        self._deletion = f"DELETE FROM {self._table.name} WHERE id = ANY(%s)".encode()
        self._copying = f'COPY {self._table.name} ({COLUMNS}, "{VECTOR}") FROM STDIN (FORMAT BINARY)'.encode()

    @property
    def url(self) -> str:
        return self._table.url

    def __repr__(self) -> str:
        return f"PgvectorSink({self.url!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.url, self._table.client)

    def generation(self, number: int) -> Self:
        return type(self)(self._table.generation(number), self._table.client)

    def manifest(self) -> Manifest | None:
        return self._table.peek()

    def drop(self) -> None:
        try:
            self._table.remove()
        finally:
            self.close()

    def alias(self, number: int) -> str:
        place = self.generation(number)._table if number else self._table
        try:
            return self._table.show(place.name)
        finally:
            if self._manifest is None:
                self._table.close()

    def open(self, manifest: Manifest) -> None:
        manifests.supported(manifest.schema, self, manifests.PRODUCTS)
        space = manifest.schema.only
        if space.kind == "Dense" and not 0 < space.dim <= LARGEST_DIM:
            raise UsageError(f"{self.url} takes vectors of at most {LARGEST_DIM:,} dimensions, not {space.dim:,}")
        try:
            with self._table.turn() as cursor:
                # Two that open it at once take turns: the second one finds what the first one made.
                cursor.execute(TURN)
                if kept := self._table.kept(cursor):
                    manifests.agree(kept, manifest, self.url)
                else:
                    self._create(cursor, manifest)
                self._indexes = self._table.indexes(cursor)
        except BaseException:
            self._table.close()
            raise
        self._manifest, self._written = kept or manifest, 0

    def _create(self, cursor: psycopg.Cursor[Any], manifest: Manifest) -> None:
        table = self._table
        if table.there(cursor):
            raise SinkError(f"{self.url}: there is a table {table.bare!r} that is not Penstock's; name another")
        if not one(cursor, "SELECT true FROM pg_extension WHERE extname = 'vector'"):
            import psycopg

            try:
                cursor.execute("CREATE EXTENSION vector")
            except psycopg.Error as error:
                ask = "install pgvector on the server, then have an administrator run CREATE EXTENSION vector"
                raise SinkError(f"{self.url}: {line(error)}; {ask}") from error
        kind = column(manifest.schema.only)
        if not one(cursor, "SELECT to_regtype(%s) IS NOT NULL", (kind,)):
            raise UsageError(
                f"{self.url} takes Sparse vectors with pgvector 0.7 or later: ALTER EXTENSION vector UPDATE"
            )
        creation = f"""
            CREATE TABLE {table.name} ("id" {_TEXT} PRIMARY KEY, "uri" {_TEXT}, "ordinal" bigint NOT NULL,
                "text" {_TEXT}, "start" bigint NOT NULL, "end" bigint NOT NULL, "page" bigint,
                "headings" {_TEXT}, "metadata" {_TEXT}, "image" bytea, "{VECTOR}" {kind} NOT NULL)
                WITH (toast_tuple_target = 8160);
            ALTER TABLE {table.name} ALTER COLUMN "{VECTOR}" SET STORAGE MAIN;
            CREATE INDEX ON {table.name} (left(uri, 500));
            CREATE TABLE IF NOT EXISTS {table.manifests} (name {_TEXT} PRIMARY KEY, manifest text NOT NULL)"""
        cursor.execute(creation.encode())  # rows stay in one piece up to 8 kB: out of line, vectors are slow to compare
        self._keep(cursor, manifest)

    def _keep(self, cursor: psycopg.Cursor[Any], manifest: Manifest) -> None:
        sql = f"""INSERT INTO {self._table.manifests} VALUES (%s, %s)
            ON CONFLICT (name) DO UPDATE SET manifest = excluded.manifest"""
        cursor.execute(sql.encode(), (self._table.bare, manifests.to_json(manifest)))

    def _opened(self) -> tuple[Table, VectorSpec]:
        if self._manifest is None:
            raise SinkError(f"{self.url} is not open")
        return self._table, self._manifest.schema.only

    def replace_manifest(self, manifest: Manifest) -> None:
        table, _ = self._opened()
        with table.turn() as cursor:
            self._keep(cursor, manifest)
        self._manifest = manifest

    def write(self, points: Sequence[Point]) -> None:
        table, space = self._opened()
        batch = sparse.batched(points, single(space), self.url, refused="zero", most=MOST_VALUES)
        head = struct.pack(">hh", space.dim, 0)
        good: list[rows.Row] = []
        for cells, vector in zip(batch.rows, batch.vectors, strict=True):
            id, uri, ordinal, text, *rest = cells
            try:
                data = binary(vector) if isinstance(vector, Sparse) else head + vector.astype(">f4").tobytes()
                row = (encoded(id), encoded(uri), ordinal, encoded(text), *rest, data)
                if len(row[0].encode()) > LONGEST_ID:
                    raise ValueError(f"its id has more than {LONGEST_ID:,} bytes")
            except ValueError as error:
                batch.reasons[id] = str(error)
            else:
                good.append(row)
        if good:
            self._make_way(len(good))
            with table.turn() as cursor:
                cursor.execute(self._deletion, ([row[0] for row in good],))
                with cursor.copy(self._copying) as copy:
                    copy.set_types(_TYPES)
                    for row in good:
                        copy.write_row(row)
        batch.finish()

    def _make_way(self, count: int) -> None:
        """Drop the HNSW index if much is written, unless readers or rights are in the way: it only makes it slow."""
        self._written += count
        if not self._indexes or self._written < max(REBUILD, *(size // 10 for size in self._indexes.values())):
            return
        with suppress(SinkError), self._table.turn(lock=2) as cursor:
            for name in self._indexes:
                cursor.execute(f"DROP INDEX IF EXISTS {name}".encode())
            self._indexes = {}
        self._written = 0

    def delete(self, ids: Sequence[str]) -> None:
        table, _ = self._opened()
        with table.turn() as cursor:
            cursor.execute(self._deletion, (list(storable(ids)),))

    def flush(self) -> None:
        """Each write is a transaction, as durable as the server's synchronous_commit makes it."""
        self._opened()

    def count(self) -> int:
        return self._opened()[0].count()

    def ids(self) -> Iterator[Sequence[str]]:
        table, _ = self._opened()
        page = table.all(f"SELECT id FROM {table.name} ORDER BY id LIMIT {PAGE}")
        while page:
            yield [decoded(id) for (id,) in page]
            page = table.all(f"SELECT id FROM {table.name} WHERE id > %s ORDER BY id LIMIT {PAGE}", page[-1])

    def fetch(self, ids: Sequence[str]) -> Sequence[Point]:
        return self._opened()[0].fetch(ids)

    def maintain(self) -> None:
        table, space = self._opened()
        with table.turn(BUILD) as cursor:
            cursor.execute(f"ANALYZE {table.name}".encode())
            owner = one(cursor, _OWNER, (table.name,))
            self._indexes = table.indexes(cursor)
            if self._indexes or not owner or space.dim > INDEX_DIM or space.kind == "Sparse":
                return
            count = one(cursor, f"SELECT count(*) FROM {table.name}")
            if count < INDEX_ROWS:
                return
            # In memory it takes minutes, else hours. Several workers would share it, which containers limit to 64 MB.
            room = min(max(64, count * (space.dim * 4 + 1000) >> 20), 2000)
            cursor.execute(_ROOM, (f"{room}MB",))
            cursor.execute(f'CREATE INDEX ON {table.name} USING hnsw ("{VECTOR}" {_METRICS[space.metric][1]})'.encode())
            self._indexes = table.indexes(cursor)

    def close(self) -> None:
        self._table.close()
        self._manifest = None


class PgvectorIndex(Index):
    """Compares with every vector, or with those of the rows that `where` leaves; without `where` by the HNSW index
    where there is one."""

    def __init__(self, url: str, client: psycopg.Connection[Any] | None = None) -> None:
        self._table = Table(url, client)
        self._manifest: Manifest | None = None

    @property
    def url(self) -> str:
        return self._table.url

    def generation(self, number: int) -> Self:
        return type(self)(self._table.generation(number), self._table.client)

    def __repr__(self) -> str:
        return f"PgvectorIndex({self.url!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._table.url, self._table.client)

    def open(self) -> None:
        self._manifest = self.manifest()

    def manifest(self) -> Manifest:
        if (kept := self._table.peek()) is None:
            raise SinkError(f"there is no index at {self._table.url}")
        return kept

    def close(self) -> None:
        self._table.close()
        self._manifest = None

    def _opened(self) -> tuple[Table, VectorSpec]:
        if self._manifest is None:
            raise SinkError(f"{self._table.url} is not open")
        return self._table, self._manifest.schema.only

    def search(
        self, vector: Vector, k: int = 10, where: Mapping[str, Any] | None = None, *, using: str | None = None
    ) -> list[Hit]:
        table, space = self._opened()
        rows.check(vector, space, f"a query of {table.url}")
        if k < 1:
            return []
        wanted = filters.parse(where)
        values: list[Any] = []
        condition = filters.sql(_stored(wanted), filters.Parameters("%s", values)) if wanted else "true"
        query = literal(sparse.asked(vector, table.url) if isinstance(vector, Sparse) else vector)
        found: list[tuple[Any, ...]] = []
        with table.turn() as cursor:
            if wanted is None and k <= LARGEST_K and space.kind == "Dense":
                cursor.execute("SELECT set_config('hnsw.ef_search', %s, true)", (str(max(100, 2 * k)),))
                found = self._nearest(cursor, query, k, condition, [], "{}")
            # The index leaves out what was deleted only after its choice, and vectors without a direction.
            if len(found) < k or any(cells[-1] != cells[-1] for cells in found):
                found = self._nearest(cursor, query, k, condition, values, "coalesce(nullif({}, 'NaN'), 1)")
        best = 1.0 if space.metric == "cosine" and space.kind == "Dense" else 0.0
        return [Hit(best - cells[-1], chunk_of(cells[:-1])) for cells in found]

    def _nearest(
        self, cursor: psycopg.Cursor[Any], query: str, k: int, condition: str, values: Sequence[Any], order: str
    ) -> list[tuple[Any, ...]]:
        """In the order of an expression of the distance: where it is not the distance alone, no index bears on it."""
        import psycopg

        table, space = self._opened()
        measure = _METRICS["dot" if space.kind == "Sparse" else space.metric][0]
        distance = f'"{VECTOR}" {measure} %s::{column(space)}'
        sql = f"""SELECT {COLUMNS}, {order.format(f"({distance})")} AS distance FROM {table.name}
            WHERE {condition} ORDER BY distance LIMIT {k}"""
        # Values are written into the statement by the client: a filter may have more than the 65,535 parameters of one.
        asking = psycopg.ClientCursor(cursor.connection, row_factory=psycopg.rows.tuple_row)
        return list(asking.execute(sql.encode(), [query, *values]))

    def fetch(self, ids: Sequence[str]) -> Sequence[Point]:
        return self._opened()[0].fetch(ids)

    def count(self) -> int:
        return self._opened()[0].count()


def _stored(wanted: filters.Filter) -> filters.Filter:
    """The same of texts as they are kept; beside a term that asks for a uri, one for the index on uris' starts."""
    match wanted:
        case filters.Compare(field, sign, str(value)):
            term = filters.Compare(field, sign, _asked(value))
            start = filters.Compare("left(uri, 500)", sign, _asked(value)[:500])
            return filters.Every((start, term)) if (field, sign) == ("uri", "=") else term
        case filters.Among(field, values) if filters.FIELDS[field] is str:
            texts = tuple(_asked(str(value)) for value in values)
            among = filters.Among(field, texts)
            starts = filters.Among("left(uri, 500)", tuple(text[:500] for text in texts))
            return filters.Every((starts, among)) if field == "uri" else among
        case filters.Every(terms):
            return filters.Every(tuple(map(_stored, terms)))
        case filters.Some(terms):
            return filters.Some(tuple(map(_stored, terms)))
        case filters.Not(term):
            return filters.Not(_stored(term))
        case _:
            return wanted


def _asked(text: str) -> str:
    if next(storable([text]), None) is None:
        raise UsageError(f"a filter's value is no text: {text!r}")
    return encoded(text)
