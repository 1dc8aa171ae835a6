"""One table, its manifest, its HNSW indexes and the view that is its alias.

The table has the columns of `rows.COLUMNS` and one for the vectors of each name; manifests are rows of
`penstock_manifests` in the same schema. The alias of the table `notes` is the view `notes_live`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from penstock.core.errors import SinkError, UsageError
from penstock.core.records import Point
from penstock.core.schema import IndexSchema, Manifest
from penstock.sinks import address, manifests, rows
from penstock.sinks.pgvector.connection import Connection, scalar
from penstock.sinks.pgvector.values import chunk_of, column_type, from_binary, storable
from penstock.sinks.store import line

if TYPE_CHECKING:
    import psycopg

EXAMPLE = "pgvector://user@host:5432/database/table"
MANIFESTS = "penstock_manifests"
PAGE = 1000
COLUMNS = ", ".join(f'"{name}"' for name in rows.COLUMNS)

_SERIALIZE = b"SELECT pg_advisory_xact_lock(hashtextextended('penstock', 0))"
"""Has those who create or remove a table take turns."""
_TEXT = 'text COLLATE "C" NOT NULL'
_EXISTS = "SELECT to_regclass(%s) IS NOT NULL"
_OWNER = "SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = to_regclass(%s)"
_INDEXES = """SELECT indexrelid::regclass::text, t.attname, c.reltuples::bigint
    FROM pg_index JOIN pg_class c ON c.oid = indexrelid JOIN pg_am a ON a.oid = c.relam
    JOIN pg_attribute t ON t.attrelid = indrelid AND t.attnum = indkey[0]
    WHERE indrelid = to_regclass(%s) AND amname = 'hnsw'"""
_VIEWS = """SELECT DISTINCT v.oid::regclass::text FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid
    JOIN pg_class v ON v.oid = r.ev_class WHERE d.classid = 'pg_rewrite'::regclass AND d.refobjid = to_regclass(%s)
    AND obj_description(v.oid, 'pg_class') = 'penstock'"""
_VECTORS = """SELECT attname, typname FROM pg_attribute JOIN pg_type t ON t.oid = atttypid
    WHERE attrelid = to_regclass(%s) AND attnum > 0 AND typname IN ('vector', 'sparsevec') ORDER BY attnum"""
_GRANTS = """SELECT privilege_type, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END
        || CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
    FROM pg_class, aclexplode(relacl) WHERE oid = to_regclass(%s) AND grantee <> relowner"""
_FOREIGN = """SELECT true FROM pg_class WHERE oid = to_regclass(%s)
    AND (relkind <> 'v' OR obj_description(oid, 'pg_class') IS DISTINCT FROM 'penstock')"""


@dataclass(frozen=True, slots=True)
class Hnsw:
    """An HNSW index: its name, the column, and how many rows that had when it was built or last analyzed."""

    name: str
    column: str
    rows: int


def parse(url: str) -> address.Address:
    """The address. Raises UsageError for names that no table or schema can have."""
    options = frozenset({"tls", "schema"})
    at = address.parse(url, "pgvector", EXAMPLE, port=5432, names=2, options=options)
    if at.folder is not None:
        raise UsageError(f"{url!r} does not name a server; write it like {EXAMPLE}")
    for name in (at.names[1], at.options.get("schema", "public")):
        if not name.replace("_", "").replace("-", "").isalnum() or len(name.encode()) > 63 or name == MANIFESTS:
            raise UsageError(f"invalid name {name!r} in {url!r}: expected letters, digits, - and _, at most 63 bytes")
    return at


class Table(Connection):
    def __init__(self, at: address.Address, client: psycopg.Connection[Any] | None = None) -> None:
        super().__init__(at, client)
        self.bare, self._schema = at.names[1], at.options.get("schema", "public")
        self.name, self.manifests = self._qualified(self.bare), self._qualified(MANIFESTS)

    def _qualified(self, name: str) -> str:
        return f'"{self._schema}"."{name}"'

    # ------------------------------------------------------------ the table and its manifest

    def exists(self, cursor: psycopg.Cursor[Any]) -> bool:
        return bool(scalar(cursor, _EXISTS, (self.name,)))

    def owned(self, cursor: psycopg.Cursor[Any]) -> bool:
        """Whether the user may build indexes on it."""
        return bool(scalar(cursor, _OWNER, (self.name,)))

    def manifest(self) -> Manifest | None:
        with self.transaction() as cursor:
            return self.read_manifest(cursor)

    def read_manifest(self, cursor: psycopg.Cursor[Any]) -> Manifest | None:
        if not self.exists(cursor) or not scalar(cursor, _EXISTS, (self.manifests,)):
            return None
        text = scalar(cursor, f"SELECT manifest FROM {self.manifests} WHERE name = %s", (self.bare,))
        return None if text is None else manifests.from_json(text, self.url)

    def keep(self, cursor: psycopg.Cursor[Any], manifest: Manifest) -> None:
        sql = f"""INSERT INTO {self.manifests} VALUES (%s, %s)
            ON CONFLICT (name) DO UPDATE SET manifest = excluded.manifest"""
        cursor.execute(sql.encode(), (self.bare, manifests.to_json(manifest)))

    def create(self, cursor: psycopg.Cursor[Any], manifest: Manifest) -> Manifest:
        """Create the table, unless it exists; return its manifest. Those who do so at once take turns."""
        cursor.execute(_SERIALIZE)
        if kept := self.read_manifest(cursor):
            return kept
        if self.exists(cursor):
            raise SinkError(f"{self.url}: there is a table {self.bare!r} that is not Penstock's; name another")
        self._extend(cursor)
        vectors = {rows.vector_column(name): column_type(space) for name, space in manifest.schema.vectors.items()}
        for kind in vectors.values():
            if not scalar(cursor, "SELECT to_regtype(%s) IS NOT NULL", (kind,)):
                raise UsageError(
                    f"{self.url} takes Sparse vectors with pgvector 0.7 or later: ALTER EXTENSION vector UPDATE"
                )
        columns = ", ".join(f'"{column}" {kind} NOT NULL' for column, kind in vectors.items())
        # Rows stay in one piece up to 8 kB: out of line, vectors are slow to compare.
        inline = ", ".join(f'ALTER COLUMN "{column}" SET STORAGE MAIN' for column in vectors)
        creation = f"""
            CREATE TABLE {self.name} ("id" {_TEXT} PRIMARY KEY, "uri" {_TEXT}, "ordinal" bigint NOT NULL,
                "text" {_TEXT}, "start" bigint NOT NULL, "end" bigint NOT NULL, "page" bigint,
                "headings" {_TEXT}, "metadata" {_TEXT}, "image" bytea, {columns})
                WITH (toast_tuple_target = 8160);
            ALTER TABLE {self.name} {inline};
            CREATE INDEX ON {self.name} (left(uri, 500));
            CREATE TABLE IF NOT EXISTS {self.manifests} (name {_TEXT} PRIMARY KEY, manifest text NOT NULL)"""
        cursor.execute(creation.encode())
        self.keep(cursor, manifest)
        return manifest

    def _extend(self, cursor: psycopg.Cursor[Any]) -> None:
        """Have the extension in the database."""
        if scalar(cursor, "SELECT true FROM pg_extension WHERE extname = 'vector'"):
            return
        import psycopg

        try:
            cursor.execute("CREATE EXTENSION vector")
        except psycopg.Error as error:
            ask = "install pgvector on the server, then have an administrator run CREATE EXTENSION vector"
            raise SinkError(f"{self.url}: {line(error)}; {ask}") from error

    def remove(self) -> None:
        """Remove the table with its manifest and Penstock's views of it. Raises SinkError if it is not Penstock's."""
        with self.transaction() as cursor:
            cursor.execute(_SERIALIZE)
            if self.read_manifest(cursor) is None:
                if self.exists(cursor):
                    raise SinkError(f"{self.url}: there is a table {self.bare!r} that is not Penstock's; it stays")
                return
            for (view,) in cursor.execute(_VIEWS, (self.name,)).fetchall():
                cursor.execute(f"DROP VIEW {view}".encode())
            cursor.execute(f"DROP TABLE {self.name}".encode())
            cursor.execute(f"DELETE FROM {self.manifests} WHERE name = %s".encode(), (self.bare,))

    # ------------------------------------------------------------ the view

    def alias(self, name: str) -> bool:
        """Have the view of that name show this table, to those who might read it before."""
        view = self._qualified(name)
        with self.transaction() as cursor:
            cursor.execute(_SERIALIZE)
            if scalar(cursor, _FOREIGN, (view,)):
                raise SinkError(f"{self.url}: there is a {name!r} that is not Penstock's, and it stays")
            vectors = cursor.execute(_VECTORS, (self.name,)).fetchall()
            shown = cursor.execute(_VECTORS, (view,)).fetchall()
            grants: list[tuple[str, str]] = []
            if shown != vectors[: len(shown)]:  # a view that is replaced keeps its columns
                grants = cursor.execute(_GRANTS, (view,)).fetchall()
                cursor.execute(f"DROP VIEW {view}".encode())
            # A column keeps its type as well: without a dimension all vectors are of one.
            columns = [COLUMNS, *(f'"{column}"::{kind} AS "{column}"' for column, kind in vectors)]
            cursor.execute(f"CREATE OR REPLACE VIEW {view} AS SELECT {', '.join(columns)} FROM {self.name}".encode())
            cursor.execute(f"COMMENT ON VIEW {view} IS 'penstock'".encode())
            for privilege, role in grants:
                cursor.execute(f"GRANT {privilege} ON {view} TO {role}".encode())
        return True

    # ------------------------------------------------------------ rows

    def indexes(self, cursor: psycopg.Cursor[Any]) -> list[Hnsw]:
        return [Hnsw(*row) for row in cursor.execute(_INDEXES, (self.name,))]

    def count(self) -> int:
        return int(self.all(f"SELECT count(*) FROM {self.name}")[0][0])

    def fetch(self, ids: Sequence[str], schema: IndexSchema) -> list[Point]:
        wanted = list(dict.fromkeys(storable(ids)))
        sent = (
            f'{"sparsevec" if space.kind == "Sparse" else "vector"}_send("{rows.vector_column(name)}")'
            for name, space in schema.vectors.items()
        )
        sql = f"SELECT {', '.join([COLUMNS, *sent])} FROM {self.name} WHERE id = ANY(%s)".encode()
        count = len(rows.COLUMNS)
        points: list[Point] = []
        for start in range(0, len(wanted), PAGE):
            with self.transaction() as cursor:
                for cells in cursor.execute(sql, (wanted[start : start + PAGE],), binary=True):
                    vectors = zip(schema.vectors.items(), cells[count:], strict=True)
                    read = {name: from_binary(data, space) for (name, space), data in vectors}
                    points.append(Point(chunk_of(cells[:count]), read))
        return points
