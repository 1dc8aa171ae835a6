"""How PostgreSQL is spoken to: a connection that is made again when it is lost, one table, and what lies in it."""

from __future__ import annotations

import os
import re
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from penstock.core.errors import MissingExtra, SinkError, SinkUnavailable, UsageError
from penstock.core.records import VECTOR, Chunk, Dense, Point, Sparse, Vector
from penstock.core.schema import Manifest, VectorSpec
from penstock.sinks import address, manifests, rows
from penstock.sinks.store import line

if TYPE_CHECKING:
    import psycopg

EXAMPLE = "pgvector://user@host:5432/database/table"
MANIFESTS = "penstock_manifests"
PAGE = 1000
CONNECT, LOCK, PATIENCE, BUILD, GRACE = 10, 10, 120, 4 * 3600, 15
"""Seconds: to connect, to wait for a lock, for a transaction, one that builds an index, and beyond what the server is
given, before the connection is cut."""
TURN = b"SELECT pg_advisory_xact_lock(hashtextextended('penstock', 0))"
"""For who makes or removes a table."""
WIDTH = 1_000_000_000
"""Dimensions of all sparse vectors: the most there are. Only vectors of as many are compared."""

COLUMNS = ", ".join(f'"{name}"' for name in rows.COLUMNS)
_LOCAL = """SELECT set_config('statement_timeout', %s, true), set_config('lock_timeout', %s, true),
    set_config('idle_in_transaction_session_timeout', %s, true), set_config('search_path', coalesce((
        SELECT quote_ident(nspname) FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace
        WHERE extname = 'vector'), 'public'), true)"""
_INDEXES = """SELECT indexrelid::regclass::text, c.reltuples::bigint
    FROM pg_index JOIN pg_class c ON c.oid = indexrelid JOIN pg_am a ON a.oid = c.relam
    WHERE indrelid = to_regclass(%s) AND amname = 'hnsw'"""
_VIEWS = """SELECT DISTINCT v.oid::regclass::text FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid
    JOIN pg_class v ON v.oid = r.ev_class WHERE d.classid = 'pg_rewrite'::regclass AND d.refobjid = to_regclass(%s)
    AND obj_description(v.oid, 'pg_class') = 'penstock'"""
_TYPE = """SELECT typname FROM pg_attribute JOIN pg_type t ON t.oid = atttypid
    WHERE attrelid = to_regclass(%s) AND attname = %s"""
_OTHER = """SELECT true FROM pg_class WHERE oid = to_regclass(%s)
    AND (relkind <> 'v' OR obj_description(oid, 'pg_class') IS DISTINCT FROM 'penstock')"""
_PASSING = re.compile("starting up|shutting down|not yet accepting|in recovery|too many|connection slots|terminating")
_REFUSED = re.compile("FATAL|does not support SSL|SSL error|certificate|no password")


class Table:
    """Where the table is, and the connection to it, which threads take turns with; made when it is first needed,
    and again after it was lost. A connection of the user's is used as it is."""

    def __init__(self, url: str, client: psycopg.Connection[Any] | None) -> None:
        options = frozenset({"tls", "schema"})
        self.place = address.parse(url, "pgvector", EXAMPLE, port=5432, names=2, options=options)
        if self.place.folder is not None:
            raise UsageError(f"{url!r} does not name a server; write it like {EXAMPLE}")
        table, schema = self.place.names[1], self.place.options.get("schema", "public")
        for name in (table, schema):
            if not name.replace("_", "").replace("-", "").isalnum() or len(name.encode()) > 63 or name == MANIFESTS:
                raise UsageError(f"{url!r}: {name!r} cannot be its name: letters, digits, - and _, at most 63 bytes")
        self.url, self.client, self.bare = url, client, table
        self.name, self.manifests = f'"{schema}"."{table}"', f'"{schema}"."{MANIFESTS}"'
        self._lock = threading.RLock()
        self._connection = client

    def _connected(self) -> psycopg.Connection[Any]:
        try:
            import psycopg
        except ImportError as error:
            raise MissingExtra(f"{self.url} ({error.name})", "pgvector") from None
        if self._connection is not None and not self._connection.closed:
            return self._connection
        if self.client is not None:
            raise SinkError(f"{self.url}: the connection given is closed; give another")
        place = self.place
        given: dict[str, Any] = {"user": place.user} if place.user else {}
        if place.tls:
            given |= {"sslmode": "verify-full", "sslrootcert": os.environ.get("PGSSLROOTCERT") or "system"}
        try:
            self._connection = psycopg.connect(
                host=place.host,
                port=place.port,
                dbname=place.names[0],
                autocommit=True,
                client_encoding="UTF8",
                prepare_threshold=None,  # poolers hand statements from one server process to another
                connect_timeout=CONNECT,
                keepalives_idle=30,
                keepalives_interval=10,
                keepalives_count=3,
                application_name="penstock",
                **given,
            )
        except psycopg.Error as error:
            text = line(error)
            refused = not isinstance(error, psycopg.OperationalError)
            refused = refused or (_REFUSED.search(text) is not None and not _PASSING.search(text))
            raise (SinkError if refused else SinkUnavailable)(f"{self.url} cannot be reached: {text}") from error
        return self._connection

    @contextmanager
    def turn(self, seconds: int = PATIENCE, lock: int | None = None) -> Iterator[psycopg.Cursor[Any]]:
        """A transaction. The server ends what takes longer; where it does not answer at all, the connection is cut."""
        with self._lock:
            connection = self._connected()
            import psycopg  # which _connected has found to be there

            if not _idle(connection):
                raise UsageError(f"{self.url}: the connection given is in a transaction, so nothing would be committed")
            watch = threading.Timer(seconds + GRACE, _cut, (connection,))
            watch.daemon = True
            watch.start()
            try:
                with connection.transaction(), connection.cursor(row_factory=psycopg.rows.tuple_row) as cursor:
                    cursor.execute(_LOCAL, (f"{seconds}s", f"{lock or LOCK}s", f"{seconds}s"))
                    yield cursor
            except psycopg.Error as error:
                raise _kind(error, connection)(f"{self.url}: {line(error)}") from error
            finally:
                watch.cancel()
                if self.client is None and not _idle(connection):
                    connection.close()  # lost, or left in the middle of something: the next turn makes another

    def all(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self.turn() as cursor:
            return list(cursor.execute(sql.encode(), values))

    def indexes(self, cursor: psycopg.Cursor[Any]) -> dict[str, int]:
        """The HNSW indexes, and how many rows each had when it was built or looked at last."""
        return dict(cursor.execute(_INDEXES, (self.name,)).fetchall())

    def there(self, cursor: psycopg.Cursor[Any]) -> bool:
        return bool(one(cursor, "SELECT to_regclass(%s) IS NOT NULL", (self.name,)))

    def kept(self, cursor: psycopg.Cursor[Any]) -> Manifest | None:
        if not self.there(cursor) or not one(cursor, "SELECT to_regclass(%s) IS NOT NULL", (self.manifests,)):
            return None
        text = one(cursor, f"SELECT manifest FROM {self.manifests} WHERE name = %s", (self.bare,))
        return None if text is None else manifests.from_json(text, self.url)

    def generation(self, number: int) -> str:
        """The url of another table. Raises UsageError where a name is too long; PostgreSQL would cut it."""
        Table(manifests.numbered(self.url, "live"), None)
        return Table(manifests.numbered(self.url, number), None).url

    def peek(self) -> Manifest | None:
        """For before it is open: the connection is not kept if there was none."""
        unconnected = self._connection is None
        try:
            with self.turn() as cursor:
                return self.kept(cursor)
        finally:
            if unconnected:
                self.close()

    def remove(self) -> None:
        """With its manifest and the views that show it, if they are Penstock's."""
        with self.turn() as cursor:
            cursor.execute(TURN)
            if self.kept(cursor) is None:
                if self.there(cursor):
                    raise SinkError(f"{self.url}: there is a table {self.bare!r} that is not Penstock's; it stays")
                return
            for (view,) in cursor.execute(_VIEWS, (self.name,)).fetchall():
                cursor.execute(f"DROP VIEW {view}".encode())
            cursor.execute(f"DROP TABLE {self.name}".encode())
            cursor.execute(f"DELETE FROM {self.manifests} WHERE name = %s".encode(), (self.bare,))

    def show(self, place: str) -> str:
        """Have the view `<table>_live` show the table of that name. Replaced, it may be read by whom it was."""
        live = Table(manifests.numbered(self.url, "live"), None)
        with self.turn() as cursor:
            cursor.execute(TURN)
            if one(cursor, _OTHER, (live.name,)):
                raise SinkError(f"{self.url}: there is a {live.bare!r} that is not Penstock's, and it stays")
            # A view's columns keep their types when it is replaced: without a dimension all vectors are of one.
            chosen = f'SELECT {COLUMNS}, "{VECTOR}"::{self._type(cursor, place)} AS "{VECTOR}" FROM {place}'
            cursor.execute(f"CREATE OR REPLACE VIEW {live.name} AS {chosen}".encode())
            cursor.execute(f"COMMENT ON VIEW {live.name} IS 'penstock'".encode())
        return live.bare

    def _type(self, cursor: psycopg.Cursor[Any], place: str) -> str:
        """Of the vectors there."""
        return str(one(cursor, _TYPE, (place, VECTOR)) or "vector")

    def count(self) -> int:
        return int(self.all(f"SELECT count(*) FROM {self.name}")[0][0])

    def fetch(self, ids: Sequence[str]) -> list[Point]:
        found: list[Point] = []
        kind = ""
        wanted = list(dict.fromkeys(storable(ids)))
        for start in range(0, len(wanted), PAGE):
            with self.turn() as cursor:
                kind = kind or self._type(cursor, self.name)
                sql = f'SELECT {COLUMNS}, {kind}_send("{VECTOR}") FROM {self.name} WHERE id = ANY(%s)'
                cursor.execute(sql.encode(), (wanted[start : start + PAGE],), binary=True)
                read = sparsely if kind == "sparsevec" else dense
                found += [Point(chunk_of(cells[:-1]), {VECTOR: read(cells[-1])}) for cells in cursor]
        return found

    def close(self) -> None:
        with self._lock:
            if self._connection is not None and self.client is None:
                self._connection.close()
                self._connection = None


def _idle(connection: psycopg.Connection[Any]) -> bool:
    """Neither in a transaction nor lost."""
    return bool(connection.info.transaction_status.name == "IDLE")


def _cut(connection: psycopg.Connection[Any]) -> None:
    """End a wait for a server that is gone without a word."""
    family, kind = socket.AF_INET, socket.SOCK_STREAM
    with suppress(Exception), socket.fromfd(connection.fileno(), family, kind) as end:  # it may be closed meanwhile
        end.shutdown(socket.SHUT_RDWR)


def _kind(error: psycopg.Error, connection: psycopg.Connection[Any]) -> type[SinkError]:
    """SinkUnavailable: a lost connection, a serialization failure or deadlock, a time limit, no room, a shutdown,
    an id that another writer wrote at the same time."""
    state = error.sqlstate or ""
    passing = state.startswith(("08", "40", "53", "55P03", "57", "23505", "25P03"))
    return SinkUnavailable if passing or connection.broken else SinkError


def one(cursor: psycopg.Cursor[Any], sql: str, values: Sequence[Any] = ()) -> Any:
    found = cursor.execute(sql.encode(), values).fetchone()
    return found[0] if found else None


def encoded(text: str) -> str:
    if "\0" in text or "\1" in text:
        return text.replace("\1", "\1\2").replace("\0", "\1\1")
    return text


def decoded(text: str) -> str:
    return re.sub("\1([\1\2])", lambda pair: "\0" if pair[1] == "\1" else "\1", text) if "\1" in text else text


def storable(ids: Sequence[str]) -> Iterator[str]:
    """Those that can be there, as they are kept."""
    return (encoded(id) for id in ids if id.isascii() or not re.search("[\ud800-\udfff]", id))


def chunk_of(cells: rows.Row) -> Chunk:
    id, uri, ordinal, text, *rest = cells
    return rows.chunk((decoded(id), decoded(uri), ordinal, decoded(text), *rest))


def column(space: VectorSpec) -> str:
    """The type of the space's vectors."""
    return f"sparsevec({WIDTH})" if space.kind == "Sparse" else f"vector({space.dim})"


def literal(vector: Vector) -> str:
    if not isinstance(vector, Sparse):
        return str(vector.values.tolist())
    pairs = zip(vector.indices.tolist(), vector.values.tolist(), strict=True)
    return f"{{{','.join(f'{index + 1}:{value!r}' for index, value in pairs if value and index < WIDTH)}}}/{WIDTH}"


def binary(vector: Sparse) -> bytes:
    """Raises ValueError where there is no such index."""
    if len(vector.indices) and int(vector.indices[-1]) >= WIDTH:
        raise ValueError(f"its vector has an index beyond {WIDTH - 1:,}, the last that pgvector has")
    entries = vector.indices.astype(">i4").tobytes() + vector.values.astype(">f4").tobytes()
    return bytes(struct.pack(">iii", WIDTH, len(vector.indices), 0) + entries)


def sparsely(data: bytes) -> Sparse:
    import numpy as np

    end = 12 + 4 * struct.unpack_from(">i", data, 4)[0]
    indices, values = np.frombuffer(data[12:end], ">i4"), np.frombuffer(data[end:], ">f4")
    return Sparse(indices.astype(np.int32), values.astype(np.float32))


def dense(data: bytes) -> Dense:
    import numpy as np

    return Dense(np.frombuffer(data, dtype=">f4", offset=4).astype(np.float32))
