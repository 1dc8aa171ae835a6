"""An index that follows its source."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import penstock as ps
from penstock.core.contracts import Embedder, Hints
from penstock.core.errors import PenstockError
from penstock.engine.progress import Report
from penstock.jobs import changes
from penstock.jobs.held import Held
from penstock.ledger import Ledger, failures
from penstock.sources.files.watch import LocalWatch
from penstock.support import inotify
from penstock.testing.embedders import HashingEmbedder
from tests import live
from tests.live import Watched

pytestmark = pytest.mark.skipif(not inotify.available(), reason="there is no inotify on this system")


until = partial(live.until, seconds=30)


class Following(Watched):
    """A pipeline that follows a folder."""

    def __init__(self, folder: Path, model: Embedder | None = None, **options: Any) -> None:
        self.docs = folder / "docs"
        self.docs.mkdir()
        self.state = folder / "ledger.db"
        model = model or HashingEmbedder(16)
        pipeline = ps.Pipeline(self.docs, into=f"sqlite://{folder}/index.db", model=model, state=self.state)
        super().__init__(pipeline, **options)

    def write(self, name: str, text: str) -> None:
        path = self.docs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def texts(self) -> dict[str, str]:
        """Path -> text, of the index."""
        try:
            with ps.open_index(self.pipeline.sink.url, self.pipeline.embedder) as index:
                hits = index.search("text", k=500)
        except PenstockError:  # it is about to be made
            return {}
        return {hit.chunk.uri.removeprefix(f"file://{self.docs}/"): hit.chunk.text for hit in hits}

    def becomes(self, texts: dict[str, str], seconds: float = 30) -> None:
        until(lambda: self.texts() == texts, seconds=seconds, describe=self.texts)

    def held(self) -> Held | None:
        with Ledger.reader(self.state) as ledger:
            return Held.read(ledger)


@pytest.fixture
def following(tmp_path: Path) -> Iterator[Following]:
    one = Following(tmp_path)
    one.write("a.md", "alpha")
    one.write("folder/b.md", "beta")
    with one:
        one.becomes({"a.md": "alpha", "folder/b.md": "beta"})
        yield one


class Opened(HashingEmbedder):
    """It tells whether it is open."""

    is_open = False

    def open(self) -> None:
        self.is_open = True


def test_after_a_restart_the_model_is_open_before_the_first_change(tmp_path: Path) -> None:
    model = Opened(16)
    with Following(tmp_path, model=model) as one:
        one.write("a.md", "alpha")
        one.becomes({"a.md": "alpha"})
    model.is_open = False
    with one:
        until(lambda: model.is_open)
    assert isinstance(one.report, Report)
    assert one.report.unchanged == 1
    assert one.report.embedded == 0


class Stuck(HashingEmbedder):
    """To open it takes for ever once it is `stuck`; it tells whether it was closed meanwhile."""

    def __init__(self) -> None:
        super().__init__(16)
        self.let_go, self.opening = threading.Event(), threading.Event()
        self.stuck = self.closed_under = False

    def open(self) -> None:
        if self.stuck:
            self.opening.set()
            self.let_go.wait(60)
            self.opening.clear()

    def close(self) -> None:
        self.closed_under |= self.opening.is_set()


def test_a_run_ends_though_a_model_is_opened_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.jobs.session.GRACE", 0.1)
    model = Stuck()
    with Following(tmp_path, model=model) as one:
        one.write("a.md", "alpha")
        one.becomes({"a.md": "alpha"})
    model.stuck = True
    with one:
        until(model.opening.is_set)
    model.let_go.set()
    assert not model.closed_under


def test_what_changes_is_followed(following: Following) -> None:
    following.write("c.md", "gamma")
    following.becomes({"a.md": "alpha", "folder/b.md": "beta", "c.md": "gamma"})
    following.write("a.md", "another alpha")
    following.becomes({"a.md": "another alpha", "folder/b.md": "beta", "c.md": "gamma"})
    (following.docs / "c.md").unlink()
    following.becomes({"a.md": "another alpha", "folder/b.md": "beta"})
    following.write("new/folder/in/folders/d.md", "delta")
    following.write(os.fsdecode(b"caf\xe9.md"), "not UTF-8")
    texts = {"a.md": "another alpha", "folder/b.md": "beta", "new/folder/in/folders/d.md": "delta"}
    following.becomes({**texts, "caf%E9.md": "not UTF-8"})


def test_a_folder_that_is_renamed_stays_searchable_and_is_not_embedded(following: Following) -> None:
    for n in range(40):
        following.write(f"many/{n}.md", f"text number {n}")
    until(lambda: len(following.texts()) == 42)
    absent = threading.Event()
    watching = threading.Event()

    def look() -> None:
        while not watching.is_set():
            if len({text for text in following.texts().values() if text.startswith("text")}) < 40:
                absent.set()

    looker = threading.Thread(target=look)
    looker.start()
    (following.docs / "many").rename(following.docs / "others")
    until(lambda: sum(uri.startswith("others/") for uri in following.texts()) == 40)
    until(lambda: len(following.texts()) == 42)
    watching.set()
    looker.join()
    assert not absent.is_set()
    following.__exit__()
    assert isinstance(following.report, Report)
    assert following.report.embedded == 42
    assert following.report.moved == 40
    following.__enter__()


def test_what_is_not_heard_is_found_by_the_next_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalWatch, "wait", lambda self, seconds: time.sleep(seconds) or Hints(frozenset(), False))
    one = Following(tmp_path, every=0.3)
    one.write("a.md", "alpha")
    with one:
        one.becomes({"a.md": "alpha"})
        one.write("b.md", "beta")
        (one.docs / "a.md").unlink()
        one.becomes({"b.md": "beta"})


def test_a_doubt_is_settled_by_a_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the system could not keep up."""
    overflow = threading.Event()

    def wait(self: LocalWatch, seconds: float) -> Hints:
        time.sleep(0.01)
        doubt = overflow.is_set()
        overflow.clear()
        return Hints(frozenset(), doubt)

    monkeypatch.setattr(LocalWatch, "wait", wait)
    monkeypatch.setattr(changes, "DOUBT", 0.05)
    one = Following(tmp_path)
    one.write("a.md", "alpha")
    with one:
        one.becomes({"a.md": "alpha"})
        one.write("b.md", "beta")
        overflow.set()
        one.becomes({"a.md": "alpha", "b.md": "beta"})


@pytest.mark.parametrize("heard", [True, False])
def test_a_mass_deletion_is_held_until_it_is_approved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heard: bool
) -> None:
    """And everything else goes on."""
    if not heard:
        monkeypatch.setattr(LocalWatch, "wait", lambda self, seconds: time.sleep(seconds) or Hints(frozenset(), False))
    monkeypatch.setattr(changes, "DOUBT", 0.05)
    one = Following(tmp_path, every=600.0 if heard else 0.5)
    texts = {f"{n}.md": f"text {n}" for n in range(10)}
    for name, text in texts.items():
        one.write(name, text)
    with one:
        one.becomes(texts)
        for n in range(1, 10):
            (one.docs / f"{n}.md").unlink()
        until(lambda: one.held() is not None)
        one.write("more.md", "goes on")
        until(lambda: "more.md" in one.texts())
        held = one.held()
        assert held is not None
        assert held.documents >= 4
        assert len(one.texts()) >= 6  # at most half may go without being asked
        with Ledger.reader(one.state) as ledger:
            held.approve(ledger)
        one.becomes({"0.md": "text 0", "more.md": "goes on"})
        until(lambda: one.held() is None)


def test_a_root_that_goes_away_empties_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "FIRST_PAUSE", 0.1)
    monkeypatch.setattr("penstock.sources.files.watch.RETURN", 0.1)
    one = Following(tmp_path)
    one.write("a.md", "alpha")
    with one:
        one.becomes({"a.md": "alpha"})
        away = tmp_path / "away"
        one.docs.rename(away)
        time.sleep(1.5)
        assert one.texts() == {"a.md": "alpha"}
        (away / "b.md").write_text("beta")
        away.rename(one.docs)
        one.becomes({"a.md": "alpha", "b.md": "beta"})
        one.write("c.md", "gamma")  # it is heard again
        one.becomes({"a.md": "alpha", "b.md": "beta", "c.md": "gamma"}, 10)


def test_what_failed_for_a_while_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "FIRST_TRY", 0.2)
    from penstock.sources.files import local

    opened = local._open_regular
    away = threading.Event()

    def unreadable(path: str, flags: int) -> int:
        if path.endswith("b.md") and not away.is_set():
            raise OSError(5, "Input/output error")
        return opened(path, flags)

    monkeypatch.setattr(local, "_open_regular", unreadable)
    one = Following(tmp_path)
    one.write("a.md", "alpha")
    one.write("b.md", "beta")

    def attempts() -> int:
        if not one.state.exists():
            return 0
        with Ledger.reader(one.state) as ledger:
            return max((failure.attempts for failure in ledger.failures()), default=0)

    with one:
        one.becomes({"a.md": "alpha"})
        until(lambda: attempts() >= 2)
        away.set()
        one.becomes({"a.md": "alpha", "b.md": "beta"})
        until(lambda: attempts() == 0)


def test_a_file_that_is_being_written_ends_right(following: Following) -> None:
    with (following.docs / "log.txt").open("w") as stream:
        for n in range(5):
            stream.write(f"line {n}\n")
            stream.flush()
            time.sleep(0.1)
        until(lambda: "log.txt" in following.texts())  # while it is still open
        stream.write("the end\n")
    until(lambda: following.texts().get("log.txt", "").endswith("the end"))


def test_another_generation_is_followed(following: Following) -> None:
    """Built beside the run, and switched to: what comes afterwards is in that one."""
    other = ps.Pipeline(
        following.docs,
        into=following.pipeline.sink.url,
        model=HashingEmbedder(16),
        chunk="500 characters",
        state=following.state,
    )
    following.pipeline._components.chunk = "500 characters"  # as a changed penstock.toml would say
    assert other.reindex().switched
    until(lambda: "a.md" in following.texts())
    following.write("after.md", "the switch")
    until(lambda: following.texts().get("after.md") == "the switch", describe=following.texts)
    with ps.open_index(following.pipeline.sink.url, following.pipeline.embedder) as index:
        assert index.manifest.schema.chunking == "500 characters"


def test_a_watch_that_fails_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is never deaf without a word: what it may have missed is listed, and then it hears again."""
    monkeypatch.setattr(changes, "FIRST_PAUSE", 0.1)
    monkeypatch.setattr(changes, "DOUBT", 0.05)
    wait, broken = LocalWatch.wait, threading.Event()

    def breaks(self: LocalWatch, seconds: float) -> Hints:
        if broken.is_set():
            broken.clear()
            raise OSError(5, "Input/output error")
        return wait(self, seconds)

    monkeypatch.setattr(LocalWatch, "wait", breaks)
    one = Following(tmp_path)
    one.write("a.md", "alpha")
    with one:
        one.becomes({"a.md": "alpha"})
        broken.set()
        until(lambda: not broken.is_set())
        one.write("b.md", "beta")
        one.becomes({"a.md": "alpha", "b.md": "beta"})
        time.sleep(1.0)
        one.write("c.md", "gamma")
        one.becomes({"a.md": "alpha", "b.md": "beta", "c.md": "gamma"}, 10)
