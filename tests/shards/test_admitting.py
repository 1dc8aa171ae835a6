"""Embed threads wait until the part has room for what they embed: never for ever, whatever becomes of the run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.core.errors import ModelError, PenstockError, Rejected, SinkError, Transient
from penstock.core.records import Chunk, Dense, Point
from penstock.core.schema import VectorSpec, single
from penstock.engine.channel import Broken
from penstock.shards import verify
from penstock.shards.accounts import Accounts
from penstock.shards.folder import Folder
from penstock.shards.images import Whole
from penstock.shards.leases import LeaseLost
from penstock.shards.store import Bucket, at
from penstock.shards.writer import Writer

from .world import PixelEmbedder, embedded, everything, pictures, uris

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    folder = Folder.begin(at(tmp_path / "out"), single(VectorSpec("m", 2, "f"), Whole.spec), 1, "list")
    accounts = Accounts()
    writer = Writer(folder, 1, 1, 8, accounts)
    yield writer
    writer.close()
    accounts.close()


def points(*numbers: int, values: Any = (1.0, 2.0)) -> list[Point]:
    return [Point(Chunk(f"{n:032}", f"doc:{n}", 0, "", (0, 0)), {"vector": Dense(np.asarray(values))}) for n in numbers]


class Admission:
    """A thread that asks for room."""

    def __init__(self, writer: Writer, count: int) -> None:
        self.error: BaseException | None = None
        self._writer, self._count = writer, count
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def _ask(self) -> None:
        try:
            self._writer.admit(self._count)
        except BaseException as error:
            self.error = error

    def waits(self) -> bool:
        self._thread.join(0.1)
        return self._thread.is_alive()

    def ends(self) -> bool:
        self._thread.join(10)
        return not self._thread.is_alive()


def test_added_rows_make_room(writer: Writer, tmp_path: Path) -> None:
    """They are cut into a part then, by the thread that needs the room."""
    writer.admit(8)
    second = Admission(writer, 4)
    assert second.waits()
    writer.add(points(*range(8)))
    assert second.ends()
    assert [len(part.table) for part in everything(tmp_path / "out")] == [8]


def test_withdrawn_rows_make_room(writer: Writer, tmp_path: Path) -> None:
    """The model could not embed them."""
    writer.admit(8)
    second = Admission(writer, 4)
    assert second.waits()
    writer.withdraw(4)
    assert second.ends()
    assert everything(tmp_path / "out") == []


def test_refused_rows_make_room(writer: Writer) -> None:
    """Whatever is wrong with their vectors; the others are in the part."""
    writer.admit(8)
    second = Admission(writer, 8)
    writer.add(points(0, 1))
    assert second.waits()
    with pytest.raises(Rejected, match="NaN"):
        writer.add([*points(2), *points(3, 4, values=(float("nan"), 1.0))])
    with pytest.raises(Rejected, match="could not convert string"):
        writer.add(points(5, 6, 7, values=("a", "b")))
    assert second.ends()
    assert writer.parts[0].rows == 2


def test_a_batch_larger_than_a_part_passes_alone(writer: Writer, tmp_path: Path) -> None:
    """When nothing else is on its way; and the part is as large as it is."""
    writer.admit(3)
    large = Admission(writer, 20)
    assert large.waits()
    writer.add(points(0, 1, 2))
    assert large.ends()
    after = Admission(writer, 1)
    assert after.waits()
    writer.add(points(*range(3, 23)))
    assert after.ends()
    assert [len(part.table) for part in everything(tmp_path / "out")] == [3, 20]


def test_no_thread_waits_in_a_failed_flow(writer: Writer) -> None:
    """What was admitted may never come."""
    writer.admit(8)
    waiting = [Admission(writer, 4), Admission(writer, 8)]
    assert all(one.waits() for one in waiting)
    writer.release()
    assert all(one.ends() for one in waiting)
    assert all(isinstance(one.error, Broken) for one in waiting)
    with pytest.raises(Broken):
        writer.admit(1)
    writer.flush()


def test_a_finished_part_is_put_first(writer: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store is away when room is to be made: the same rows are in one part afterwards, once."""
    writer.admit(8)
    writer.add(points(*range(8)))
    with monkeypatch.context() as patch:
        patch.setattr(type(writer._folder.store), "put", _away)
        with pytest.raises(Transient):
            writer.admit(4)
    writer.admit(4)
    writer.add(points(*range(8, 12)))
    writer.flush()
    assert [len(part.table) for part in everything(tmp_path / "out")] == [8, 4]


def _away(self: Any, name: str, data: bytes) -> None:
    raise Transient("away")


# ---------------------------------------------------------------- in a flow


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("rows", [1, 2, 3, 7])
def test_parts_of_a_few_rows(rows: int, workers: int, tmp_path: Path) -> None:
    """More threads than rows in a part, a part a row: every image is in one."""
    source = pictures(tmp_path / "in", 15)
    assert embedded(source, tmp_path / "out", rows=rows, model=PixelEmbedder(workers=workers)).ok
    assert len(uris(tmp_path / "out")) == 15
    assert all(len(part.table) <= rows for part in everything(tmp_path / "out"))
    assert verify(tmp_path / "out").ok


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Returns once so many threads have asked for room and have not got it."""
    asking = 0
    changed = threading.Condition()
    admit = Writer.admit

    def watched(self: Writer, count: int) -> None:
        nonlocal asking
        with changed:
            asking += 1
            changed.notify_all()
        try:
            admit(self, count)
        finally:
            with changed:
                asking -= 1

    def wait(count: int) -> None:
        with changed:
            assert changed.wait_for(lambda: asking == count, 30)
        time.sleep(0.05)  # so that they wait by now

    monkeypatch.setattr(Writer, "admit", watched)
    return wait


@pytest.mark.parametrize("error", [SinkError("no space"), LeaseLost("taken over"), RuntimeError("a mistake")])
def test_threads_that_wait_end_when_rows_cannot_be_added(
    error: Exception, waiting: Callable[[int], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run says why, and the next one embeds the rest; a lost lease is no error, and taken again here."""
    source = pictures(tmp_path / "in", 40)
    add, first = Writer.add, threading.Event()

    def failing(self: Writer, points: Any) -> None:
        if first.is_set():
            return add(self, points)
        waiting(2)
        first.set()
        raise error

    monkeypatch.setattr(Writer, "add", failing)
    if isinstance(error, LeaseLost):
        assert embedded(source, tmp_path / "out", rows=2).lost == 1
    else:
        with pytest.raises(PenstockError, match=str(error)):
            embedded(source, tmp_path / "out", rows=2)
        assert embedded(source, tmp_path / "out", rows=2).ok
    assert len(uris(tmp_path / "out")) == 40


def test_threads_that_wait_end_when_the_model_fails(
    waiting: Callable[[int], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another thread; what that one was to embed never comes, and what waits to be written is dropped."""
    source = pictures(tmp_path / "in", 40)
    failed = threading.Event()
    turn = threading.Lock()

    class Falling(PixelEmbedder):
        def embed(self, chunks: Any) -> list[Dense]:
            if turn.acquire(blocking=False):
                waiting(1)
                failed.set()
                raise ModelError("the device is gone")
            return super().embed(chunks)

    def blocked(self: Writer, points: Any) -> None:
        failed.wait(30)
        raise Broken("points")

    monkeypatch.setattr(Writer, "add", blocked)
    with pytest.raises(PenstockError, match="the device is gone"):
        embedded(source, tmp_path / "out", rows=2, model=Falling())


def test_a_stop_reaches_threads_that_wait(
    waiting: Callable[[int], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in flight lands in a part; the threads that waited for it embed nothing more."""
    source, log = pictures(tmp_path / "in", 40), tmp_path / "log"
    pressed, stopped = threading.Event(), threading.Event()
    add = Writer.add

    def slow(self: Writer, points: Any) -> None:
        stopped.wait(30)
        add(self, points)

    def progress(now: Any) -> None:
        if now.counts["embedded"] == 2 and not pressed.is_set():
            waiting(2)
            pressed.set()
            threading.Timer(0.5, stopped.set).start()
            raise KeyboardInterrupt

    monkeypatch.setattr(Writer, "add", slow)
    done = embedded(source, tmp_path / "out", log, rows=2, progress=progress)
    assert done.status == "stopped"
    assert len(uris(tmp_path / "out")) == len(log.read_text().splitlines()) == 2


def test_a_store_that_is_away_when_room_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several threads wait for it, and each row is in one part."""
    import fsspec

    source = pictures(tmp_path / "in", 40)
    put, calls = Bucket.put, iter(range(1 << 20))

    def flaky(self: Bucket, name: str, data: bytes) -> None:
        if name.endswith(".parquet") and next(calls) % 2:
            raise Transient("503 Slow Down")
        put(self, name, data)

    monkeypatch.setattr(Bucket, "put", flaky)
    fsspec.filesystem("memory").store.clear()
    assert embedded(source, "memory://bucket/out", rows=6, model=PixelEmbedder(workers=4)).ok
    assert len(uris("memory://bucket/out")) == 40
    assert verify("memory://bucket/out").ok
