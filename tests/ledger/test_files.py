"""The ledger's file where it is not what it should be: damaged, something else, on a full disk, read-only, linked."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from penstock.core.errors import LedgerError, LockedError, PenstockError, UsageError
from penstock.jobs.components import current_ledger, numbered
from penstock.jobs.ledgers import prune
from penstock.ledger import Ledger, database
from penstock.support import scratch
from penstock.support.locks import Held, Lockfile
from tests import disks

COMMANDS = {
    "status": ("status",),
    "failures": ("failures",),
    "accept": ("failures", "--accept-all"),
    "documents": ("documents",),
    "explain": ("explain", "docs/a.md"),
    "plan": ("plan",),
    "verify": ("verify",),
    "remove": ("remove", "--yes", "docs/a.md"),
    "retry": ("retry",),
}
LOOKING = ("status", "failures", "documents", "explain", "plan")
"""Commands that only look at a ledger."""


_libc = ctypes.CDLL(None)


def _drop_capabilities() -> None:
    """Have the program that follows do without CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH."""
    for capability in (1, 2):
        _libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP; no effect on others than root, who have none


@dataclass
class World:
    root: Path
    model: str

    @property
    def state(self) -> Path:
        return self.root / "state" / "notes.db"

    def command(self, *argv: str, bound: bool = False) -> subprocess.CompletedProcess[str]:
        """Run it in a process; if `bound`, by the modes of files, of which root takes no notice."""
        return subprocess.run(
            [sys.executable, "-m", "penstock", *argv],
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=60,
            preexec_fn=_drop_capabilities if bound else None,
            env={**os.environ, "PENSTOCK_CACHE": str(self.root / "cache"), "HOME": str(self.root)},
        )

    def ingest(self) -> subprocess.CompletedProcess[str]:
        into = f"sqlite://{self.root}/index/notes.db"
        return self.command("ingest", "docs", "--into", into, "--model", self.model, "--state", str(self.state))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
    try:
        import make_checkpoints
    finally:
        sys.path.pop(0)
    return str(make_checkpoints.make("bert", tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory, model: str) -> World:
    world = World(tmp_path_factory.mktemp("filled"), model)
    (world.root / "docs").mkdir()
    for name in "abc":
        (world.root / "docs" / f"{name}.md").write_text(f"# {name}\n\nThe gate {name}.\n" * 40)
    ran = world.ingest()
    assert ran.returncode == 0, ran.stderr
    return world


@pytest.fixture
def world(filled: World, tmp_path: Path) -> World:
    """A copy of what was ingested, with a ledger of its own."""
    shutil.copytree(filled.root, tmp_path, dirs_exist_ok=True)
    one = World(tmp_path, filled.model)
    with closing(sqlite3.connect(one.state)) as file:
        text = file.execute("SELECT value FROM meta WHERE key = 'settings'").fetchone()[0]
        file.execute(
            "UPDATE meta SET value = ? WHERE key = 'settings'", (text.replace(str(filled.root), str(tmp_path)),)
        )
        for table in ("documents",):
            file.execute(f"UPDATE {table} SET uri = replace(uri, ?, ?)", (str(filled.root), str(tmp_path)))
        file.commit()
    return one


def _garbage(path: Path) -> None:
    path.write_bytes(os.urandom(1 << 14))


def _truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _short(path: Path) -> None:
    os.truncate(path, 60)


def _empty(path: Path) -> None:
    os.truncate(path, 0)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _socket(path: Path) -> None:
    path.unlink()
    here = os.getcwd()
    os.chdir(path.parent)  # addresses are short
    try:
        with closing(socket.socket(socket.AF_UNIX)) as one:
            one.bind(path.name)
    finally:
        os.chdir(here)


def _endless(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def _loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def _newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA user_version=99")


def _another(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as file:
        file.execute("CREATE TABLE t (x)")


def _within(path: Path) -> None:
    shutil.rmtree(path.parent)
    path.parent.write_text("a file")


DAMAGES = (
    _garbage, _truncated, _short, _empty, _folder, _pipe, _socket, _endless, _loop, _newer, _another, _within,
)  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__.strip("_"))
def test_a_ledger_that_is_none_is_an_error_of_one_line(
    world: World, damage: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of every command, with status 2, and the file is left as it is."""
    from penstock.cli.main import main

    monkeypatch.chdir(world.root)
    monkeypatch.setenv("PENSTOCK_CACHE", str(world.root / "cache"))
    damage(world.state)
    before = world.state.read_bytes() if world.state.is_file() else None
    for name, (command, *rest) in COMMANDS.items():
        status = main([command, "--state", str(world.state), *rest])
        said = capsys.readouterr()
        assert status == 2, (name, said.err)
        assert said.err.count("\n") == 1, (name, said.err)
        assert "Traceback" not in said.err
        assert "unexpected" not in said.err
        assert str(world.state) in said.err or str(world.state.parent) in said.err
    if damage is not _empty:  # of which a run makes a new one
        status = main(["ingest", "docs", "--into", "memory://damaged", "--state", str(world.state), "-q"])
        said = capsys.readouterr()
        assert status == 2, said.err
        assert said.err.count("\n") == 1, said.err
    if before is not None:
        assert world.state.read_bytes() == before


def test_ledgers_lists_those_that_cannot_be_read(world: World) -> None:
    shutil.copy(world.state, world.state.with_name("good.db"))
    _garbage(world.state)
    os.mkfifo(world.state.with_name("pipe.db"))
    ran = world.command("ledgers", "state", "--json")
    assert ran.returncode == 0, ran.stderr
    found = {Path(one["path"]).name: one for one in map(json.loads, ran.stdout.splitlines())}
    assert "not a database" in found["notes.db"]["error"]
    assert "a pipe" in found["pipe.db"]["error"]
    assert found["good.db"]["documents"] == 3


def test_a_page_of_the_ledger_that_is_garbage_is_named_as_such(world: World) -> None:
    """It is met in the middle of a command, which says what to do, with the status of an error that ended it."""
    with open(world.state, "r+b") as file:
        file.seek(4096 * 2)
        file.write(b"\xa5" * (world.state.stat().st_size - 4096 * 2))
    for command in (("status",), ("documents",), ("plan",), ("verify",)):
        ran = world.command(*command, "--state", str(world.state))
        assert ran.returncode in (2, 3), ran.stderr
        assert "malformed: restore it from a backup" in ran.stderr
        assert "Traceback" not in ran.stderr
        assert "unexpected" not in ran.stderr


# ---------------------------------------------------------------- a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with disks.small_disk(tmp_path / "small", "400k") as folder:
        yield folder


def test_a_full_disk_of_the_ledger_is_named_as_such(world: World, small_disk: Path) -> None:
    """By every command that writes to it; those that look need no room, or say so as well."""
    shutil.copy(world.state, small_disk / "notes.db")
    disks.fill(small_disk)
    state = str(small_disk / "notes.db")
    for name, (command, *rest) in COMMANDS.items():
        ran = world.command(command, "--state", state, *rest)
        if ran.returncode not in (0, 1):
            assert ran.returncode in (2, 3), (name, ran.stderr)
            assert "room on its disk" in ran.stderr or "No space left" in ran.stderr, (name, ran.stderr)
        assert "Traceback" not in ran.stderr, name
        assert "unexpected" not in ran.stderr, name
    (small_disk / "filling").unlink()
    assert world.command("verify", "--state", state).returncode == 0


def test_a_disk_that_fills_up_meanwhile_is_named_as_such(tmp_path: Path, small_disk: Path) -> None:
    with Ledger(small_disk / "notes.db") as ledger:
        ledger.open()
        run = ledger.begin_run("space")
        disks.fill(small_disk)
        with pytest.raises(LedgerError, match=r"notes\.db cannot be read or written: .*room on its disk"):
            ledger.begin([f"doc:{number}" for number in range(20_000)], run)
        (small_disk / "filling").unlink()
        ledger.begin(["doc:a"], run)  # the transaction that failed is over
        assert ledger.counts().documents == 1


def test_a_full_disk_of_temporary_files_is_named_by_a_verification(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(schema: str) -> sqlite3.Connection:
        db = database(schema)
        db.execute("PRAGMA max_page_count=8")
        return db

    database = scratch.database
    monkeypatch.setattr(scratch, "database", full)
    full_disk = pytest.raises(LedgerError, match="temporary file: database or disk is full: make room")
    with Ledger.writer(tmp_path / "notes.db") as ledger, full_disk:
        ledger.compare([[f"{number:032x}" for number in range(10_000)]])


# ---------------------------------------------------------------- read-only


def _read_only(root: Path) -> None:
    for path in [*root.rglob("*"), root]:
        path.chmod(0o555 if path.is_dir() else 0o444)


@pytest.fixture(autouse=True)
def _removable(tmp_path: Path) -> Iterator[None]:
    """Folders are made writable again: pytest removes them."""
    yield
    for path in [tmp_path, *tmp_path.rglob("*")]:
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)


@pytest.mark.parametrize("log", [False, True])
def test_a_read_only_ledger_can_be_looked_at(world: World, log: bool) -> None:
    """Also while its owner has it open, and so has a log beside it."""
    owner = Ledger(world.state)
    if log:
        owner.open()
        owner.set("note", "in the log")
    try:
        _read_only(world.root)
        before = sorted(os.listdir(world.state.parent))
        for name in LOOKING:
            command, *rest = COMMANDS[name]
            ran = world.command(command, "--state", str(world.state), *rest, bound=True)
            assert ran.returncode in (0, 1), (name, ran.stderr)
            assert not ran.stderr or name == "plan", (name, ran.stderr)
        ran = world.command("documents", "--state", str(world.state), "--json", bound=True)
        assert len(ran.stdout.splitlines()) == 3
        ran = world.command("ledgers", "state", "--json", bound=True)
        assert json.loads(ran.stdout.splitlines()[0])["documents"] == 3
        for name in ("verify", "remove", "retry", "accept"):
            command, *rest = COMMANDS[name]
            ran = world.command(command, "--state", str(world.state), *rest, bound=True)
            assert ran.returncode in (2, 3), (name, ran.stderr)
            assert "Permission denied" in ran.stderr or "writable" in ran.stderr, (name, ran.stderr)
            assert "Traceback" not in ran.stderr
            assert "unexpected" not in ran.stderr
        assert sorted(os.listdir(world.state.parent)) == before
    finally:
        owner.close()


def test_a_log_without_its_index_in_a_read_only_folder_is_named(world: World) -> None:
    """As a copy of a ledger that was in use leaves it: read without its log it would tell of an earlier state."""
    with Ledger(world.state) as owner:
        owner.open()
        owner.set("note", "in the log")
        log = world.state.with_name("notes.db-wal")
        copies = world.root / "copies"
        copies.mkdir()
        shutil.copy(world.state, copies)
        shutil.copy(log, copies)
    _read_only(world.root)
    ran = world.command("status", "--state", str(copies / "notes.db"), bound=True)
    assert ran.returncode == 2
    assert "has changes in notes.db-wal" in ran.stderr
    assert "copy both files" in ran.stderr


def test_an_unreadable_ledger_is_named(world: World) -> None:
    _read_only(world.root)
    world.state.chmod(0)
    for name in LOOKING:
        command, *rest = COMMANDS[name]
        ran = world.command(command, "--state", str(world.state), *rest, bound=True)
        assert ran.returncode == 2, (name, ran.stderr)
        assert ran.stderr.startswith("penstock: cannot open the ledger"), (name, ran.stderr)
        assert ran.stderr.count("\n") == 1


def test_a_read_only_ledger_of_an_earlier_version_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from penstock.ledger import database

    with closing(sqlite3.connect(world.state)) as file:
        file.execute("PRAGMA user_version=2")
    monkeypatch.setattr(database, "writable", lambda path: False)
    with pytest.raises(UsageError, match=r"earlier Penstock .* cannot be written to"):
        Ledger.reader(world.state)


# ---------------------------------------------------------------- locks and links


def test_a_lock_file_that_is_a_link_is_refused_and_its_target_kept(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("keep me")
    lock = tmp_path / "a.db.lock"
    lock.symlink_to(precious)
    with pytest.raises(UsageError, match=r"symbolic link, not a lock file: remove it"):
        Ledger.writer(tmp_path / "a.db")
    lock.unlink()
    os.link(precious, lock)
    with pytest.raises(UsageError, match="not a lock file: remove it"):
        Ledger.writer(tmp_path / "a.db")
    assert precious.read_text() == "keep me"


def test_a_lock_file_of_something_else_is_kept(tmp_path: Path) -> None:
    lock = tmp_path / "a.db.lock"
    for content in (b"keep me", b"\0" * 5, b"1" * 30, b"12 34"):
        lock.write_bytes(content)
        with pytest.raises(UsageError, match="content of something else"):
            Ledger.writer(tmp_path / "a.db")
        assert lock.read_bytes() == content
    lock.unlink()
    os.mkfifo(lock)
    with pytest.raises(UsageError, match="not a lock file"):
        Ledger.writer(tmp_path / "a.db")


def test_a_lock_file_of_before_is_taken(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    lock.write_text("99999999")
    one = Lockfile(lock)
    assert lock.read_text() == str(os.getpid())
    with pytest.raises(Held, match=f"process {os.getpid()}"):
        Lockfile(lock)
    one.release()
    Lockfile(lock).release()


def test_a_ledger_has_one_lock_whatever_links_lead_to_it(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link.db").symlink_to("real/notes.db")
    (tmp_path / "folder").symlink_to("real")
    names = [tmp_path / "real/notes.db", tmp_path / "link.db", tmp_path / "folder/notes.db"]
    Ledger.writer(names[0]).close()
    for held in names:
        with Ledger.writer(held):
            for other in names:
                with pytest.raises(LockedError):
                    Ledger.writer(other)
    assert not list(tmp_path.glob("*.lock"))


def test_a_ledger_of_two_names_takes_no_writer(tmp_path: Path) -> None:
    """Each name would have a log of its own, and the file the changes of one of them."""
    path = tmp_path / "notes.db"
    Ledger.writer(path).close()
    os.link(path, tmp_path / "other.db")
    for name in (path, tmp_path / "other.db"):
        with pytest.raises(UsageError, match=r"2 names \(hard links\)"):
            Ledger.writer(name)
    Ledger.reader(path).close()


def test_generations_lie_beside_the_file_that_a_link_leads_to(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    path, link = tmp_path / "real/notes.db", tmp_path / "link.db"
    link.symlink_to(path)
    with Ledger.writer(path) as ledger:
        ledger.lead_to(2)
    Ledger.writer(numbered(path, 2)).close()
    assert current_ledger(link) == numbered(path, 2)
    prune(link)
    assert not os.listdir(tmp_path / "real")
    assert not link.is_symlink()


def test_errors_of_the_ledger_are_errors_of_penstock() -> None:
    assert issubclass(LedgerError, PenstockError)


def test_a_reader_does_not_make_anew_what_is_removed_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a run that was refused takes its ledger with it while another one looks whose the index is."""
    path = tmp_path / "ledger.db"
    Ledger.writer(path).close()

    def removed(path: Path) -> bool:
        path.unlink()
        return True

    monkeypatch.setattr(database, "writable", removed)
    with pytest.raises(UsageError, match="cannot open the ledger"), Ledger.reader(path):
        pass
    assert not path.exists()
