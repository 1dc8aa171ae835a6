"""`delta://` keeps the promises of a sink, and leaves tables that other engines read."""

from __future__ import annotations

import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.core.contracts import Sink
from penstock.core.errors import MissingExtra, SinkError, SpaceMismatch, Transient
from penstock.core.records import MultiVector
from penstock.core.schema import Manifest, VectorSpec, single
from penstock.sinks.delta import DeltaSink, files
from penstock.sinks.delta import sink as delta
from penstock.testing.sink_suite import DIM, MakeSink, SinkSuite, holds, point, write_and_flush

deltalake = pytest.importorskip("deltalake")


class TestDelta(SinkSuite):
    @pytest.fixture
    def make_sink(self, tmp_path: Path) -> MakeSink:
        return lambda: DeltaSink(f"delta://{tmp_path}/la ke/chunks#é%zz")


class TestDeltaMultiVector(TestDelta):
    kind = MultiVector


class TestInSmallCommits(TestDelta):
    """The same where a commit is due after a few rows, and files are put together all the time."""

    @pytest.fixture(autouse=True)
    def _small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(files, "PENDING_IDS", 7)
        monkeypatch.setattr(files, "GROUP_ROWS", 3)
        monkeypatch.setattr(files, "PART_ROWS", 8)
        monkeypatch.setattr(delta, "PART_ROWS", 8)
        monkeypatch.setattr(delta, "SMALL_PARTS", 2)

    test_pages_of_many = None
    test_the_largest_batch = None


MANIFEST = TestDelta().manifest


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[Sink]:
    with DeltaSink(f"delta://{tmp_path}/chunks") as sink:
        sink.open(MANIFEST)
        yield sink


def read(where: Path | str, version: int | None = None) -> dict[str, str]:
    """Id and text of each row, as DataFusion reads them; an id with two rows is an error."""
    import pyarrow as pa

    table = pa.table(deltalake.DeltaTable(where, version=version).scan(columns=["id", "text"]))
    found = dict(zip(table.column("id").to_pylist(), table.column("text").to_pylist(), strict=True))
    assert len(found) == len(table), "an id has two rows"
    return found


def texts(*points: Any) -> dict[str, str]:
    return {p.id: p.chunk.text for p in points}


def test_other_engines_read_whole_versions(sink: Sink, tmp_path: Path) -> None:
    """Nothing of a flush is seen before it, all of it after it, deletions included; and each is one commit."""
    folder = tmp_path / "chunks"
    old = [point(n, page=n) for n in range(10)]
    sink.write(old)
    assert read(folder) == {}
    sink.flush()
    assert read(folder) == texts(*old)
    new = [point(n, version=1) for n in range(5, 12)]
    sink.write(new)
    sink.delete([old[0].id])
    assert read(folder) == texts(*old)
    before = deltalake.DeltaTable(folder).version()
    sink.flush()
    assert read(folder) == texts(*old[1:5], *new)
    assert deltalake.DeltaTable(folder).version() == before + 1


def test_vectors_are_lists_of_floats(sink: Sink, tmp_path: Path) -> None:
    """Every column is one that any reader knows, and the vector comes back by another engine to the bit."""
    import pyarrow as pa

    sink.write([point(1, image=b"x", page=7)])
    sink.flush()
    table = pa.table(deltalake.DeltaTable(tmp_path / "chunks").scan())
    assert table.schema.field("vector").type.value_type == pa.float32()
    assert table.column("vector").to_pylist() == [point(1).vectors["vector"].values.tolist()]
    assert table.column("page").to_pylist() == [7]
    assert table.column("image").to_pylist() == [b"x"]


def test_old_versions_are_read_after_maintenance(sink: Sink, tmp_path: Path) -> None:
    """A reader of yesterday's version goes on; the newest one has few files, and its log is summed up."""
    folder = tmp_path / "chunks"
    for n in range(10):
        sink.write([point(n), point(0, version=n)])
        sink.flush()
    version = deltalake.DeltaTable(folder).version()
    sink.write([point(n, version=1) for n in range(10)])
    sink.flush()
    sink.maintain()
    assert len(deltalake.DeltaTable(folder).file_uris()) == 1
    assert list((folder / "_delta_log").glob("*.checkpoint.parquet"))
    assert read(folder) == texts(*(point(n, version=1) for n in range(10)))
    assert read(folder, version) == texts(point(0, version=9), *(point(n) for n in range(1, 10)))
    before = deltalake.DeltaTable(folder).version()
    sink.maintain()
    assert deltalake.DeltaTable(folder).version() == before, "nothing was to be done"


def test_files_that_no_version_needs_go_and_those_of_others_stay(sink: Sink, tmp_path: Path) -> None:
    """After the retention. What a kill left is in no version and goes as well, but not what others keep there."""
    folder = tmp_path / "chunks"
    sink.write([point(1)])
    sink.flush()
    torn, theirs = folder / "part-torn.parquet", folder / "more" / "part-0.parquet"
    theirs.parent.mkdir()
    for file in (torn, theirs):
        file.write_bytes(b"PAR1")
        os.utime(file, (0, 0))
    sink.maintain()
    assert torn.exists()
    assert theirs.exists()
    theirs.unlink()
    sink.maintain()
    assert not torn.exists()
    table = deltalake.DeltaTable(folder)
    table.alter.set_table_properties({"delta.deletedFileRetentionDuration": "interval 0 seconds"})
    sink.write([point(1, version=1)])
    sink.flush()
    time.sleep(1.1)
    sink.maintain()
    assert len(list(folder.glob("*.parquet"))) == 1
    holds(sink, [point(1, version=1)])


def test_many_flushes_make_few_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of a point a flush, all day long, without a maintenance in between."""
    monkeypatch.setattr(delta, "SMALL_PARTS", 5)
    with DeltaSink(f"delta://{tmp_path}/chunks") as sink:
        sink.open(MANIFEST)
        for n in range(30):
            sink.write([point(n)])
            sink.flush()
            assert len(deltalake.DeltaTable(tmp_path / "chunks").file_uris()) <= 6
        holds(sink, [point(n) for n in range(30)])


def test_rows_that_wait_for_a_flush_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the limit it is committed, by writes as by deletes."""
    monkeypatch.setattr(files, "PENDING_IDS", 20)
    with DeltaSink(f"delta://{tmp_path}/chunks") as sink:
        sink.open(MANIFEST)
        for n in range(0, 100, 10):
            sink.write([point(m) for m in range(n, n + 10)])
        assert sink.count() == 80
        sink.flush()
        for n in range(0, 100, 10):
            sink.delete([point(m).id for m in range(n, n + 10)])
        assert sink.count() == 20
        holds(sink, [])


def test_a_commit_that_others_came_before_is_repeated(
    sink: Sink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same id was written by another in between: it has one row. Too often: Transient, and nothing is lost."""
    other = DeltaSink(sink.url)
    other.open(MANIFEST)
    look, turns = DeltaSink._holding, 0

    def meanwhile(self: DeltaSink, *args: Any) -> set[str]:
        nonlocal turns
        found = look(self, *args)
        if self is sink and turns > 0:
            turns -= 1
            other.write([point(1, version=turns), point(100 + turns)])
            other.flush()
        return found

    monkeypatch.setattr(DeltaSink, "_holding", meanwhile)
    turns = 3
    sink.write([point(1, version=9)])
    sink.flush()
    holds(sink, [point(1, version=9), *(point(100 + n) for n in range(3))])
    turns = 1000
    monkeypatch.setattr(delta, "COMMITS", 3)
    sink.write([point(2)])
    with pytest.raises(Transient, match="others commit"):
        sink.flush()
    turns = 0
    sink.flush()
    assert texts(point(2)).items() <= read(tmp_path / "chunks").items()
    other.close()


def write_forever(sink: Sink) -> None:
    write_and_flush(sink)
    sink.delete([point(n).id for n in range(60, 100)])
    sink.flush()
    print("open", flush=True)
    version = 1
    while True:
        for start in range(0, 60, 20):
            sink.write([point(n, version=version) for n in range(start, start + 20)])
            sink.flush()
        if version % 4 == 3:
            sink.maintain()
        version += 1


def test_killed_anywhere(tmp_path: Path) -> None:
    """Every version is readable and holds each id once, whenever the writer died; the next run puts it right."""
    folder = tmp_path / "chunks"
    suite, make = TestDelta(), DeltaSink(f"delta://{folder}")
    for turn in range(5):
        code = "import pickle,sys;s,m,task=pickle.load(sys.stdin.buffer);s.open(m);task(s)"
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env
        ) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write(pickle.dumps((make, suite.manifest, write_forever)))
            child.stdin.close()
            assert child.stdout.readline() == b"open\n"
            time.sleep(0.25 + 0.083 * turn)
            child.send_signal(signal.SIGKILL)
        newest = deltalake.DeltaTable(folder).version()
        assert newest > 0
        for version in (newest, newest - 1):
            assert read(folder, version).keys() <= {point(n).id for n in range(60)}
    with DeltaSink(f"delta://{folder}") as sink:
        sink.open(suite.manifest)
        sink.write([point(n) for n in range(60)])
        holds(sink, [point(n) for n in range(60)])


# ------------------------------------------------------------ refusals


def test_tables_of_others_are_not_written_to(tmp_path: Path) -> None:
    """Neither a Delta table without our manifest nor a folder with something in it; and they are not dropped."""
    import pyarrow as pa

    deltalake.write_deltalake(tmp_path / "sales", pa.table({"id": ["a"]}))
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "part-0.parquet").write_bytes(b"PAR1")
    for name, why in (("sales", "is a Delta table that is not Penstock's"), ("papers", "files that are not")):
        with DeltaSink(f"delta://{tmp_path}/{name}") as sink:
            assert sink.manifest() is None
            with pytest.raises(SinkError, match=why):
                sink.open(MANIFEST)
            sink.drop()
    assert deltalake.DeltaTable(tmp_path / "sales").version() == 0
    assert os.listdir(tmp_path / "papers") == ["part-0.parquet"]


def test_columns_of_others_are_not_lost(sink: Sink, tmp_path: Path) -> None:
    """A table with another column is refused: a file that is rewritten would lose it."""
    table = deltalake.DeltaTable(tmp_path / "chunks")
    table.alter.add_columns([deltalake.Field("mine", deltalake.schema.PrimitiveType("string"))])
    sink.write([point(1)])
    with pytest.raises(SinkError, match="other columns"):
        sink.flush()


def test_a_table_that_was_replaced_is_an_error(sink: Sink) -> None:
    """Dropped while it is written to, or dropped and created in another space, it gets no rows of the old one."""
    sink.write([point(1)])
    DeltaSink(sink.url).drop()
    with pytest.raises(SinkError, match="is gone"):
        sink.flush()
    with DeltaSink(sink.url) as other:
        other.open(Manifest(single(VectorSpec("another", DIM, "e" * 32))))
        with pytest.raises(SpaceMismatch):
            sink.flush()


def test_a_missing_driver_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the line that installs it."""
    monkeypatch.setitem(sys.modules, "deltalake", None)
    monkeypatch.setitem(sys.modules, "deltalake.exceptions", None)
    with pytest.raises(MissingExtra, match=r'pip install "penstock\[delta\]"'):
        DeltaSink(f"delta://{tmp_path}/x").open(MANIFEST)


def test_no_folder_can_be_there(tmp_path: Path) -> None:
    """A file where a folder should be: one line."""
    (tmp_path / "file").touch()
    with pytest.raises(SinkError, match="cannot be written to"):
        DeltaSink(f"delta://{tmp_path}/file/chunks").open(MANIFEST)


def write_more_than_fits(sink: Sink) -> None:
    sink.write([point(1)])
    sink.flush()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    for attempt in range(2):
        try:
            if attempt == 0:
                sink.write([point(n, text=os.urandom(500).hex()) for n in range(2, 60)])
            sink.flush()
        except SinkError as error:
            print(type(error).__name__, error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    sink.flush()
    print(sink.count())


def test_a_full_disk_is_an_error_and_loses_nothing(tmp_path: Path) -> None:
    """One line that names the table; it is as it was, and takes all of it once there is room again."""
    done = TestDelta().in_another_process(DeltaSink(f"delta://{tmp_path}/chunks"), write_more_than_fits)
    lines = done.stdout.decode().splitlines()
    assert [line.split()[0] for line in lines] == ["SinkError", "SinkError", "59"], done.stderr.decode()
    assert str(tmp_path) in lines[0]
    assert "too large" in lines[0]


# ------------------------------------------------------------ object stores


def streamed(folder: Path) -> list[int]:
    """The rows that each commit adds for streams of the table, as Spark counts them: files that change data."""
    counts = []
    for log in sorted((folder / "_delta_log").glob("*.json")):
        actions = [json.loads(line) for line in log.read_text().splitlines()]
        adds = [action["add"] for action in actions if action.get("add", {}).get("dataChange")]
        counts.append(sum(json.loads(add["stats"])["numRecords"] for add in adds))
    return counts


def test_streams_of_the_table_see_each_row_once(sink: Sink, tmp_path: Path) -> None:
    """Compaction is a commit of its own and says that it changes no data: 30 rows are 30, not 60."""
    for n in range(30):
        sink.write([point(n)])
        sink.flush()
    sink.maintain()
    folder = tmp_path / "chunks"
    assert len(deltalake.DeltaTable(folder).file_uris()) == 1
    assert streamed(folder) == [0] + [1] * 30 + [0]
    assert read(folder) == texts(*(point(n) for n in range(30)))
    removed = [
        action["remove"]["dataChange"]
        for action in map(json.loads, sorted((folder / "_delta_log").glob("*.json"))[-1].read_text().splitlines())
        if "remove" in action
    ]
    assert removed == [False] * 30


def test_streams_see_each_row_once_while_a_run_compacts(
    sink: Sink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """During a run as well: with small files put together by the way, each commit that changes data has its rows."""
    monkeypatch.setattr(delta, "SMALL_PARTS", 3)
    for n in range(10):
        sink.write([point(n)])
        sink.flush()
    folder = tmp_path / "chunks"
    assert sum(streamed(folder)) == 10
    assert len(deltalake.DeltaTable(folder).file_uris()) <= 4
    assert read(folder) == texts(*(point(n) for n in range(10)))


def test_compaction_that_is_overtaken_is_left_to_the_next(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was flushed is acknowledged, though others commit before every try to put files together."""
    from deltalake.exceptions import CommitFailedError

    def overtaken(*_: object) -> None:
        raise CommitFailedError("others came before")

    monkeypatch.setattr(DeltaSink, "_compact", overtaken)
    monkeypatch.setattr(delta, "COMMITS", 2)
    sink.write([point(1)])
    holds(sink, [point(1)])
