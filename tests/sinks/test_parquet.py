"""`parquet://` keeps the promises of a sink, and leaves files that other tools read."""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest

from penstock.core.contracts import Sink
from penstock.core.errors import SinkError, SinkUnavailable, Transient
from penstock.core.records import MultiVector
from penstock.sinks.parquet import ParquetSink
from penstock.sinks.parquet import files as parquet
from penstock.sinks.parquet import sink as sinks
from penstock.testing.sink_suite import MakeSink, SinkSuite, holds, point


class TestParquet(SinkSuite):
    @pytest.fixture
    def make_sink(self, tmp_path: Path) -> MakeSink:
        return lambda: ParquetSink(f"parquet://{tmp_path}/fol der")


class TestParquetMultiVector(TestParquet):
    kind = MultiVector


class TestInManyPasses(TestParquet):
    """The same where rows are found in several passes and parts are small."""

    @pytest.fixture(autouse=True)
    def _small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(parquet, "IDS_AT_ONCE", 7)
        monkeypatch.setattr(parquet, "IDS_HELD", 11)
        monkeypatch.setattr(parquet, "PART_ROWS", 8)
        monkeypatch.setattr(parquet, "SMALL_PARTS", 1)

    test_pages_of_many = None  # 5,000 points in 700 passes prove no more
    test_the_largest_batch = None


@pytest.fixture
def sink(tmp_path: Path) -> Sink:
    sink = ParquetSink(f"parquet://{tmp_path}")
    sink.open(TestParquet().manifest)
    return sink


def read(folder: Path) -> list[str]:
    """The ids as another tool sees them."""
    import pyarrow.parquet as pq

    return [id for file in sorted(folder.glob("*.parquet")) for id in pq.read_table(file).column("id").to_pylist()]


def test_other_tools_read_clean_files_after_a_run(sink: Sink, tmp_path: Path) -> None:
    """Before maintenance an overwritten point has two rows, afterwards one; deleted points have none."""
    sink.write([point(n) for n in range(10)])
    sink.flush()
    sink.write([point(n, version=1) for n in range(5)])
    sink.delete([point(9).id])
    sink.flush()
    assert len(read(tmp_path)) == 15
    sink.maintain()
    assert sorted(read(tmp_path)) == [point(n).id for n in range(9)]
    assert not list(tmp_path.glob("*.gone"))
    sink.close()


def test_small_parts_are_put_together(sink: Sink, tmp_path: Path) -> None:
    """A flush a batch makes a part a batch; the end of a run makes few of many."""
    for n in range(20):
        sink.write([point(n)])
        sink.flush()
    sink.maintain()
    assert len(list(tmp_path.glob("*.parquet"))) == 1
    holds(sink, [point(n) for n in range(20)])
    sink.close()


@pytest.mark.parametrize("at", range(1, 9))
def test_maintenance_may_die_anywhere(sink: Sink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Killed at any step that touches the folder, the index is as it was, and the next one finishes the job."""
    for n in range(10):
        sink.write([point(n), point(n + 1, version=1)])
        sink.flush()
    sink.delete([point(3).id])
    sink.flush()
    wanted = [point(n) for n in range(10) if n != 3] + [point(10, version=1)]
    holds(sink, wanted)
    steps = 0

    def dying(*_: object) -> None:
        nonlocal steps
        steps += 1
        if steps == at:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(parquet.durable, "sync", dying)
        with pytest.raises(KeyboardInterrupt):
            sink.maintain()
    sink.close()
    again = ParquetSink(f"parquet://{tmp_path}")
    again.open(TestParquet().manifest)
    holds(again, wanted)
    again.maintain()
    holds(again, wanted)
    assert len(read(tmp_path)) == len(wanted)
    again.close()


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    """A folder with Parquet files and no manifest is not Penstock's."""
    (tmp_path / "sales.parquet").write_bytes(b"PAR1")
    with ParquetSink(f"parquet://{tmp_path}") as sink, pytest.raises(SinkError, match="not Penstock's"):
        sink.open(TestParquet().manifest)


def test_a_second_writer_waits_for_a_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pipelines fill one index by turns. What the first had not flushed is not lost, nor overtaken."""
    monkeypatch.setattr(sinks, "TURN", 30.0)
    url = f"parquet://{tmp_path}/parts"
    with ParquetSink(url) as one, ParquetSink(url) as other, ThreadPoolExecutor(1) as thread:
        one.open(TestParquet().manifest)
        one.write([point(1)])
        other.open(TestParquet().manifest)
        writing = thread.submit(other.write, [point(2)])
        with pytest.raises(TimeoutError):
            writing.result(timeout=0.2)
        one.flush()
        writing.result(timeout=20)
        other.flush()
        one.write([point(3)])
        one.flush()
        holds(other, [point(1), point(2), point(3)])


def test_a_second_writer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both would number their parts alike. A reader is no trouble, and what is being written survives it. It is for
    now: the engine tries again."""
    monkeypatch.setattr(sinks, "TURN", 0.0)
    url = f"parquet://{tmp_path}/parts"
    manifest = TestParquet().manifest
    with ParquetSink(url) as one, ParquetSink(url) as other:
        one.open(manifest)
        one.write([point(1)])
        other.open(manifest)
        assert other.count() == 0
        for write in (lambda: other.write([point(2)]), lambda: other.delete(["x"]), other.maintain):
            with pytest.raises(SinkUnavailable, match=f"being written to by process {os.getpid()}"):
                write()
        one.flush()
        assert other.count() == 1
        one.close()
        other.write([point(2)])
        holds(other, [point(1), point(2)])


def test_a_part_that_was_removed_is_no_success(sink: Sink, tmp_path: Path) -> None:
    """A cleaner took the file being written: no flush says that its rows are safe, however often it is tried."""
    sink.write([point(n) for n in range(5)])
    (torn,) = tmp_path.glob(".part-*.tmp")
    torn.unlink()
    for _ in range(2):
        with pytest.raises(SinkError, match="was removed") as raised:
            sink.flush()
        assert not isinstance(raised.value, Transient)
    with pytest.raises(SinkError, match="was removed"):
        sink.write([point(5)])
    sink.close()
    sink.open(TestParquet().manifest)
    sink.write([point(n) for n in range(5)])
    holds(sink, [point(n) for n in range(5)])
    sink.close()


@pytest.mark.parametrize("step", ["fsync", "replace", "sync"])
def test_a_flush_that_failed_goes_on_where_it_was(sink: Sink, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Each step may fail once, as a busy disk does: tried again, the flush keeps rows and deletions, or fails."""
    sink.write([point(n) for n in range(5)])
    sink.flush()
    sink.write([point(n, version=1) for n in range(3)])
    sink.delete([point(4).id])
    failing_once(monkeypatch, step)
    with pytest.raises(SinkError):
        sink.flush()
    if step == "fsync":  # it is unknown which of it is on the disk
        with pytest.raises(SinkError):
            sink.flush()
    else:
        holds(sink, [*(point(n, version=1) for n in range(3)), point(3)])
    sink.close()


def failing_once(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    where = parquet.durable if step == "sync" else os
    real, failures = getattr(where, step), [OSError(5, "Input/output error")]

    def call(*args: object) -> object:
        if failures:
            raise failures.pop()
        return real(*args)

    monkeypatch.setattr(where, step, call)


def test_a_full_part_that_cannot_finish_loses_no_rows(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch is written again, as the engine does, and the rows that the part held before are kept."""
    monkeypatch.setattr(parquet, "PART_ROWS", 8)
    sink.write([point(n) for n in range(5)])
    failing_once(monkeypatch, "replace")
    for _ in range(2):
        with contextlib.suppress(SinkError):
            sink.write([point(n) for n in range(5, 10)])
    holds(sink, [point(n) for n in range(10)])
    sink.close()


def test_a_note_that_cannot_be_kept_is_kept_later(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deletions alone: a flush that fails once loses none."""
    sink.write([point(n) for n in range(5)])
    sink.flush()
    sink.delete([point(1).id])
    failing_once(monkeypatch, "replace")
    with pytest.raises(SinkError):
        sink.flush()
    holds(sink, [point(n) for n in (0, 2, 3, 4)])
    sink.close()


def test_rows_after_a_torn_write_are_no_success(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row group that was written in part spoils its file: the flush of the batches before fails as well."""
    sink.write([point(1)])
    with monkeypatch.context() as patch:
        patch.setattr("pyarrow.parquet.ParquetWriter.write", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(SinkError, match="full"):
            sink.write([point(2)])
    with pytest.raises(SinkError, match="written again"):
        sink.flush()
    sink.close()
    sink.open(TestParquet().manifest)
    holds(sink, [])
    sink.close()


def test_a_fetch_reads_few_row_groups(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """One id, one row group of the part, and of the others at most the ids."""
    for n in range(10):
        sink.write([point(i) for i in range(10 * n, 10 * n + 10)])
    sink.flush()
    import pyarrow.parquet as pq

    read: list[int] = []
    real = pq.ParquetFile.read_row_group

    def counting(self: pq.ParquetFile, group: int, columns: object = None, **how: object) -> object:
        if columns != ["id"]:
            read.append(group)
        return real(self, group, columns=columns, **how)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counting)
    (found,) = sink.fetch([point(42).id])
    assert found.chunk == point(42).chunk
    assert read == [4]
    sink.close()


@pytest.mark.parametrize("colliding", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_the_rows_that_count(
    sink: Sink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, colliding: bool
) -> None:
    """Whatever was written, overwritten, deleted and written again, in parts small enough for several passes; also
    where different ids have equal hashes."""
    for name, value in {"IDS_AT_ONCE": 5, "IDS_HELD": 9, "PART_ROWS": 6}.items():
        monkeypatch.setattr(parquet, name, value)
    if colliding:
        monkeypatch.setattr(parquet, "hash", lambda id: int(id[-1], 16) % 3, raising=False)
    choose = Random(seed)
    expected: dict[str, int] = {}
    for _ in range(60):
        numbers = choose.sample(range(40), choose.randint(1, 6))
        if choose.random() < 0.6:
            sink.write([point(n) for n in numbers])
            expected |= {point(n).id: n for n in numbers}
        else:
            sink.delete([point(n).id for n in numbers])
            expected = {id: n for id, n in expected.items() if n not in numbers}
        if choose.random() < 0.5:
            sink.flush()
    sink.flush()
    sink.close()
    with ParquetSink(f"parquet://{tmp_path}") as other:
        other.open(TestParquet().manifest)
        assert other.count() == len(expected)
        assert sorted(id for page in other.ids() for id in page) == sorted(expected)
        ids = [point(n).id for n in range(40)]
        assert sorted(one.id for one in other.fetch(ids)) == sorted(expected)
