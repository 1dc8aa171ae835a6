"""`lance://` keeps the promises of a sink."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.core.errors import Rejected, SinkError, SinkUnavailable, UsageError
from penstock.core.filter_parser import parse_filter
from penstock.core.filters import passes
from penstock.core.records import VECTOR, Dense, MultiVector, Point
from penstock.sinks import lance
from penstock.sinks.lance import LanceIndex, LanceSink
from penstock.sinks.lance.compact import LIMITS, alone, compact, limit_memory
from penstock.sinks.lance.table import TableFiles, crowded
from penstock.support import durable
from penstock.testing.sink_suite import MakeIndex, MakeSink, SinkSuite, holds, point, respec, similarity
from tests.sinks.asked import METADATA, WHERE
from tests.sinks.counted import equal_counts

MANIFEST = SinkSuite().manifest


class TestLance(SinkSuite):
    has_words = True

    same_ids = False

    @pytest.fixture
    def make_sink(self, tmp_path: Path) -> MakeSink:
        return lambda: LanceSink(f"lance://{tmp_path}/in dex?table=notes")

    @pytest.fixture
    def make_index(self, tmp_path: Path) -> MakeIndex:
        return lambda: LanceIndex(f"lance://{tmp_path}/in dex?table=notes")


class TestLanceMultiVector(TestLance):
    kind = MultiVector


URLS = ["lance://", "lance:/index", "index", "lance://./x?tabel=a", "lance://./x?table=../../etc", "memory://./x"]


@pytest.mark.parametrize("url", URLS)
def test_an_invalid_url_is_refused_at_once(url: str) -> None:
    """Before anything is imported or created."""
    with pytest.raises(UsageError):
        LanceSink(url)


def test_a_folder_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    """One line that names the url and the reason."""
    (tmp_path / "file").write_text("in the way")
    with LanceSink(f"lance://{tmp_path}/file/index") as sink, pytest.raises(SinkError, match="Not a directory"):
        sink.open(MANIFEST)


def test_a_table_of_others_is_left_alone(tmp_path: Path) -> None:
    """A table with rows and no manifest is not Penstock's to write to."""
    import lancedb

    lancedb.connect(str(tmp_path)).create_table("chunks", data=[{"a": 1}])
    with LanceSink(f"lance://{tmp_path}") as sink, pytest.raises(SinkError, match="not Penstock's"):
        sink.open(MANIFEST)
    with LanceSink(f"lance://{tmp_path}?table=mine") as sink:
        sink.open(MANIFEST)
        sink.write([point(1)])
        holds(sink, [point(1)])


def test_half_an_index_is_none(tmp_path: Path) -> None:
    """A run died between creating the table and its manifest, or the table was removed since: it is created again."""
    with LanceSink(f"lance://{tmp_path}") as sink:
        sink.open(MANIFEST)
        sink.close()
        (tmp_path / "chunks.penstock.json").unlink()
        assert sink.manifest() is None
        other = replace(MANIFEST, schema=respec(MANIFEST.schema, dim=4))
        sink.open(other)
        sink.write([point(1, dim=4)])
        sink.close()
        shutil.rmtree(tmp_path / "chunks.lance")
        assert sink.manifest() is None
        (tmp_path / "chunks.lance").mkdir()  # the first thing that LanceDB makes
        sink.open(MANIFEST)
        holds(sink, [])


def test_importing_and_reading_the_manifest_loads_no_driver(tmp_path: Path) -> None:
    """LanceDB takes a second to import: only `open` does it."""
    with LanceSink(f"lance://{tmp_path}") as sink:
        sink.open(MANIFEST)
    code = (
        "import sys; from penstock.sinks.lance import LanceSink; assert LanceSink(sys.argv[1]).manifest();"
        "assert not {'lancedb', 'pyarrow', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, f"lance://{tmp_path}"], check=True)


def test_a_flush_syncs_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file once, its folder each time there was a new one; nothing when nothing was written."""
    synced: list[str] = []
    monkeypatch.setattr(durable, "sync", lambda path: synced.append(str(path)))
    with LanceSink(f"lance://{tmp_path}") as sink:
        sink.open(MANIFEST)
        sink.flush()
        for n in range(3):
            synced.clear()
            sink.write([point(n)])
            sink.flush()
            files = {path for path in synced if Path(path).is_file()}
            assert {Path(path).parent.name for path in files} >= {"data", "_versions"}
            assert {str(Path(path).parent) for path in files} <= set(synced)
            assert len(files) <= 4
        synced.clear()
        sink.flush()
        assert [path for path in synced if Path(path).is_file()] == []


def test_a_flush_syncs_files_at_once_and_again_what_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, each would wait for a journal of the file system of its own."""
    second, synced = threading.Event(), list[str]()

    def sync(path: str) -> None:
        synced.append(path)
        if len(synced) > 1:
            second.set()
        assert second.wait(30)
        raise OSError(errno.EIO, "a broken disk")

    with LanceSink(f"lance://{tmp_path}") as sink:
        sink.open(MANIFEST)
        sink.write([point(1)])
        with monkeypatch.context() as patch:
            patch.setattr(durable, "sync", sync)
            with pytest.raises(SinkError, match="a broken disk"):
                sink.flush()
        failed = {path for path in synced if Path(path).is_file()}
        monkeypatch.setattr(durable, "sync", synced.append)
        synced.clear()
        sink.flush()
        assert failed
        assert failed <= set(synced)


def test_points_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    """A NaN, a lone surrogate and metadata that is not JSON are refused by id; the others of the batch are in."""
    bad_vector = replace(point(1), vectors={VECTOR: Dense(np.full(8, np.nan, dtype=np.float32))})
    bad = [bad_vector, point(2, text="\udc80"), point(3, metadata={"a": object()}), point(4, uri="file:///\udcff")]
    with LanceSink(f"lance://{tmp_path}") as sink:
        sink.open(MANIFEST)
        with pytest.raises(Rejected) as raised:
            sink.write([point(0), *bad, point(5)])
        assert raised.value.reasons.keys() == {p.id for p in bad}
        holds(sink, [point(0), point(5)])


def test_fragments_are_compacted_while_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Overwriting and deleting during compactions in other processes, nothing is lost and few fragments are left."""
    monkeypatch.setattr(lance.table, "FRAGMENTS", 8)
    with LanceSink(f"lance://{tmp_path}") as sink:
        sink.open(MANIFEST)
        rounds, first, deadline = 0, None, time.monotonic() + 30
        while (first is None or first.poll() is None) and time.monotonic() < deadline:
            for n in range(0, 100, 10):
                sink.write([point(i, version=rounds % 2) for i in range(n, n + 10)])
            sink.delete([point(5).id])
            rounds += 1
            first = first or sink._compactor._process
            time.sleep(0.2)
        assert first is not None
        assert first.wait(30) == 0
        holds(sink, [point(n, version=(rounds - 1) % 2) for n in range(100) if n != 5])
        assert sink._table.stats()["fragment_stats"]["num_fragments"] < 10 * rounds


@pytest.mark.parametrize(("dim", "kind"), [(8, "IVF_RQ"), (12, "IVF_SQ")])
def test_many_rows_get_an_index_and_search_still_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dim: int, kind: str
) -> None:
    """Scores stay exact, rows written after the index was made are found, and filters hold."""
    monkeypatch.setattr(lance.table, "INDEX_ROWS", 2000)
    url = f"lance://{tmp_path}"
    with LanceSink(url) as sink, LanceIndex(url) as index:
        sink.open(replace(MANIFEST, schema=respec(MANIFEST.schema, dim=dim)))
        sink.write([point(n, dim=dim) for n in range(2000)])
        compact(url)
        assert sink._table.index_stats("vector_idx").index_type == kind
        sink.write([point(n, dim=dim) for n in range(2000, 2100)])
        sink.flush()
        index.open()
        for n in (3, 1999, 2050):
            query = point(n, dim=dim).vectors[VECTOR]
            hits = index.search(query, k=5)
            assert hits[0].chunk.ordinal == n
            assert hits[0].score == pytest.approx(1, abs=1e-5)
            assert [h.score for h in hits] == pytest.approx(
                [similarity(query, point(h.chunk.ordinal, dim=dim).vectors[VECTOR]) for h in hits], abs=1e-4
            )
            assert len(index.search(query, k=50, where={"uri": "file:///docs/41.md"})) == 50


def test_an_index_that_was_added_to_is_built_anew_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LanceDB searches each addition by itself and keeps its rows in fragments of their own; and it builds an index
    whose parts are not of the size that was asked for anew at once, with parts of its own size."""
    monkeypatch.setattr(lance.table, "INDEX_ROWS", 2000)
    monkeypatch.setattr(lance.table, "ADDITIONS", 2)
    url = f"lance://{tmp_path}"
    with LanceSink(url) as sink, LanceIndex(url) as index:
        sink.open(MANIFEST)
        sink.write([point(n) for n in range(2000)])
        compact(url)

        def built() -> tuple[str, int]:
            (found,) = (each for each in sink._table.list_indices() if each.columns == ["vector"])
            return found.index_uuid, sink._table.index_stats(found.name).num_indices

        first, _ = built()
        compact(url)
        assert built() == (first, 1)
        pieces = []
        for n in range(2000, 2500, 100):
            sink.write([point(n) for n in range(n, n + 100)])
            compact(url)
            pieces.append(built()[1])
        assert max(pieces) == 2
        assert sink._table.stats()["fragment_stats"]["num_fragments"] <= 3
        index.open()
        for n in (3, 1999, 2050, 2450):
            assert index.search(point(n).vectors[VECTOR], k=1)[0].chunk.ordinal == n


def test_compaction_is_alone(tmp_path: Path) -> None:
    """The second of two at a time does nothing."""
    url = f"lance://{tmp_path}"
    with LanceSink(url) as sink:
        sink.open(MANIFEST)
    with alone(TableFiles(url)) as first, alone(TableFiles(url)) as second:
        assert (first, second) == (True, False)


def test_an_append_that_failed_after_all_is_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """New ids are appended; where that wrote and then raised, the same batch again leaves each point once."""
    with LanceSink(f"lance://{tmp_path}") as sink:
        sink.open(MANIFEST)
        add = type(sink._table).add

        def add_and_fail(self: object, data: object) -> None:
            add(self, data)
            raise OSError("the answer got lost")

        with monkeypatch.context() as patch:
            patch.setattr(type(sink._table), "add", add_and_fail)
            with pytest.raises(SinkError, match="got lost"):
                sink.write([point(1), point(2)])
        sink.write([point(1, version=1), point(2)])
        holds(sink, [point(1, version=1), point(2)])


def test_old_versions_go_at_the_end_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After maintenance the folder holds what the newest version needs: not the fragments that were put together."""
    monkeypatch.setattr(lance.table, "FRAGMENTS", 8)
    url = f"lance://{tmp_path}"
    with LanceSink(url) as sink:
        sink.open(MANIFEST)
        for n in range(10):
            sink.write([point(i, text="x" * 1000) for i in range(10 * n, 10 * n + 10)])
        sink.flush()
        compact(url)  # as it is done during a run: the old fragments stay for a while
        assert len(list((tmp_path / "chunks.lance" / "data").iterdir())) > 8
        sink._compactor.ran = True
        sink.maintain()
        assert len(list((tmp_path / "chunks.lance" / "data").iterdir())) == 1
        assert not sink._compactor.ran
        holds(sink, [point(n, text="x" * 1000) for n in range(100)])


def test_a_table_is_maintained_beside_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fragments are put together by a process of its own, while points come."""
    monkeypatch.setattr(lance.table, "FRAGMENTS", 8)
    with LanceSink(f"lance://{tmp_path}") as sink:
        sink.open(MANIFEST)
        number = 0
        while number < 100 or sink._compactor._running():
            sink.write([point(i) for i in range(number, number + 10)])
            sink.flush()
            number += 10
            if number == 100:
                sink._compactor.wait()
                assert sink.maintain_beside()
        assert sink._table.stats()["fragment_stats"]["num_fragments"] < number // 10
        holds(sink, [point(n) for n in range(number)])


def test_maintenance_that_loses_its_races_is_made_while_nobody_writes(tmp_path: Path) -> None:
    with LanceSink(f"lance://{tmp_path}") as sink:
        sink.open(MANIFEST)
        sink.write([point(1)])
        compactor = sink._compactor
        assert compactor is not None
        compactor._process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"])
        compactor._process.wait()
        assert not compactor.begin(1)
        compactor.clean()
        assert compactor.begin(1)


def test_a_table_that_stays_small_is_maintained_beside_the_writes_for_weeks(tmp_path: Path) -> None:
    """Its pace is judged by the rows that it has, not by all that were ever written."""
    with LanceSink(f"lance://{tmp_path}") as sink:
        sink.open(MANIFEST)
        sink.write([point(1)])
        compactor = sink._compactor
        assert compactor is not None
        for _ in range(1000):
            compactor.wrote(1000, updated=True)
        compactor._since -= 10
        assert not compactor.begin(1_000_000)
        assert compactor.begin(20)


def test_what_runs_beside_is_given_up_when_the_sink_is_closed(tmp_path: Path) -> None:
    with LanceSink(f"lance://{tmp_path}") as sink:
        sink.open(MANIFEST)
        compactor = sink._compactor
        assert compactor is not None
        compactor._process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
        compactor._beside = True
        began = time.monotonic()
    assert time.monotonic() - began < 50


def test_a_table_that_is_changed_all_the_time_is_maintained_while_nobody_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compaction beside deletions would lose to them, and leave what it wrote on the disk."""
    monkeypatch.setattr(lance.table, "FRAGMENTS", 8)
    monkeypatch.setattr(lance.compact, "PACE", 1)
    with LanceSink(f"lance://{tmp_path}") as sink:
        sink.open(MANIFEST)
        sink.write([point(n) for n in range(500)])
    with LanceSink(f"lance://{tmp_path}") as sink:
        sink.open(MANIFEST)
        for n in range(10):
            sink.write([point(500 + n)])
            sink.delete([point(n).id])
        assert not sink.maintain_beside()
        sink.maintain()
        assert sink._table.stats()["fragment_stats"]["num_fragments"] <= 8
        for n in range(510, 520):  # nothing is changed any more
            sink.write([point(n)])
        assert sink.maintain_beside()
        holds(sink, [point(n) for n in range(10, 520)])


@pytest.mark.parametrize(("long", "tries"), [(60.0, 5), (-1.0, 1)])
def test_a_long_compaction_that_lost_its_race_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, long: float, tries: int
) -> None:
    """Each try leaves what it wrote on the disk."""
    monkeypatch.setattr(lance.compact, "LONG", long)
    url, optimized = f"lance://{tmp_path}", list[object]()
    with LanceSink(url) as sink:
        sink.open(MANIFEST)

        def optimize(self: object, **options: object) -> None:
            optimized.append(self)
            raise RuntimeError("Commit conflict for version 7")

        monkeypatch.setattr(type(sink._table), "optimize", optimize)
        with pytest.raises(SinkUnavailable, match="conflict"):
            compact(url)
        assert len(optimized) == tries


def test_rows_that_were_all_replaced_leave_no_old_ones_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their fragments are gone from the newest version, which is neither crowded nor full of gaps."""
    monkeypatch.setattr(lance.table, "VERSIONS", 8)
    with LanceSink(f"lance://{tmp_path}") as sink:
        sink.open(MANIFEST)
        for text in ("old", "new"):
            for n in range(5):
                sink.write([point(i, text=text) for i in range(10 * n, 10 * n + 10)])
        sink.flush()
        assert not crowded(sink._table)
        sink.maintain()
        assert len(list((tmp_path / "chunks.lance" / "_versions").iterdir())) <= 2
        holds(sink, [point(n, text="new") for n in range(50)])


def test_readers_survive_a_cleanup(tmp_path: Path) -> None:
    """An index and a second sink that read all the time see every point, while old versions are removed under them."""
    url = f"lance://{tmp_path}"
    points = [point(n) for n in range(200)]
    failures: list[BaseException] = []
    reads = 0
    done = threading.Event()

    def read(reading: Callable[[], int]) -> None:
        nonlocal reads
        while not done.is_set():
            try:
                assert reading() == 200
                reads += 1
            except BaseException as error:
                failures.append(error)
                return

    with LanceSink(url) as sink, LanceSink(url) as other, LanceIndex(url) as index:
        sink.open(MANIFEST)
        sink.write(points)
        other.open(MANIFEST)
        index.open()
        query, ids = points[3].vectors[VECTOR], [p.id for p in points]
        readings: list[Callable[[], int]] = [
            lambda: len(index.search(query, k=200)),
            lambda: len(index.fetch(ids)),
            lambda: len(other.fetch(ids)),
            lambda: sum(map(len, other.ids())),
        ]
        threads = [threading.Thread(target=read, args=(reading,), daemon=True) for reading in readings]
        for thread in threads:
            thread.start()
        for n in range(40):
            sink.write([point(i, version=n) for i in range(n, n + 5)])
            compact(url, clean=True)
        done.set()
        for thread in threads:
            thread.join(30)
        assert failures == []
        assert reads > 40


def test_ids_taken_slowly_survive_a_cleanup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of them are read, then the table is rewritten and cleaned: the other half are those of before."""
    monkeypatch.setattr(lance.sink, "PAGE", 10)
    url = f"lance://{tmp_path}"
    with LanceSink(url) as sink:
        sink.open(MANIFEST)
        sink.write([point(n) for n in range(100)])
        pages = sink.ids()
        first = list(next(pages))
        sink.write([point(n, version=1) for n in range(50)])
        compact(url, clean=True)
        assert sorted(first + [id for page in pages for id in page]) == [point(n).id for n in range(100)]


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LanceIndex, list[Point]]]:
    """An index of points with metadata of every form."""
    url = f"lance://{tmp_path_factory.mktemp('described')}"
    drawn: list[Any] = []

    @settings(max_examples=150, database=None, derandomize=True)
    @given(METADATA)
    def draw(metadata: Any) -> None:
        drawn.append(metadata)

    draw()
    points = [point(n, metadata=metadata) for n, metadata in enumerate(drawn)]
    with LanceSink(url) as sink:
        sink.open(MANIFEST)
        for start in range(0, len(points), 40):  # columns are added as they are met
            sink.write(points[start : start + 40])
        sink.flush()
    with LanceIndex(url) as index:
        index.open()
        yield index, points


@given(WHERE, st.booleans())
@settings(deadline=None)
def test_filters_of_metadata_mean_what_they_mean(
    described: tuple[LanceIndex, list[Point]], where: Any, negated: bool
) -> None:
    """Whatever the metadata and the filter are."""
    index, points = described
    asked = {"$not": where} if negated else where
    wanted = parse_filter(asked)
    assert wanted is not None
    found = index.search(points[0].vectors[VECTOR], k=len(points), where=asked)
    assert {hit.chunk.ordinal for hit in found} == {p.chunk.ordinal for p in points if passes(p.chunk, wanted)}


def test_more_fields_than_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All points are written; a filter by a field that may have no column is refused, rather than find too little."""
    monkeypatch.setattr(lance.fields, "MOST_COLUMNS", 10)
    monkeypatch.setattr(lance.sink, "MOST_COLUMNS", 10)
    url = f"lance://{tmp_path}"
    points = [point(n, metadata={f"field {n}": n, "common": "here"}) for n in range(20)]
    with LanceSink(url) as sink:
        sink.open(MANIFEST)
        sink.write(points[:5])
        sink.write(points[5:])
        holds(sink, points)
    with LanceIndex(url) as index:
        index.open()
        query = points[0].vectors[VECTOR]
        assert len(index.search(query, k=50, where={"common": "here"})) == 20
        assert len(index.search(query, k=50, where={"field 3": 3})) == 1
        assert index.search(query, where={"nobody": 3}) == []
        for test in (3, {"$exists": True}):
            with pytest.raises(UsageError, match="10 fields"):
                index.search(query, where={"field 19": test})
        with pytest.raises(UsageError, match="10 fields"):
            index.facets(["field 19"])


def test_a_large_table_has_indexes_of_its_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each kind that LanceDB indexes; maintenance fails for none of the others, and has nothing to do again."""
    monkeypatch.setattr(lance.table, "INDEX_ROWS", 500)
    monkeypatch.setattr(lance.fields, "MOST_COLUMNS", 12)
    monkeypatch.setattr(lance.sink, "MOST_COLUMNS", 12)
    metadata = {
        "team": "a",
        "tags": ["a", "b"],
        "year": 2024,
        "sizes": [1, 2],
        "draft": True,
        "both": [True, False],
        "people": [{"name": "Ann"}],
    }
    points = [point(n, metadata={**metadata, "year": n % 30, f"field {n}": n}) for n in range(600)]
    with LanceSink(f"lance://{tmp_path}") as sink:
        sink.open(MANIFEST)
        sink.write(points)
        sink.flush()
        table, schema = sink._opened()
        assert {"vector", "id", "number:year", "text:team", "texts:tags"} <= {*lance.table.unindexed(table, schema)}
        compact(sink.url)
        assert lance.table.unindexed(table, schema) == []
        sink.maintain()
        holds(sink, points)


@pytest.mark.parametrize("kind", ["Dense", "MultiVector"])
def test_compaction_of_many_vectors_a_row_reads_ahead_by_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """LanceDB would read thousands of rows at once, and two gigabytes ahead."""
    for name in LIMITS:
        monkeypatch.setenv(name, "")  # put back at the end
        monkeypatch.delenv(name)
    with LanceSink(f"lance://{tmp_path}") as sink:
        sink.open(replace(MANIFEST, schema=respec(MANIFEST.schema, kind=kind)))
        limit_memory(sink.url)
    limited = {name: os.environ.get(name) for name in LIMITS}
    assert limited == {name: str(value) if kind == "MultiVector" else None for name, value in LIMITS.items()}


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_a_narrow_filter_in_a_large_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: str) -> None:
    """What few rows pass is compared exactly, and kept until the table changes; many go by the ANN index."""
    for module in (lance.table, lance.index):
        monkeypatch.setattr(module, "INDEX_ROWS", 500)
    url = f"lance://{tmp_path}"
    points = [point(n, metadata={"team": n % 50, "half": n % 2 == 0}) for n in range(2000)]
    with LanceSink(url) as sink:
        sink.open(replace(MANIFEST, schema=respec(MANIFEST.schema, metric=metric)))
        for start in range(0, 2000, 1000):
            sink.write(points[start : start + 1000])
        sink.flush()
        with LanceIndex(url) as index:
            index.open()
            query = point(5, version=1).vectors[VECTOR]
            exact = {hit.chunk.id: hit.score for hit in index.search(query, k=2000)}
            for team in (3, 3, 4):
                hits = index.search(query, k=7, where={"team": team})
                passing = sorted((-exact[p.id], p.id) for p in points if p.metadata["team"] == team)
                assert [hit.chunk.id for hit in hits] == [id for _, id in passing[:7]]
                assert [hit.score for hit in hits] == pytest.approx([-score for score, _ in passing[:7]], abs=1e-5)
            assert index.search(query, k=7, where={"team": 99}) == []
            sink.delete([p.id for p in points if p.metadata["team"] == 3][:39])
            sink.flush()
            assert len(index.search(query, k=7, where={"team": 3})) == 1
            monkeypatch.setattr(lance.index, "few", lambda passing, dim: False)
            half = index.search(query, k=10, where={"half": True})
            best = sorted((-exact[p.id], p.id) for p in points if p.metadata["half"])[:10]
            assert [hit.chunk.id for hit in half] == [id for _, id in best]


def test_values_of_equal_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"lance://{tmp_path}"
    with LanceSink(url) as sink, LanceIndex(url) as index:
        sink.open(MANIFEST)
        index.open()
        equal_counts(sink, index)
        assert repr(index.facets(["w"])) == "{'w': [(7, 2), ('b', 1)]}"  # as it is shown: not 7.0
        monkeypatch.setattr(lance.fields, "MOST_VALUES", 5)
        with pytest.raises(UsageError, match="too many"):
            index.facets(["v"])
