"""`penstock keys`: the file of keys, and the options of `serve` about it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from penstock.cli.output.streams import FAILED, OK, USAGE
from penstock.server import keys_file
from penstock.server.keys import Keyring
from penstock.server.settings import Settings
from tests.cli.conftest import Run


def test_add_list_and_revoke(run: Run, here: Path) -> None:
    """The secret alone on stdout, once; the file has its hash, and is nobody else's."""
    ran = run("keys", "add", "reader", "--file", "keys.toml")
    assert ran.status == OK
    secret = ran.out.strip()
    assert re.fullmatch(r"psk_[A-Za-z0-9_-]{43}", secret)
    assert "shown only now" in ran.err
    file = here / "keys.toml"
    assert file.stat().st_mode & 0o777 == 0o600
    assert secret not in file.read_text()
    run("keys", "add", "prometheus", "--scope", "metrics", "--scope", "embed", "--days", "30", "--file", "keys.toml")
    listed = run("keys", "list", "--json", "--file", "keys.toml").lines
    assert [(one["name"], one["scopes"]) for one in listed] == [
        ("reader", ["search"]),
        ("prometheus", ["embed", "metrics"]),
    ]
    assert listed[0]["expires"] is None
    assert listed[1]["expires"] > listed[1]["created"]
    shown = run("keys", "list", "--file", "keys.toml").out
    assert "reader" in shown
    assert "never" in shown
    assert secret not in shown
    key = Keyring((), keys_file.read(file)).find(secret.encode())
    assert key is not None
    assert key.name == "reader"
    assert run("keys", "revoke", "reader", "--file", "keys.toml").status == OK
    assert Keyring((), keys_file.read(file)).find(secret.encode()) is None
    assert run("keys", "revoke", "prometheus", "--file", "keys.toml").status == OK
    assert "no keys" in run("keys", "list", "--file", "keys.toml").out


def test_secrets_differ(run: Run) -> None:
    secrets = {run("keys", "add", f"k{n}", "--json", "--file", "keys.toml").lines[0]["secret"] for n in range(5)}
    assert len(secrets) == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("add", "reader"), "has a key 'reader' already"),
        (("add", "two words"), "invalid name"),
        (("add", "a\nb"), "invalid name"),
        (("add", "x" * 65), "invalid name"),
        (("add", "other", "--scope", "write"), "invalid choice"),
        (("add", "other", "--days", "0"), "at least 1"),
        (("add", "other", "--days", "99999999999"), "the calendar ends before"),
        (("revoke", "nobody"), "there are: reader"),
        ((), "required"),
    ],
)
def test_what_is_refused(run: Run, words: tuple[str, ...], message: str) -> None:
    """And changes nothing."""
    run("keys", "add", "reader", "--file", "keys.toml")
    before = Path("keys.toml").read_bytes()
    ran = run("keys", *words, *(("--file", "keys.toml") if words else ()))
    assert ran.status == USAGE
    assert message in ran.err
    assert ran.out == ""
    assert Path("keys.toml").read_bytes() == before


def test_files_that_are_refused(run: Run, here: Path) -> None:
    """One that others may write, one that is not ours to understand, a folder, and none."""
    assert "makes one" in run("keys", "list", "--file", "none.toml").err
    assert "no folder" in run("keys", "add", "a", "--file", "none/keys.toml").err
    assert "regular file" in run("keys", "add", "a", "--file", "docs").err
    (here / "notes.toml").write_text("title = 'notes'\n")
    (here / "notes.toml").chmod(0o600)
    assert run("keys", "add", "a", "--file", "notes.toml").status == USAGE
    assert (here / "notes.toml").read_text() == "title = 'notes'\n"
    run("keys", "add", "a", "--file", "keys.toml")
    (here / "keys.toml").chmod(0o620)
    assert "written by others" in run("keys", "add", "b", "--file", "keys.toml").err


def test_a_full_disk_leaves_the_file_as_it_was(run: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no draft beside it."""
    run("keys", "add", "a", "--file", "keys.toml")
    before = (here / "keys.toml").read_bytes()

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        ran = run("keys", "add", "b", "--file", "keys.toml")
    assert (ran.status, ran.out) == (USAGE, "")
    assert "No space left on device" in ran.err
    assert (here / "keys.toml").read_bytes() == before
    assert {path.name for path in here.iterdir()} <= {"docs", "keys.toml", ".keys.toml.lock"}


def test_several_processes_at_once(here: Path) -> None:
    """None of them loses the key of another."""

    def add(name: str) -> int:
        command = [sys.executable, "-m", "penstock", "keys", "add", name, "--file", "keys.toml"]
        return subprocess.run(command, capture_output=True, check=False).returncode

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(add, [f"k{n}" for n in range(6)])) == {OK}
    assert len(keys_file.read(here / "keys.toml")) == 6


def test_a_lock_that_is_held(run: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_file, "LOCK_SECONDS", 0.0)
    lock = keys_file.Lockfile(here / ".keys.toml.lock")
    try:
        ran = run("keys", "add", "a", "--file", "keys.toml")
    finally:
        lock.release()
    assert ran.status in (FAILED, 4)
    assert f"process {os.getpid()} is changing" in ran.err


def test_commands_about_keys_need_no_server(here: Path) -> None:
    """The extra `serve` may be on another machine."""
    code = (
        "import sys; sys.modules.update(starlette=None, uvicorn=None, python_multipart=None)\n"
        "from penstock.cli.main import main; sys.exit(main(['keys', 'add', 'a', '--file', 'keys.toml']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == OK, done.stderr


def test_options_of_serve(run: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Settings] = []
    monkeypatch.setattr("penstock.server.server.serve", lambda index, settings, **models: seen.append(settings))
    monkeypatch.delenv("PENSTOCK_API_KEYS", raising=False)
    options = ("--keys", "keys.toml", "--access-log", "a.log", "--audit-log", "-", "--log-queries")
    assert run("serve", "--index", "memory://x", *options).status == OK
    assert run("serve", "--index", "memory://x").status == OK
    assert (seen[0].keys_file, seen[0].access_log, seen[0].audit_log) == (Path("keys.toml"), "a.log", "-")
    assert seen[0].log_queries
    assert seen[0].guarded
    assert (seen[1].keys_file, seen[1].access_log, seen[1].audit_log) == (None, None, None)
    assert not seen[1].guarded
    assert "--access-log" in run("serve", "--index", "memory://x", "--log-queries").err
