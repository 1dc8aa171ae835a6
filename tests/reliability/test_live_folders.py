"""Folders that are followed: how programs write files, and what the system does to folders."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from penstock.core.contracts import Watch
from penstock.core.errors import SourceError
from penstock.engine.progress import Report
from penstock.jobs import changes, progress_file
from penstock.ledger import Ledger
from penstock.sources.files import Files, canary, local, watch, writing
from penstock.sources.files.watch import LocalWatch
from penstock.support import inotify
from penstock.support.inotify import Inotify
from tests.reliability.test_live import Following, until
from tests.sources.test_watch import deafen

pytestmark = pytest.mark.skipif(not inotify.available(), reason="there is no inotify on this system")
DOCUMENTS = Path(__file__).parent.parent / "data" / "documents"


@pytest.fixture
def following(tmp_path: Path) -> Iterator[Following]:
    one = Following(tmp_path)
    one.write("a.md", "alpha")
    one.write("sub/b.md", "beta")
    with one:
        one.becomes({"a.md": "alpha", "sub/b.md": "beta"})
        yield one


def in_folder(one: Following) -> dict[str, str]:
    """Path -> text, of the folder."""
    files = [path.relative_to(one.docs) for path in one.docs.rglob("*") if path.is_file()]
    seen = [path for path in files if not any(part.startswith(".") for part in path.parts)]
    return {str(path): (one.docs / path).read_text().strip() for path in seen}


def none_failed(one: Following) -> None:
    """At the end, nor at any time."""
    with Ledger.reader(one.state) as ledger:
        assert [failure.cause for failure in ledger.failures()] == []
    one.__exit__()
    assert isinstance(one.report, Report)
    assert one.report.failed == 0
    one.__enter__()


def as_vim(docs: Path) -> None:
    (docs / ".a.md.swp").write_bytes(b"b0VIM 9.0\0\0")
    (docs / "4913").write_text("")
    (docs / "4913").unlink()
    (docs / "a.md").rename(docs / "a.md~")
    (docs / "a.md").write_text("alpha by vim")
    (docs / "a.md~").unlink()
    (docs / ".a.md.swp").unlink()


def as_rsync(docs: Path) -> None:
    for name in ("a.md", "sub/b.md", "sub/new.md"):
        draft = docs / name
        draft = draft.with_name(f".{draft.name}.Xq3dZ1")
        draft.write_text(f"{name} by rsync")
        os.utime(draft, (1_600_000_000, 1_600_000_000))
        draft.rename(docs / name)


def with_a_draft(docs: Path) -> None:
    (docs / "a.md.tmp").write_text("alpha from a draft")
    os.replace(docs / "a.md.tmp", docs / "a.md")


def in_place(docs: Path) -> None:
    with (docs / "a.md").open("r+") as stream:
        stream.truncate()
        for word in ("alpha", " written", " in place"):
            stream.write(word)
            stream.flush()
            time.sleep(0.15)


def by_appending(docs: Path) -> None:
    for n in range(10):
        with (docs / "a.log").open("a") as stream:
            stream.write(f"line {n}\n")
        time.sleep(0.05)


def as_git(docs: Path) -> None:
    git = ("git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-C", str(docs))

    def run(*words: str) -> None:
        subprocess.run([*git, *words], check=True, capture_output=True)

    run("init", "-b", "main")
    run("add", "-A")
    run("commit", "-m", "first")
    run("checkout", "-b", "other")
    shutil.rmtree(docs / "sub")
    (docs / "c.md").write_text("gamma")
    (docs / "a.md").write_text("alpha of the other branch")
    run("add", "-A")
    run("commit", "-m", "second")
    run("checkout", "main")
    run("checkout", "other")


@pytest.mark.parametrize("write", [as_vim, as_rsync, with_a_draft, in_place, by_appending, as_git])
def test_however_files_are_written_the_index_becomes_the_folder(
    following: Following, write: Callable[[Path], None]
) -> None:
    if write is as_git and not shutil.which("git"):
        pytest.skip("there is no git on this system")
    write(following.docs)
    following.becomes(in_folder(following))
    none_failed(following)


@pytest.mark.parametrize("name", ["pumps.pdf", "pumps.docx", "weir.epub"])
def test_what_needs_its_end_is_not_read_before(
    following: Following, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy in pieces, with pauses in which a text would be read."""
    monkeypatch.setattr(writing, "END", 600.0)
    content = (DOCUMENTS / name).read_bytes()
    with (following.docs / name).open("wb", buffering=0) as copy:
        for at in range(0, len(content), len(content) // 4):
            copy.write(content[at : at + len(content) // 4])
            time.sleep(0.3)
        following.write("meanwhile.md", "others do not wait")
        until(lambda: "meanwhile.md" in following.texts())
        assert name not in following.texts()
    until(lambda: name in following.texts())
    none_failed(following)


def test_a_file_that_vanishes_before_it_is_read_is_no_failure(
    following: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, vanished = local._open_regular, set()

    def vanishing(path: str, flags: int) -> int:
        if os.path.basename(path) in ("new.md", "a.md"):
            vanished.add(path)
            os.unlink(path)
        return opened(path, flags)

    monkeypatch.setattr(local, "_open_regular", vanishing)
    following.write("new.md", "never read")
    following.write("a.md", "never read as well")
    until(lambda: len(vanished) == 2)
    following.write("c.md", "gamma")
    following.becomes({"sub/b.md": "beta", "c.md": "gamma"})
    with Ledger.reader(following.state) as ledger:
        until(lambda: ledger.counts().documents == 2)
    none_failed(following)


def test_a_watch_that_grew_deaf_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary, "PROVE", 0.1)
    monkeypatch.setattr(canary, "HEARD", 3.0)
    monkeypatch.setattr(changes, "FIRST_PAUSE", 0.1)
    monkeypatch.setattr(changes, "DOUBT", 0.05)
    watches: list[LocalWatch] = []
    begin = LocalWatch.__init__

    def kept(self: LocalWatch, *args: object) -> None:
        begin(self, *args)  # type: ignore[arg-type]
        watches.append(self)

    monkeypatch.setattr(LocalWatch, "__init__", kept)
    one = Following(tmp_path)
    one.write("a.md", "alpha")
    with one:
        one.becomes({"a.md": "alpha"})
        deafen(watches[0])
        one.write("b.md", "beta")
        one.becomes({"a.md": "alpha", "b.md": "beta"})
        until(lambda: len(watches) >= 2)
        one.write("c.md", "gamma")
        one.becomes({"a.md": "alpha", "b.md": "beta", "c.md": "gamma"})


def test_a_root_that_is_replaced_is_listed_and_heard(following: Following, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "RETURN", 0.1)
    other = following.docs.with_name("other")
    (other / "sub").mkdir(parents=True)
    (other / "a.md").write_text("alpha")
    (other / "sub" / "c.md").write_text("gamma")
    following.docs.rename(following.docs.with_name("away"))
    other.rename(following.docs)
    following.becomes({"a.md": "alpha", "sub/c.md": "gamma"})
    following.write("sub/d.md", "delta")
    following.becomes({"a.md": "alpha", "sub/c.md": "gamma", "sub/d.md": "delta"})


def test_where_not_all_folders_can_be_watched_the_source_is_listed_more_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "UNHEARD", 0.2)
    monkeypatch.setattr(changes, "SHARE", 0)
    add = Inotify.add

    def limited(self: Inotify, path: bytes, mask: int = inotify.MASK) -> int:
        if path.endswith(b"unheard"):
            raise OSError(28, "No space left on device")
        return add(self, path, mask)

    monkeypatch.setattr(Inotify, "add", limited)
    one = Following(tmp_path)
    one.write("unheard/a.md", "alpha")
    with one:
        one.becomes({"unheard/a.md": "alpha"})
        one.write("unheard/b.md", "beta")
        one.becomes({"unheard/a.md": "alpha", "unheard/b.md": "beta"})


def test_a_user_without_watches_left_is_listed_for_and_heard_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "UNHEARD", 0.2)
    monkeypatch.setattr(changes, "SHARE", 0)
    monkeypatch.setattr(changes, "FIRST_PAUSE", 0.1)
    begin, none_left = Files.watch, [True]

    def refused(self: Files) -> Watch | None:
        if none_left:
            raise SourceError("the system gives no more watches to this user")
        return begin(self)

    monkeypatch.setattr(Files, "watch", refused)
    one = Following(tmp_path)
    one.write("a.md", "alpha")
    with one:
        one.becomes({"a.md": "alpha"})
        one.write("b.md", "beta")
        one.becomes({"a.md": "alpha", "b.md": "beta"})
        none_left.clear()
        monkeypatch.setattr(changes, "UNHEARD", 600.0)
        until(lambda: (progress_file.read(one.state) or {}).get("live", {}).get("watching"))
        one.write("c.md", "gamma")
        one.becomes({"a.md": "alpha", "b.md": "beta", "c.md": "gamma"})
