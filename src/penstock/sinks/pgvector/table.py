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
from penstock.sinks.pgvector import carry, columns, full_text
from penstock.sinks.pgvector.columns import JSON, SELECTED, Column
from penstock.sinks.pgvector.connection import Connection, scalar
from penstock.sinks.pgvector.url import MANIFESTS, identifier
from penstock.sinks.pgvector.values import chunk_of, column_types, from_binary, storable
from penstock.sinks.store import line

if TYPE_CHECKING:
    import psycopg

PAGE = 1000

_SERIALIZE = b"SELECT pg_advisory_xact_lock(hashtextextended('penstock', 0))"
"""Has those who create or remove a table take turns."""
_TEXT = 'text COLLATE "C" NOT NULL'
_EXISTS = """SELECT CASE WHEN schema IS NULL THEN false WHEN has_schema_privilege(schema, 'USAGE')
    THEN to_regclass(%s) IS NOT NULL END FROM (SELECT to_regnamespace(%s)::oid AS schema) AS named"""
_OWNER = "SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = to_regclass(%s)"
_INDEXES = """SELECT indexrelid::regclass::text, t.attname, c.reltuples::bigint,
        amname = 'hnsw' AND c.reloptions IS NULL
    FROM pg_index JOIN pg_class c ON c.oid = indexrelid JOIN pg_am a ON a.oid = c.relam
    JOIN pg_attribute t ON t.attrelid = indrelid AND t.attnum = indkey[0]
    WHERE indrelid = to_regclass(%s) AND amname IN ('hnsw', 'ivfflat')
        AND indisvalid AND indpred IS NULL"""
_GIN = """SELECT true FROM pg_index JOIN pg_class c ON c.oid = indexrelid JOIN pg_am a ON a.oid = c.relam
    JOIN pg_attribute t ON t.attrelid = indrelid AND t.attnum = ANY(indkey)
    WHERE indrelid = to_regclass(%s) AND amname = 'gin' AND attname = 'metadata' AND indisvalid"""
_VIEWS = """SELECT DISTINCT v.oid::regclass::text FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid
    JOIN pg_class v ON v.oid = r.ev_class WHERE d.classid = 'pg_rewrite'::regclass AND d.refobjid = to_regclass(%s)
    AND obj_description(v.oid, 'pg_class') LIKE 'penstock%%'"""
_SETTINGS = (
    "SELECT format('WITH (%%s)', array_to_string(reloptions, ', ')) FROM pg_class WHERE oid = to_regclass(%s)"
    " AND reloptions IS NOT NULL"
)
_COMMENT = "SELECT obj_description(to_regclass(%s), 'pg_class')"
_FOREIGN = """SELECT true FROM pg_class WHERE oid = to_regclass(%s)
    AND (relkind <> 'v' OR obj_description(oid, 'pg_class') LIKE 'penstock%%' IS NOT TRUE)"""
_CREATES = "SELECT has_schema_privilege(to_regnamespace(%s)::oid, 'CREATE')"
_EMPTY_SCHEMA = """SELECT pg_has_role(nspowner, 'USAGE') FROM pg_namespace n WHERE oid = to_regnamespace(%s)
    AND obj_description(oid, 'pg_namespace') = 'penstock'
    AND NOT EXISTS (SELECT FROM pg_depend WHERE refclassid = 'pg_namespace'::regclass AND refobjid = n.oid)"""


@dataclass(frozen=True, slots=True)
class Hnsw:
    """An index of vectors: its name, the column, and how many rows that had when it was built or last analyzed."""

    name: str
    column: str
    rows: int
    ours: bool
    """As `maintain` builds it; one of the user's, of another kind or with settings, is left as it is."""


class Table(Connection):
    """The table of an index or, where `base` is another one's name, of a generation of that."""

    def __init__(self, at: address.Address, client: psycopg.Connection[Any] | None = None, base: str = "") -> None:
        super().__init__(at, client)
        self.bare, self._schema = at.names[-1], identifier(at.options.get("schema", "public"))
        self._base = base or self.bare
        self.name, self.manifests = self._qualified(self.bare), self._qualified(MANIFESTS)
        self._columns: list[Column] = []

    def _qualified(self, name: str) -> str:
        return f"{self._schema}.{identifier(name)}"

    # ------------------------------------------------------------ the table and its manifest

    def exists(self, cursor: psycopg.Cursor[Any]) -> bool:
        return self._exists(cursor, self.name)

    def _exists(self, cursor: psycopg.Cursor[Any], name: str) -> bool:
        found = scalar(cursor, _EXISTS, (name, self._schema))
        if found is None:
            raise self._right_missing(cursor, f"GRANT USAGE ON SCHEMA {self._schema}")
        return bool(found)

    def _right_missing(self, cursor: psycopg.Cursor[Any], grant: str) -> SinkError:
        user = identifier(cursor.connection.info.user)
        return SinkError(f"{self.url}: a right is missing; have an administrator run: {grant} TO {user}")

    def owned(self, cursor: psycopg.Cursor[Any]) -> bool:
        """Whether the user may build indexes on it."""
        return bool(scalar(cursor, _OWNER, (self.name,)))

    def manifest(self) -> Manifest | None:
        with self.transaction() as cursor:
            return self.read_manifest(cursor)

    def read_manifest(self, cursor: psycopg.Cursor[Any]) -> Manifest | None:
        return self._manifest_of(cursor, self.bare)

    def _manifest_of(self, cursor: psycopg.Cursor[Any], bare: str) -> Manifest | None:
        if not self._exists(cursor, self._qualified(bare)) or not self._exists(cursor, self.manifests):
            return None
        text = scalar(cursor, f"SELECT manifest FROM {self.manifests} WHERE name = %s", (bare,))
        return None if text is None else manifests.from_json(text, self.url)

    def keep(self, cursor: psycopg.Cursor[Any], manifest: Manifest) -> None:
        sql = f"""INSERT INTO {self.manifests} VALUES (%s, %s)
            ON CONFLICT (name) DO UPDATE SET manifest = excluded.manifest"""
        cursor.execute(sql.encode(), (self.bare, manifests.to_json(manifest)))

    def exchange(self, cursor: psycopg.Cursor[Any], old: Manifest, new: Manifest) -> bool:
        """Keep `new` where `old` is kept, as the only one meanwhile: the row is locked until the transaction ends."""
        sql = f"SELECT manifest FROM {self.manifests} WHERE name = %s FOR UPDATE"
        text = scalar(cursor, sql, (self.bare,))
        if text is None or manifests.from_json(text, self.url) != old:
            return False
        self.keep(cursor, new)
        return True

    def create(self, cursor: psycopg.Cursor[Any], manifest: Manifest) -> Manifest:
        """Create the table, unless it exists; return its manifest. Those who do so at once take turns."""
        cursor.execute(_SERIALIZE)
        if kept := self.read_manifest(cursor):
            if self._is_base and not kept.current and self.owned(cursor):
                self._show_first(cursor)
            return kept
        if self.exists(cursor):
            raise SinkError(f"{self.url}: there is a table {self.bare!r} that is not Penstock's; name another")
        self._extend(cursor)
        self._create_schema(cursor)
        if former := self.former(cursor):
            carry.check(cursor, former, self._view(), self.url)
        self._create_table(cursor, manifest)
        if former:
            carry.structure(cursor, former, self.name, self.url)
            names = [column.name for column in columns.of(cursor, self.name)]
            for statement in carry.rights(cursor, former, self.name, names):
                cursor.execute(statement.encode())
            self._check_view(cursor)
        self.keep(cursor, manifest)
        if self._is_base:
            self._show_first(cursor)
        return manifest

    def _create_table(self, cursor: psycopg.Cursor[Any], manifest: Manifest) -> None:
        vectors = column_types(manifest.schema)
        for kind in vectors.values():
            self._check_type(cursor, kind)
        listed = ", ".join(f'"{column}" {kind} NOT NULL' for column, kind in vectors.items())
        # Rows stay in one piece up to 8 kB: out of line, vectors are slow to compare. Many a point lie apart.
        inline = ", ".join(
            f'ALTER COLUMN "{column}" SET STORAGE {"EXTERNAL" if kind == "bytea" else "MAIN"}'
            for column, kind in vectors.items()
        )
        creation = f"""
            CREATE TABLE {self.name} ("id" {_TEXT} PRIMARY KEY, "uri" {_TEXT}, "ordinal" bigint NOT NULL,
                "text" {_TEXT}, "start" bigint NOT NULL, "end" bigint NOT NULL, "page" bigint,
                "headings" jsonb NOT NULL, "metadata" jsonb NOT NULL, "image" bytea, {listed})
                WITH (toast_tuple_target = 8160);
            ALTER TABLE {self.name} {inline};
            CREATE INDEX ON {self.name} (left(uri, 500));
            CREATE TABLE IF NOT EXISTS {self.manifests} (name {_TEXT} PRIMARY KEY, manifest text NOT NULL)"""
        cursor.execute(creation.encode())
        full_text.create(cursor, self.name)

    def _check_type(self, cursor: psycopg.Cursor[Any], kind: str) -> None:
        """Raise an error unless the extension's type can be used."""
        if scalar(cursor, "SELECT to_regtype(%s) IS NOT NULL", (kind,)):
            return
        if kind.startswith("sparse") and scalar(cursor, "SELECT to_regtype('vector') IS NOT NULL"):
            raise UsageError(
                f"{self.url} takes Sparse vectors with pgvector 0.7 or later: ALTER EXTENSION vector UPDATE"
            )
        where = scalar(
            cursor,
            "SELECT quote_ident(nspname) FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace"
            " WHERE extname = 'vector'",
        )
        raise self._right_missing(cursor, f"GRANT USAGE ON SCHEMA {where}")

    def _create_schema(self, cursor: psycopg.Cursor[Any]) -> None:
        """Have the schema, marked by a comment where it is Penstock's, and the right to create a table in it."""
        if not scalar(cursor, "SELECT to_regnamespace(%s) IS NOT NULL", (self._schema,)):
            user = identifier(cursor.connection.info.user)
            creation = f"CREATE SCHEMA {self._schema}"
            ask = f"have an administrator run: {creation} AUTHORIZATION {user}"
            self._attempt(cursor, creation, ask)
            cursor.execute(f"COMMENT ON SCHEMA {self._schema} IS 'penstock'".encode())
        elif not scalar(cursor, _CREATES, (self._schema,)):
            raise self._right_missing(cursor, f"GRANT CREATE ON SCHEMA {self._schema}")

    def _attempt(self, cursor: psycopg.Cursor[Any], sql: str, advice: str) -> None:
        """Execute a statement for which a right or a program may be missing."""
        import psycopg

        try:
            cursor.execute(sql.encode())
        except (psycopg.ProgrammingError, psycopg.NotSupportedError, psycopg.OperationalError) as error:
            if cursor.connection.broken:
                raise
            raise SinkError(f"{self.url}: {line(error)}; {advice}") from error

    def _extend(self, cursor: psycopg.Cursor[Any]) -> None:
        """Have the extension in the database."""
        if scalar(cursor, "SELECT true FROM pg_extension WHERE extname = 'vector'"):
            return
        advice = "install pgvector on the server, then have an administrator run CREATE EXTENSION vector"
        self._attempt(cursor, "CREATE EXTENSION vector", advice)

    def former(self, cursor: psycopg.Cursor[Any]) -> str | None:
        """The table of the current generation, where this is another one that is being built beside it."""
        if self._is_base or (kept := self._manifest_of(cursor, self._base)) is None:
            return None
        bare = manifests.numbered(self._base, kept.current) if kept.current else self._base
        return None if bare == self.bare or not self._exists(cursor, self._qualified(bare)) else self._qualified(bare)

    @property
    def _is_base(self) -> bool:
        return self._base == self.bare

    def remove(self) -> None:
        """Remove the table with its manifest and Penstock's views of it, and what is empty without them. Raises
        SinkError if it is not Penstock's."""
        with self.transaction() as cursor:
            cursor.execute(_SERIALIZE)
            if self.read_manifest(cursor) is not None:
                for (view,) in cursor.execute(_VIEWS, (self.name,)).fetchall():
                    cursor.execute(f"DROP VIEW {view}".encode())
                cursor.execute(f"DROP TABLE {self.name}".encode())
            elif self.exists(cursor):
                raise SinkError(f"{self.url}: there is a table {self.bare!r} that is not Penstock's; it stays")
            if not self._exists(cursor, self.manifests):
                return
            cursor.execute(f"DELETE FROM {self.manifests} WHERE name = %s".encode(), (self.bare,))
            if scalar(cursor, f"SELECT true FROM {self.manifests} LIMIT 1"):
                return
            if scalar(cursor, _OWNER, (self.manifests,)):
                cursor.execute(f"DROP TABLE {self.manifests}".encode())
            if scalar(cursor, _EMPTY_SCHEMA, (self._schema,)):
                cursor.execute(f"DROP SCHEMA {self._schema}".encode())

    # ------------------------------------------------------------ the view

    def _view(self) -> str:
        return self._qualified(f"{self._base}_live")

    def _show_first(self, cursor: psycopg.Cursor[Any]) -> None:
        """Create the view, unless there is something of its name or the name would be too long."""
        if len(f"{self._base}_live".encode()) > 63 or self._exists(cursor, self._view()):
            return
        if scalar(cursor, _CREATES, (self._schema,)):
            self._show(cursor, self._view())

    def _check_view(self, cursor: psycopg.Cursor[Any]) -> None:
        """Raise UsageError where the view cannot show this table without a loss for others."""
        if self._can_replace(cursor, self._view()):
            return
        if found := carry.obstacles(cursor, self._view()):
            raise UsageError(
                f"{self.url}: the view {self._view()} gets other columns by a re-index, which cannot be while there is"
                f" {', '.join(found)}: remove that first, and create it anew afterwards"
            )

    def alias(self, name: str) -> bool:
        """Have the view of that name show this table, to those who might read it before."""
        view = self._qualified(name)
        with self.transaction() as cursor:
            cursor.execute(_SERIALIZE)
            if scalar(cursor, _FOREIGN, (view,)):
                expected = "not Penstock's (a view whose comment starts with 'penstock')"
                raise SinkError(f"{self.url}: there is a {name!r} that is {expected}, and it stays")
            self._show(cursor, view)
        return True

    def _show(self, cursor: psycopg.Cursor[Any], view: str) -> None:
        shown = columns.of(cursor, self.name)
        rights: list[str] = []
        settings = scalar(cursor, _SETTINGS, (view,))  # as of security_invoker, which it would lose
        if not self._can_replace(cursor, view):
            rights = carry.rights(cursor, view, view, [column.name for column in shown])
            cursor.execute(f"DROP VIEW {view}".encode())
        listed = (
            f"{identifier(column.name)}::{column.kind} AS {identifier(column.name)}"
            if column.is_vector
            else identifier(column.name)
            for column in shown
        )
        selection = f"SELECT {', '.join(listed)} FROM {self.name}"
        cursor.execute(f"CREATE OR REPLACE VIEW {view} {settings or ''} AS {selection}".encode())
        if not rights and not scalar(cursor, _COMMENT, (view,)):
            rights = [f"COMMENT ON VIEW {view} IS 'penstock'"]
        for statement in rights:
            cursor.execute(statement.encode())

    def _can_replace(self, cursor: psycopg.Cursor[Any], view: str) -> bool:
        """Whether the view, if there is one, keeps its columns, which are the first of the table's."""
        before = [column.shown for column in columns.of(cursor, view)]
        return before == [column.shown for column in columns.of(cursor, self.name)][: len(before)]

    # ------------------------------------------------------------ rows

    def indexes(self, cursor: psycopg.Cursor[Any]) -> list[Hnsw]:
        return [Hnsw(*row) for row in cursor.execute(_INDEXES, (self.name,))]

    def index_metadata(self, cursor: psycopg.Cursor[Any]) -> None:
        """Have an index of the metadata, if it is jsonb. Built of 20,000 rows it takes a tenth of a second and is half
        as large, and twice as fast, as one that is there while they are written."""
        if "metadata" in self.jsonb(cursor) and not scalar(cursor, _GIN, (self.name,)):
            cursor.execute(f"CREATE INDEX ON {self.name} USING {carry.GIN}".encode())

    def count(self) -> int:
        return int(self.all(f"SELECT count(*) FROM {self.name}")[0][0])

    def fetch(self, ids: Sequence[str], schema: IndexSchema) -> list[Point]:
        wanted = list(dict.fromkeys(storable(ids)))
        senders = {"Sparse": "sparsevec_send", "MultiVector": ""}
        sent = (
            f'{senders.get(space.kind, "vector_send")}("{rows.vector_column(name)}")'
            for name, space in schema.vectors.items()
        )
        sql = f"SELECT {', '.join([SELECTED, *sent])} FROM {self.name} WHERE id = ANY(%s)".encode()
        count = len(rows.COLUMNS)
        points: list[Point] = []
        for start in range(0, len(wanted), PAGE):
            with self.transaction() as cursor:
                jsonb = self.jsonb(cursor)
                for cells in cursor.execute(sql, (wanted[start : start + PAGE],), binary=True):
                    vectors = zip(schema.vectors.items(), cells[count:], strict=True)
                    read = {name: from_binary(data, space) for (name, space), data in vectors}
                    points.append(Point(chunk_of(cells[:count], jsonb), read))
        return points

    def columns(self, cursor: psycopg.Cursor[Any]) -> list[Column]:
        """Those of the table, as they were when first read."""
        if not self._columns:
            self._columns = columns.of(cursor, self.name)
        return self._columns

    def jsonb(self, cursor: psycopg.Cursor[Any]) -> frozenset[str]:
        """The columns that hold JSON as jsonb. In tables of earlier versions they are texts."""
        return frozenset(
            column.name for column in self.columns(cursor) if column.name in JSON and column.type == "jsonb"
        )
