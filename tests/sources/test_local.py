"""What a folder can hold that a walk must survive."""

from __future__ import annotations

import os
import pickle
import shutil
import socket
import subprocess
import tempfile
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pytest

from penstock.core.errors import SourceError, UsageError
from penstock.core.records import Change, ListingEnd, Unreadable, Upsert
from penstock.sources.files import Files, local
from penstock.sources.files.local import path_of, uri_of


def listed(source: Files, root: Path) -> list[str]:
    """The paths below the root that a complete listing names."""
    changes = list(source.changes())
    assert changes[-1] == ListingEnd()
    return [below(change, root) for change in changes[:-1] if isinstance(change, Upsert)]


def below(change: Upsert, root: Path) -> str:
    assert change.item.path is not None
    return os.path.relpath(change.item.path, root)


def write(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def unreadable(changes: list[Change]) -> list[Unreadable]:
    return [change for change in changes if isinstance(change, Unreadable)]


def test_an_item_says_what_the_file_is(tmp_path: Path) -> None:
    """Uri, path, size and fingerprint come from one stat; nothing is opened."""
    write(tmp_path, "a b.md")
    upsert, _ = Files(tmp_path).changes()
    assert isinstance(upsert, Upsert)
    item = upsert.item
    assert item.uri == (tmp_path / "a b.md").as_uri()
    assert item.path == str(tmp_path / "a b.md")
    assert item.size == 6
    assert item.fingerprint == f"6-{os.stat(tmp_path / 'a b.md').st_mtime_ns}"


def test_a_copy_with_its_times_has_the_fingerprint(tmp_path: Path) -> None:
    """A move or a restored backup is no change."""
    write(tmp_path, "a.md")
    shutil.copy2(tmp_path / "a.md", tmp_path / "b.md")
    first, second, _ = Files(tmp_path).changes()
    assert isinstance(first, Upsert)
    assert isinstance(second, Upsert)
    assert first.item.fingerprint == second.item.fingerprint


def test_hidden_files_and_folders_are_left_alone(tmp_path: Path) -> None:
    """Unless asked for; and they are counted."""
    write(tmp_path, "a.md", ".hidden.md", ".git/config", "sub/.DS_Store", "sub/b.md")
    source = Files(tmp_path)
    assert listed(source, tmp_path) == ["a.md", "sub/b.md"]
    assert source.passed_over == {"hidden": 3}
    assert len(listed(Files(tmp_path, hidden=True), tmp_path)) == 5


def test_a_hidden_root_was_meant(tmp_path: Path) -> None:
    write(tmp_path, ".github/a.md")
    assert listed(Files(tmp_path / ".github"), tmp_path) == [".github/a.md"]


def test_links_are_left_alone_by_default(tmp_path: Path) -> None:
    """They may lead out of the folder to what nobody meant to publish."""
    write(tmp_path, "docs/a.md", "secret/key", "secret/more/b.md")
    (tmp_path / "docs/key").symlink_to(tmp_path / "secret/key")
    (tmp_path / "docs/more").symlink_to(tmp_path / "secret/more")
    source = Files(tmp_path / "docs")
    assert listed(source, tmp_path) == ["docs/a.md"]
    assert source.passed_over == {"link": 2}


def test_links_are_followed_when_asked(tmp_path: Path) -> None:
    """Under the link's own name; loops end; a link that leads nowhere is listed as such and nothing more."""
    write(tmp_path, "docs/a.md", "other/b.md")
    (tmp_path / "docs/file.md").symlink_to(tmp_path / "docs/a.md")
    (tmp_path / "docs/folder").symlink_to(tmp_path / "other")
    (tmp_path / "docs/loop").symlink_to(tmp_path / "docs")
    (tmp_path / "other/up").symlink_to(tmp_path)
    (tmp_path / "docs/nowhere").symlink_to(tmp_path / "nothing")
    (tmp_path / "docs/self").symlink_to(tmp_path / "docs/self")
    source = Files(tmp_path / "docs", follow_links=True)
    changes = list(source.changes())
    paths = [below(change, tmp_path / "docs") for change in changes if isinstance(change, Upsert)]
    assert paths == ["a.md", "file.md", "folder/b.md"]
    assert [change.uri.rpartition("/")[2] for change in unreadable(changes)] == ["nowhere", "self"]
    assert not any(change.listing for change in unreadable(changes))
    assert changes[-1] == ListingEnd()
    assert source.passed_over["loop"] >= 2


def test_a_root_may_be_a_link(tmp_path: Path) -> None:
    write(tmp_path, "real/a.md")
    (tmp_path / "docs").symlink_to(tmp_path / "real")
    assert listed(Files(tmp_path / "docs"), tmp_path) == ["docs/a.md"]


def test_pipes_and_sockets_are_not_opened(tmp_path: Path) -> None:
    """Opening a pipe waits for its writer, for ever."""
    write(tmp_path, "a.md")
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        source = Files(tmp_path)
        assert listed(source, tmp_path) == ["a.md"]
        assert source.passed_over == {"special": 2}
        assert source.lookup((tmp_path / "pipe").as_uri()) is None


@pytest.mark.timeout(10)
def test_a_file_that_became_a_pipe_does_not_hang(tmp_path: Path) -> None:
    """Between the listing and the opening anything can happen."""
    write(tmp_path, "a.md")
    upsert = next(Files(tmp_path).changes())
    assert isinstance(upsert, Upsert)
    (tmp_path / "a.md").unlink()
    os.mkfifo(tmp_path / "a.md")
    with pytest.raises(OSError, match="no longer a regular file"):
        upsert.item.open()


def test_names_that_are_not_text_survive(tmp_path: Path) -> None:
    """Bytes that are no UTF-8, blanks, `%`, `#`, `?`, line ends and names like options: all open again by their uri."""
    names = [b"caf\xe9.md", b"\xff\xfe", b"a b", b"100%25.md", b"a#b?c=d", b"line\nend", b"-rf", "ünï-😀.md".encode()]
    for name in names:
        with open(os.fsencode(tmp_path) + b"/" + name, "wb") as file:
            file.write(name)
    source = Files(tmp_path)
    items = [change.item for change in source.changes() if isinstance(change, Upsert)]
    assert len(items) == len(names)
    for item in items:
        assert item.uri.isascii()
        assert item.uri.isprintable()
        assert " " not in item.uri
        with pickle.loads(pickle.dumps(item)).open() as stream:
            assert stream.read() in names
        again = source.lookup(item.uri)
        assert again == item
        assert path_of(item.uri) == item.path
        assert uri_of(path_of(item.uri)) == item.uri


def test_a_folder_whose_name_is_not_text(tmp_path: Path) -> None:
    """Its uri is the beginning of its files' uris."""
    folder = os.fsencode(tmp_path) + b"/f\xf6 1"
    os.mkdir(folder)
    with open(folder + b"/a.md", "wb"):
        pass
    upsert, mark = Files(tmp_path).changes()
    assert isinstance(upsert, Upsert)
    assert upsert.item.uri == tmp_path.as_uri() + "/f%F6%201/a.md"
    assert mark == ListingEnd()


def test_a_folder_that_cannot_be_read_takes_the_mark_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest is listed; what is under the folder is not gone."""
    write(tmp_path, "a.md", "shut/b.md", "z.md")
    scandir = os.scandir

    def refuse(path: str) -> Any:
        if path.endswith("shut"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    a, shut, z = Files(tmp_path).changes()
    assert isinstance(a, Upsert)
    assert isinstance(z, Upsert)
    assert shut == Unreadable((tmp_path / "shut").as_uri() + "/", "PermissionError: Permission denied", listing=True)


def test_a_folder_that_breaks_off_midway_takes_the_mark_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails after some entries of a large folder, which is read as it is listed."""
    write(tmp_path, *[f"sub/{i}.md" for i in range(9)])
    scandir = os.scandir

    @contextmanager
    def failing(path: str) -> Iterator[Iterator[Any]]:
        with scandir(path) as entries:
            yield chain(islice(entries, 5), fail())

    def fail() -> Iterator[Any]:
        raise OSError(5, "Input/output error")
        yield

    monkeypatch.setattr(local, "SORTED", 3)
    monkeypatch.setattr(os, "scandir", lambda path: failing(path) if path.endswith("sub") else scandir(path))
    *some, last = Files(tmp_path).changes()
    assert len(some) == 5
    assert last == Unreadable((tmp_path / "sub").as_uri() + "/", "OSError: Input/output error", listing=True)


def test_a_file_that_cannot_be_read_is_listed(tmp_path: Path) -> None:
    """It is there. That it does not open is for whoever opens it."""
    write(tmp_path, "a.md")
    os.chmod(tmp_path / "a.md", 0)
    assert listed(Files(tmp_path), tmp_path) == ["a.md"]


@pytest.mark.parametrize(("number", "outcome"), [(2, []), (13, [False]), (5, [False])])
def test_a_file_that_vanishes_is_gone_and_one_that_errs_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, outcome: list[bool]
) -> None:
    """Only ENOENT says that it is gone; any other answer makes it unreadable, so that it is kept."""
    write(tmp_path, "a.md", "b.md")
    entries = local._entries

    class Entry:
        def __init__(self, entry: os.DirEntry[str]) -> None:
            self.name, self.path = entry.name, entry.path
            self.is_symlink, self.is_dir = entry.is_symlink, entry.is_dir

        def stat(self) -> os.stat_result:
            if self.name == "a.md":
                raise OSError(number, os.strerror(number))
            return os.stat(self.path)

    monkeypatch.setattr(local, "_entries", lambda folder: iter([Entry(entry) for entry in entries(folder)]))
    changes = list(Files(tmp_path).changes())
    assert [change.listing for change in unreadable(changes)] == outcome
    assert [below(change, tmp_path) for change in changes if isinstance(change, Upsert)] == ["b.md"]
    assert changes[-1] == ListingEnd()


def test_a_folder_that_vanishes_is_gone(tmp_path: Path) -> None:
    """Removed between its parent's listing and its own."""
    write(tmp_path, "a.md", "sub/b.md", "z.md")
    changes = Files(tmp_path).changes()
    next(changes)
    shutil.rmtree(tmp_path / "sub")
    assert [type(change) for change in changes] == [Upsert, ListingEnd]


@pytest.mark.parametrize("replace", [False, True])
def test_a_root_that_goes_away_takes_the_mark_with_it(tmp_path: Path, replace: bool) -> None:
    """Unmounted while it is listed, a folder vanishes or is another, empty one: nothing was deleted."""
    write(tmp_path, "docs/a.md", "docs/sub/b.md")
    changes = Files(tmp_path / "docs").changes()
    next(changes)
    os.rename(tmp_path / "docs", tmp_path / "elsewhere")
    if replace:
        (tmp_path / "docs").mkdir()
    rest = list(changes)
    assert [change.listing for change in unreadable(rest)] == [True]
    assert ListingEnd() not in rest


def test_a_root_that_is_not_there(tmp_path: Path) -> None:
    """SourceError from open and from changes before anything is listed, though the other root exists."""
    source = Files(tmp_path, tmp_path.parent / "typo")
    with pytest.raises(SourceError, match="No such file"):
        source.open()
    with pytest.raises(SourceError, match="typo"):
        next(source.changes())


def test_a_root_that_is_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SourceError, match="neither a file nor a folder"):
        next(Files(tmp_path / "pipe").changes())


def test_an_empty_folder_is_a_complete_listing(tmp_path: Path) -> None:
    assert list(Files(tmp_path).changes()) == [ListingEnd()]


@pytest.fixture
def deep() -> Iterator[Path]:
    """5,000 levels: deeper than Python recurses, and than a path may be long."""
    # Not in tmp_path: pytest cleans up with rmtree, which recurses.
    root = tempfile.mkdtemp()
    here = os.getcwd()
    os.chdir(root)
    for level in range(5000):
        os.mkdir("d")
        os.chdir("d")
        if level in (9, 1500):
            Path("a.md").write_text("x")
    os.chdir(here)
    yield Path(root)
    subprocess.run(["rm", "-rf", root], check=True)


def test_a_deep_tree_is_listed_as_far_as_paths_go(deep: Path) -> None:
    """What the system can name is listed; the level it cannot name is Unreadable, and there is no ListingEnd."""
    changes = list(Files(deep).changes())
    assert len([change for change in changes if isinstance(change, Upsert)]) == 2
    (failed,) = unreadable(changes)
    assert failed.listing
    assert "too long" in failed.cause
    assert ListingEnd() not in changes


def test_a_large_folder_is_listed_in_constant_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit entries are not gathered for sorting; up to it they are in order."""
    write(tmp_path, *[f"{i}.md" for i in range(3000)])
    names = listed(Files(tmp_path), tmp_path)
    assert names == sorted(names)
    monkeypatch.setattr(local, "SORTED", 100)
    peaks = []
    for count in (1000, 3000):
        changes = Files(tmp_path).changes()
        next(changes)
        tracemalloc.start()
        seen = sum(1 for _, change in zip(range(count - 1), changes, strict=False) if isinstance(change, Upsert))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        changes.close()  # type: ignore[attr-defined]
        assert seen == count - 1
    assert peaks[1] < peaks[0] + 20_000
    assert sorted(listed(Files(tmp_path), tmp_path)) == names


# ---------------------------------------------------------------- roots, names, patterns


def test_several_roots_one_inside_another_are_told_once(tmp_path: Path) -> None:
    """Whichever comes first."""
    write(tmp_path, "a.md", "sub/b.md", "c.pdf")
    for roots in (["", "sub", "c.pdf"], ["c.pdf", "sub", "", "sub/"]):
        names = listed(Files(*(tmp_path / root for root in roots)), tmp_path)
        assert sorted(names) == ["a.md", "c.pdf", "sub/b.md"]


def test_a_file_as_root_is_taken_whatever_the_patterns(tmp_path: Path) -> None:
    write(tmp_path, ".b.pdf")
    assert listed(Files(tmp_path / ".b.pdf", include=["*.md"]), tmp_path) == [".b.pdf"]


def test_an_index_inside_its_documents_is_left_out(tmp_path: Path) -> None:
    """Also if it does not exist yet, is named through a link, or is left out of a ready source."""
    write(tmp_path, "real/a.md", "real/sub/b.md")
    (tmp_path / "docs").symlink_to(tmp_path / "real")
    sources = [
        Files(tmp_path / "docs", skip=[tmp_path / "docs/index"]),
        Files(tmp_path / "docs", skip=[tmp_path / "real/index"]),
        Files(tmp_path / "real").without(tmp_path / "docs/index"),
    ]
    write(tmp_path, "real/index/data.lance")
    for source in sources:
        assert len(listed(source, tmp_path)) == 2
        assert source.lookup((tmp_path / "docs/index/data.lance").as_uri().replace("docs", source.name[-4:])) is None
    assert sources[2].name == Files(tmp_path / "real").name


def test_the_name_is_the_same_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative, absolute, url, order: one name. What selects is part of it."""
    write(tmp_path, "docs/a.md", "b.md")
    absolute = Files(tmp_path / "docs", tmp_path / "b.md", include=["*.md", "*.txt"])
    monkeypatch.chdir(tmp_path)
    relative = Files("b.md", "docs/", include=["*.txt", "*.md"])
    monkeypatch.chdir(tmp_path / "docs")
    assert (
        absolute.name == relative.name == Files("../b.md", (tmp_path / "docs").as_uri(), include=["*.md", "*.txt"]).name
    )
    assert listed(relative, tmp_path) == ["b.md", "docs/a.md"]
    others = [Files("."), Files(".", exclude=["x"]), Files(".", hidden=True), Files(".", follow_links=True)]
    assert len({absolute.name, *(source.name for source in others)}) == 5


def test_lookup_gives_what_a_listing_would(tmp_path: Path) -> None:
    """What is hidden, excluded, behind a link or a folder is not an item of this source."""
    write(tmp_path, "docs/a.md", "docs/.h/b.md", "docs/x/c.md", "other/d.md", "docs/e.txt")
    (tmp_path / "docs/link").symlink_to(tmp_path / "other")
    source = Files(tmp_path / "docs", exclude=["x"], include=["*.md"])
    uri = (tmp_path / "docs").as_uri()
    assert source.lookup(f"{uri}/a.md") == next(
        change.item for change in source.changes() if isinstance(change, Upsert)
    )
    for name in (".h/b.md", "x/c.md", "link/d.md", "e.txt", "gone.md", "x", "a.md/b", "a%00b" * 0 + "n" * 300):
        if len(name) < 300:
            assert source.lookup(f"{uri}/{name}") is None
    assert Files(tmp_path / "docs", follow_links=True).lookup(f"{uri}/link/d.md") is not None


@pytest.mark.parametrize(
    "uri", ["{root}/../other/d.md", "{root}/%2e%2e/other/d.md", "file:///etc/passwd", "{root}x/a.md", "s3://b/k"]
)
def test_lookup_stays_within_the_roots(tmp_path: Path, uri: str) -> None:
    """A uri may come from an index that someone else wrote."""
    write(tmp_path, "docs/a.md", "docsx/a.md", "other/d.md")
    with pytest.raises(SourceError, match="not within"):
        Files(tmp_path / "docs").lookup(uri.format(root=(tmp_path / "docs").as_uri()))


def test_lookup_cannot_tell_when_the_root_is_away(tmp_path: Path) -> None:
    """An unmounted disk is no reason to delete; nor does a folder's uri name a document."""
    write(tmp_path, "docs/a.md")
    source = Files(tmp_path / "docs")
    with pytest.raises(SourceError, match="folder"):
        source.lookup((tmp_path / "docs").as_uri() + "/")
    os.rename(tmp_path / "docs", tmp_path / "away")
    with pytest.raises(SourceError, match="cannot read"):
        source.lookup((tmp_path / "docs/a.md").as_uri())


def test_arguments_that_cannot_be_meant() -> None:
    """Each says what is wrong."""
    with pytest.raises(UsageError, match="no file"):
        Files()
    with pytest.raises(UsageError, match="no file"):
        Files("")
    with pytest.raises(UsageError, match="list of patterns"):
        Files(".", include="*.md")
    with pytest.raises(UsageError, match="not a file on this machine"):
        Files("file://elsewhere/share/docs")
    with pytest.raises(UsageError, match="not a file"):
        Files("file:///a%00b")


def test_a_root_within_what_is_skipped_is_looked_up_as_it_is_walked(tmp_path: Path) -> None:
    """What a listing names exists for a retry as well."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("x")
    source = Files(tmp_path / "docs", skip=[tmp_path])
    (item,) = (change.item for change in source.changes() if isinstance(change, Upsert))
    assert source.lookup(item.uri) == item
