"""`parquet://` keeps the promises of a sink, and leaves files that other tools read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from penstock.core.contracts import Sink
from penstock.core.errors import SinkError
from penstock.core.records import MultiVector
from penstock.sinks import parquet
from penstock.sinks.parquet import ParquetSink
from penstock.testing.sink_suite import MakeSink, SinkSuite, holds, point


class TestParquet(SinkSuite):
    several_writers = False

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
    """Before maintenance an overwritten point is there twice, afterwards once; deleted ones are gone."""
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
        patch.setattr(parquet.manifests, "sync", dying)
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
    """A folder with Parquet files and no manifest is somebody else's."""
    (tmp_path / "sales.parquet").write_bytes(b"PAR1")
    with ParquetSink(f"parquet://{tmp_path}") as sink, pytest.raises(SinkError, match="not Penstock's"):
        sink.open(TestParquet().manifest)


def test_a_second_writer_is_told(tmp_path: Path) -> None:
    """Both would number their parts alike. A reader is no trouble, and what is being written survives it."""
    url = f"parquet://{tmp_path}/parts"
    manifest = TestParquet().manifest
    with ParquetSink(url) as one, ParquetSink(url) as other:
        one.open(manifest)
        one.write([point(1)])
        other.open(manifest)
        assert other.count() == 0
        for write in (lambda: other.write([point(2)]), lambda: other.delete(["x"]), other.maintain):
            with pytest.raises(SinkError, match=f"being written to by process {os.getpid()}"):
                write()
        one.flush()
        assert other.count() == 1
        one.close()
        other.write([point(2)])
        holds(other, [point(1), point(2)])
