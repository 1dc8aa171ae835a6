"""A database, or a ledger, that was restored from a backup is noticed by the next run, and mended."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import penstock as ps
from penstock.core.records import Point
from penstock.testing.embedders import HashingEmbedder


class World:
    """Documents, an index in a folder and its ledger."""

    def __init__(self, folder: Path, store: str) -> None:
        self.folder, self.index = folder, folder / "index"
        self.index.mkdir()
        self.url = f"{store}://{self.index}" + ("/notes.db" if store == "sqlite" else "")
        self.ledger = folder / "state" / "ledger.db"
        self.ledger.parent.mkdir()
        for n in range(20):
            self.write(n)

    def write(self, n: int, text: str = "first") -> None:
        path = self.folder / "docs" / f"{n}.md"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"Note {n}, the {text} version.\n")

    def run(self, team: str = "one", **options: Any) -> ps.Report:
        model, docs = HashingEmbedder(8), self.folder / "docs"
        pipeline = ps.Pipeline(docs, into=self.url, model=model, state=self.ledger, metadata={"team": team})
        return pipeline.run(**options)

    def back_up(self, folder: Path) -> Callable[[], None]:
        """Copy a folder, and return what puts the copy back."""
        copy = folder.with_name(folder.name + ".copy")
        shutil.copytree(folder, copy)

        def restore() -> None:
            shutil.rmtree(folder)
            shutil.copytree(copy, folder)

        return restore

    def points(self) -> dict[str, Point]:
        with ps.Pipeline(self.folder / "docs", into=self.url, model=HashingEmbedder(8), state=self.ledger).sink as sink:
            manifest = sink.manifest()
            assert manifest is not None
            sink.open(manifest)
            points = [point for page in sink.ids() for point in sink.fetch(page)]
            assert len(points) == sink.count()
            return {point.uri.rpartition("/")[2]: point for point in points}

    def names(self) -> set[str]:
        return {path.name for path in (self.folder / "docs").iterdir()}


@pytest.fixture(params=["sqlite", "lance", "parquet"])
def w(tmp_path: Path, request: pytest.FixtureRequest) -> World:
    return World(tmp_path, request.param)


def noticed(report: ps.Report) -> bool:
    return any("not as the last run left it" in notice for notice in report.notices)


def test_an_older_index_gets_what_it_lacks(w: World) -> None:
    """Only what came since then is embedded; what was taken out since then goes once more."""
    w.run()
    restore = w.back_up(w.index)
    for n in range(20, 25):
        w.write(n)
    w.write(0, "second")
    for n in (1, 2):
        (w.folder / "docs" / f"{n}.md").unlink()
    w.run()
    restore()
    report = w.run()
    assert noticed(report)
    assert report.embedded == 6
    points = w.points()
    assert points.keys() == w.names()
    assert "second" in points["0.md"].text
    assert not noticed(again := w.run())
    assert again.embedded == again.written == again.removed == 0


def test_an_index_that_is_only_larger_is_noticed(w: World) -> None:
    """The last run took documents out and wrote nothing: they are back in the restored index."""
    w.run()
    restore = w.back_up(w.index)
    (w.folder / "docs" / "3.md").unlink()
    w.run()
    restore()
    report = w.run()
    assert noticed(report)
    assert report.embedded == 0
    assert w.points().keys() == w.names()


def test_older_metadata_are_noticed(w: World) -> None:
    """As many points under the same ids, with metadata of before: written anew, not embedded."""
    w.run("one")
    restore = w.back_up(w.index)
    w.run("two")
    restore()
    report = w.run("two")
    assert noticed(report)
    assert report.embedded == 0
    assert {point.metadata["team"] for point in w.points().values()} == {"two"}


def test_an_older_ledger_takes_the_index_as_it_is(w: World) -> None:
    """What was indexed since then is neither embedded again nor lost; what has gone from the source meanwhile goes."""
    w.run()
    restore = w.back_up(w.ledger.parent)
    for n in range(20, 26):
        w.write(n)
    w.run()
    (w.folder / "docs" / "20.md").unlink()
    restore()
    report = w.run()
    assert noticed(report)
    assert report.embedded == 0
    assert w.points().keys() == w.names()


def test_points_that_somebody_deleted_come_back(w: World) -> None:
    w.run()
    lost = [point.id for name, point in w.points().items() if name in ("4.md", "5.md")]
    with ps.Pipeline(w.folder / "docs", into=w.url, model=HashingEmbedder(8), state=w.ledger).sink as sink:
        manifest = sink.manifest()
        assert manifest is not None
        sink.open(manifest)
        sink.delete(lost)
        sink.flush()
    report = w.run()
    assert noticed(report)
    assert report.embedded == 2
    assert w.points().keys() == w.names()


def test_an_index_as_it_was_left_is_not_listed(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    w.run()
    sink = type(ps.Pipeline(w.folder / "docs", into=w.url, model=HashingEmbedder(8), state=w.ledger).sink)
    monkeypatch.setattr(sink, "ids", lambda self: pytest.fail("the index is listed"))
    report = w.run()
    assert report.ok
    assert not noticed(report)


def test_a_run_that_failed_meanwhile_hides_nothing(w: World) -> None:
    """The database dies in the middle of a run, and is then restored."""
    w.run()
    restore = w.back_up(w.index)
    for n in range(20, 25):
        w.write(n)
    w.run()
    w.write(25)

    def dies(texts: list[str]) -> Any:
        raise MemoryError

    model = HashingEmbedder(8)
    model.embed = dies  # type: ignore[method-assign, assignment]
    docs, state = w.folder / "docs", w.ledger
    with pytest.raises(ps.PenstockError, match="MemoryError"):
        ps.Pipeline(docs, into=w.url, model=model, state=state, metadata={"team": "one"}).run()
    restore()
    assert noticed(w.run())
    assert w.points().keys() == w.names()


def test_runs_that_change_nothing_leave_the_note(w: World) -> None:
    w.run()
    restore = w.back_up(w.index)
    w.write(20)
    w.run()
    for _ in range(2):
        assert not noticed(w.run())
    restore()
    assert noticed(w.run())
    assert w.points().keys() == w.names()


def test_an_index_in_files_is_not_even_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names and times of its files tell that nothing has changed: a driver takes long to load."""
    w = World(tmp_path, "lance")
    w.run()
    sink = type(ps.Pipeline(w.folder / "docs", into=w.url, model=HashingEmbedder(8), state=w.ledger).sink)
    monkeypatch.setattr(sink, "open", lambda *arguments: pytest.fail("the index is opened"))
    assert w.run().ok
