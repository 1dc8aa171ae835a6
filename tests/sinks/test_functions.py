"""A sink of two functions: it keeps a sink's promises where the functions do, and says what it cannot do."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock as ps
from penstock.core.errors import SinkError, Transient, UsageError
from penstock.core.records import Dense, MultiVector, Sparse
from penstock.sinks.functions import FunctionSink
from penstock.testing.points import MakeSink, point
from penstock.testing.sink_suite import SinkSuite


def letters(texts: list[str]) -> np.ndarray:
    return np.array([[text.count(letter) + 1 for letter in "etaoin"] for text in texts], np.float32)


class Store:
    """A store with an adapter of its own: upsert and delete by id."""

    def __init__(self) -> None:
        self.points: dict[str, ps.Point] = {}
        self.log: list[str] = []

    def write(self, points: list[ps.Point]) -> None:
        self.log.append(f"write {len(points)}")
        self.points |= {each.id: each for each in points}

    def delete(self, ids: list[str]) -> None:
        self.log.append(f"delete {len(ids)}")
        for id in ids:
            self.points.pop(id, None)

    def fetch(self, ids: list[str]) -> list[ps.Point]:
        return [self.points[id] for id in ids if id in self.points]

    def ids(self) -> list[str]:
        return list(self.points)

    def sink(self, folder: Path, *, readable: bool = False, **options: Any) -> FunctionSink:
        if readable:
            options |= {"fetch": self.fetch, "ids": self.ids}
        return FunctionSink("store", write=self.write, delete=self.delete, manifest=folder / "store.json", **options)


class TestFunctions(SinkSuite):
    shared = False
    generations = False
    several_writers = False

    @pytest.fixture
    def make_sink(self, tmp_path: Path) -> MakeSink:
        store = Store()
        return lambda: store.sink(tmp_path, readable=True)


class TestFunctionsMultiVector(TestFunctions):
    kind = MultiVector


class TestFunctionsSparse(TestFunctions):
    kind = Sparse


def docs(folder: Path) -> Path:
    (folder / "docs").mkdir()
    for name in "abc":
        (folder / "docs" / f"{name}.txt").write_text(f"a text on {name}")
    return folder / "docs"


def texts(store: Store) -> list[str]:
    return sorted(each.text for each in store.points.values())


@pytest.mark.parametrize("readable", [False, True])
def test_a_pipeline_writes_and_deletes_by_functions(tmp_path: Path, readable: bool) -> None:
    store, folder = Store(), docs(tmp_path)
    sink = store.sink(tmp_path, readable=readable, flush=lambda: store.log.append("flush"))
    pipeline = ps.Pipeline(folder, into=sink, model=letters, state=tmp_path / "x.db")
    report = pipeline.run()
    assert report.ok
    assert texts(store) == ["a text on a", "a text on b", "a text on c"]
    assert store.log[-1] == "flush"
    some = next(iter(store.points.values()))
    assert np.array_equal(some.vector, letters([some.text])[0])
    assert some.uri.startswith("file://")
    assert some.metadata["folder"] == str(folder)
    told = [notice for notice in report.notices if "function://store cannot be read back" in notice]
    assert len(told) == (not readable)
    (folder / "a.txt").unlink()
    (folder / "b.txt").rename(folder / "moved.txt")
    again = pipeline.run()
    assert again.ok
    assert not again.notices
    assert texts(store) == ["a text on b", "a text on c"]
    assert {Path(each.uri).name for each in store.points.values()} == {"moved.txt", "c.txt"}
    assert (again.embedded, again.moved) == ((0, 1) if readable else (1, 0))
    assert not pipeline.run().written
    if readable:
        assert pipeline.verify().ok
    else:
        for job in (pipeline.verify, lambda: ps.copy(sink, "memory://elsewhere")):
            with pytest.raises(UsageError, match="function://store cannot be read back"):
                job()


def test_a_crash_between_write_and_acknowledgement_leaves_each_point_once(tmp_path: Path) -> None:
    store, folder = Store(), docs(tmp_path)
    broken = store.sink(tmp_path, flush=_broken)
    with pytest.raises(ps.PenstockError):
        ps.Pipeline(folder, into=broken, model=letters, state=tmp_path / "x.db").run()
    assert len(store.points) == 3
    (folder / "a.txt").unlink()
    assert ps.Pipeline(folder, into=store.sink(tmp_path), model=letters, state=tmp_path / "x.db").run().ok
    assert texts(store) == ["a text on b", "a text on c"]


def _broken() -> None:
    raise OSError("the disk is full")


def test_another_ledger_is_refused_and_a_lost_one_begins_anew(tmp_path: Path) -> None:
    store, folder = Store(), docs(tmp_path)
    sink = store.sink(tmp_path)
    ps.Pipeline(folder, into=sink, model=letters, state=tmp_path / "x.db").run()
    other = ps.Pipeline(folder, into=sink, model=letters, state=tmp_path / "y.db")
    with pytest.raises(ps.PenstockError, match=r"filled by the ledger .*x.db"):
        other.run()
    with pytest.raises(UsageError, match=r"or remove .*store\.json, and the next run writes everything again"):
        other.run(adopt=True)
    (tmp_path / "store.json").unlink()
    assert other.run().written == 3
    with pytest.raises(ps.PenstockError, match="holds"):
        ps.Pipeline(folder, into=sink, model=lambda texts: letters(texts)[:, :2], state=tmp_path / "y.db").run()


def test_the_functions_may_be_async_and_are_asked_again(tmp_path: Path) -> None:
    store, calls = Store(), 0

    async def write(points: list[ps.Point]) -> None:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0)
        if calls == 1:
            raise Transient("busy", retry_after=0.01)
        store.write(points)

    sink = FunctionSink("store", write=write, delete=store.delete, manifest=tmp_path / "store.json")
    assert ps.Pipeline(docs(tmp_path), into=sink, model=letters, state=tmp_path / "x.db").run().ok
    assert len(store.points) == 3


def test_no_id_is_twice_in_one_call(tmp_path: Path) -> None:
    seen: list[list[ps.Point]] = []
    sink = FunctionSink("store", write=seen.append, delete=lambda ids: None, manifest=tmp_path / "store.json")
    sink.open(TestFunctions().manifest)
    sink.write([point(1), point(2), point(1, version=1)])
    assert [(each.id, each.text) for each in seen[0]] == [
        (point(1).id, "text 1, version 1"),
        (point(2).id, "text 2, version 0"),
    ]


def test_the_manifest_lies_where_the_ledgers_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store, folder = Store(), docs(tmp_path)
    sink = FunctionSink("notes", write=store.write, delete=store.delete)
    ps.Pipeline(folder, into=sink, model=letters).run()
    assert (tmp_path / ".penstock" / "notes.json").exists()
    assert list((tmp_path / ".penstock").glob("notes-*.db"))


def test_what_is_no_sink_is_refused() -> None:
    store = Store()
    both: dict[str, Any] = {"write": store.write, "delete": store.delete}
    for name in ("", "../notes", "a/b", ".hidden", "x" * 101):
        with pytest.raises(UsageError, match="invalid name"):
            FunctionSink(name, **both)
    with pytest.raises(UsageError, match="give both, or neither"):
        FunctionSink("store", fetch=store.fetch, **both)
    with pytest.raises(UsageError, match="max_rows"):
        FunctionSink("store", max_rows=0, **both)
    with pytest.raises(SinkError, match="not open"):
        FunctionSink("store", **both).write([point(1)])


def test_the_vector_of_a_point_is_an_array_where_it_has_one() -> None:
    one = point(1)
    assert one.vector is one.vectors["vector"].values
    dense = Dense(one.vector)
    for vectors in ({"a": dense, "b": dense}, dict(point(1, kind=Sparse).vectors)):
        with pytest.raises(TypeError, match=r"Point\.vectors"):
            ps.Point(one.chunk, vectors).vector  # noqa: B018
