"""Folders that are watched: what is heard, and what is done where nothing is heard."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.core.errors import SourceError
from penstock.sources.files import Files, canary, writing
from penstock.sources.files.local import uri_of
from penstock.sources.files.watch import LocalWatch
from penstock.sources.files.writing import OpenFiles
from penstock.support import inotify
from penstock.support.inotify import Inotify

pytestmark = pytest.mark.skipif(not inotify.available(), reason="there is no inotify on this system")


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[LocalWatch]:
    (tmp_path / "sub").mkdir()
    with LocalWatch([str(tmp_path)], lambda folder: False) as one:
        yield one


def heard(watch: LocalWatch, *paths: Path) -> bool:
    """Whether all these are hinted at within a while."""
    missing = {uri_of(str(path)) for path in paths}
    for _ in range(100):
        missing -= watch.wait(0.1).uris
        if not missing:
            return True
    return False


def doubts(watch: LocalWatch) -> bool:
    return any(watch.wait(0.1).doubt for _ in range(100))


def deafen(watch: LocalWatch) -> None:
    """Have the system tell it nothing more."""
    watch._inotify.wait = lambda seconds: bool(time.sleep(min(seconds or 0.0, 0.01)))  # type: ignore[method-assign]


def test_it_proves_again_and_again_that_it_hears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary, "PROVE", 0.05)
    monkeypatch.setattr(canary, "HEARD", 10.0)
    with LocalWatch([str(tmp_path)], lambda folder: False) as watch:
        for _ in range(10):
            assert watch.wait(0.05).uris == frozenset()
        monkeypatch.setattr(canary, "PROVE", 60.0)
        while watch._canary.next() != watch._canary._at:  # the last proof is not heard yet
            watch.wait(0.05)
        monkeypatch.setattr(canary, "HEARD", 0.05)
        deafen(watch)
        watch._canary._at = 0.0
        with pytest.raises(OSError, match="no longer tells"):
            watch.wait(30)


def test_what_is_told_while_it_waits_for_its_proof_is_read_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after the machine was suspended: late is not deaf."""
    monkeypatch.setattr(canary, "PROVE", 0.0)
    with LocalWatch([str(tmp_path)], lambda folder: False) as watch:
        monkeypatch.setattr(canary, "HEARD", 0.0)
        assert watch._canary.prove()
        watch.wait(0.0)
        monkeypatch.setattr(canary, "PROVE", 60.0)
        (tmp_path / "a.md").write_text("alpha")
        assert heard(watch, tmp_path / "a.md")


def test_a_folder_that_nobody_told_was_replaced_is_noticed(
    watch: LocalWatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sub = tmp_path / "sub"
    watch._inotify.remove(watch._numbers[str(sub)])
    list(watch._inotify.read())  # that it was removed is told
    (sub / "unheard.md").write_text("nobody tells")
    watch._canary._at = 0.0
    assert doubts(watch)
    (sub / "a.md").write_text("alpha")
    assert heard(watch, sub / "a.md")


def test_a_root_that_is_a_file_has_nothing_else_watched(tmp_path: Path) -> None:
    (tmp_path / "beside" / "deep").mkdir(parents=True)
    file = tmp_path / "a.md"
    file.write_text("alpha")
    with LocalWatch([str(file)], lambda folder: False) as watch:
        assert set(watch._numbers) == {str(tmp_path)}
        (tmp_path / "another").mkdir()
        file.write_text("another alpha")
        assert heard(watch, file)
        assert set(watch._numbers) == {str(tmp_path)}


def test_more_folders_than_may_be_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(4):
        (tmp_path / str(n)).mkdir()
    add, left = Inotify.add, [4]

    def limited(self: Inotify, path: bytes, mask: int = inotify.MASK) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return add(self, path, mask)

    monkeypatch.setattr(Inotify, "add", limited)
    with LocalWatch([str(tmp_path)], lambda folder: False) as watch:
        assert "raise fs.inotify.max_user_watches" in watch.trouble
        assert watch.wait(0.0).doubt


def test_no_watch_left_for_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(self: Inotify) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Inotify, "__init__", none_left)
    with pytest.raises(SourceError, match="max_user_instances"):
        Files(tmp_path).watch()


def test_permissions_and_times_are_heard(watch: LocalWatch, tmp_path: Path) -> None:
    file = tmp_path / "sub" / "a.md"
    file.write_text("alpha")
    assert heard(watch, file)
    file.chmod(0o600)
    assert heard(watch, file)
    (tmp_path / "sub").chmod(0o700)
    assert heard(watch, file)


def run_alone(script: str, root: Path, *before: str) -> None:
    """Run it in a process of its own, started by the command `before`."""
    command = [*before, sys.executable, "-c", BEGIN + script]
    environment = {**os.environ, "ROOT": str(root)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr


BEGIN = """
import os, sys, time
from penstock.sources.files import canary
from penstock.sources.files.local import uri_of
from penstock.sources.files.watch import LocalWatch
canary.PROVE = 0.05
root = os.environ["ROOT"]
def until(condition):
    end = time.monotonic() + 20
    while not condition(watch.wait(0.1)):
        assert time.monotonic() < end
watch = LocalWatch([root], lambda folder: False)
"""


def test_what_is_mounted_over_a_folder_is_heard_and_what_was_beneath_again(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    alone = ("unshare", "--mount", "--propagation", "private")
    try:
        if subprocess.run([*alone, "mount", "-t", "tmpfs", "none", tmp_path / "sub"], capture_output=True).returncode:
            pytest.skip("this process may not mount anything")
    except FileNotFoundError:
        pytest.skip("there is no unshare on this system")
    run_alone(
        """
import subprocess
def write(name):
    with open(f"{root}/sub/{name}", "w") as file:
        file.write(name)
    until(lambda hints: uri_of(f"{root}/sub/{name}") in hints.uris)
write("a.md")
subprocess.run(["mount", "-t", "tmpfs", "none", f"{root}/sub"], check=True)
until(lambda hints: hints.doubt)
write("b.md")
subprocess.run(["umount", "--lazy", f"{root}/sub"], check=True)
until(lambda hints: hints.doubt)
write("c.md")
""",
        tmp_path,
        *alone,
    )


def test_permissions_that_are_lost_and_given_back(tmp_path: Path) -> None:
    as_others = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search") if not os.geteuid() else ()
    if as_others and not shutil.which(as_others[0]):
        pytest.skip("no permission is kept from this user")
    run_alone(
        """
sub = f"{root}/sub"
os.mkdir(sub, 0)
until(lambda hints: hints.doubt)
assert sub not in watch._numbers
os.chmod(sub, 0o700)
until(lambda hints: sub in watch._numbers)
with open(f"{sub}/a.md", "w") as file:
    file.write("alpha")
until(lambda hints: uri_of(f"{sub}/a.md") in hints.uris)
""",
        tmp_path,
        *as_others,
    )


# ---------------------------------------------------------------- files that are being written


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def files(clock: Clock) -> OpenFiles:
    return OpenFiles(clock)


def test_a_text_is_looked_at_when_it_pauses_and_at_the_latest_after_a_while(
    files: OpenFiles, clock: Clock, tmp_path: Path
) -> None:
    path = str(tmp_path / "a.log")
    Path(path).write_text("line\n")
    files.wrote(path)
    assert files.take() == []
    clock.now += writing.QUIET
    assert files.take() == [path]
    assert files.take() == []
    for _ in range(int(writing.LATEST / 0.1) - 1):
        files.wrote(path)
        clock.now += 0.1
        assert files.take() == []
    files.wrote(path)
    clock.now += 0.1
    assert files.take() == [path]


def test_a_large_text_is_looked_at_less_often(files: OpenFiles, clock: Clock, tmp_path: Path) -> None:
    path = str(tmp_path / "a.log")
    Path(path).write_text("line\n" * 1_000_000)
    files.wrote(path)
    clock.now += writing.QUIET
    assert files.take() == [path]
    files.wrote(path)
    clock.now += writing.LATEST
    assert files.take() == []
    clock.now += 5_000_000 / writing.RATE
    assert files.take() == [path]


@pytest.mark.parametrize("begins", [b"PK\3\4\0\0", b"%PDF-1.7\n", b"\x89PNG\r\n\x1a\n\0\0", b""])
def test_what_needs_its_end_waits_for_it(files: OpenFiles, clock: Clock, tmp_path: Path, begins: bytes) -> None:
    path = str(tmp_path / "a")
    Path(path).write_bytes(begins)
    for _ in range(10):
        files.wrote(path)
        clock.now += writing.LATEST
        assert files.take() == []
    clock.now += writing.END
    assert files.take() == [path]  # nobody closed it
    clock.now += 2 * writing.LONGEST
    assert files.take() == []
    assert path not in files
    assert files.next() is None


def test_a_link_is_complete_at_once(files: OpenFiles, clock: Clock, tmp_path: Path) -> None:
    path = str(tmp_path / "a.pdf")
    Path(path).write_bytes(b"%PDF-1.7\n")
    files.wrote(path, made=True)
    clock.now += writing.QUIET
    assert files.take() == [path]


def test_files_of_a_folder_that_went_are_forgotten(files: OpenFiles, tmp_path: Path) -> None:
    files.wrote(str(tmp_path / "sub" / "a.md"))
    files.wrote(str(tmp_path / "subway.md"))
    files.forget_beneath(str(tmp_path / "sub"))
    assert str(tmp_path / "subway.md") in files
    assert str(tmp_path / "sub" / "a.md") not in files
