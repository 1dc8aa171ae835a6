"""`penstock ingest --live` in a process of its own, and the commands beside it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from penstock.support import inotify
from tests.cli.conftest import Run

pytestmark = pytest.mark.skipif(not inotify.available(), reason="there is no inotify on this system")


def until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.2)


def test_a_run_that_goes_on(here: Path, model: str, run: Run) -> None:
    argv = ["ingest", "docs", "--into", "sqlite://./index.db", "--model", model, "--state", "l.db"]
    for n in range(10):
        (here / "docs" / f"{n}.txt").write_text(f"This is text number {n}.")

    def documents() -> int:
        return len(run("documents", "--json", "--state", "l.db").lines) if (here / "l.db").exists() else 0

    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(here / "notify"))
    manager.setblocking(False)
    told: list[str] = []

    def tells(message: str) -> bool:
        with contextlib.suppress(BlockingIOError):
            while True:
                told.append(manager.recv(1000).decode())
        return message in told

    with (
        manager,
        subprocess.Popen(
            [sys.executable, "-m", "penstock", *argv, "--live", "--every", "1s", "--stop-ok", "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "NOTIFY_SOCKET": str(here / "notify"), "WATCHDOG_USEC": "400000"},
        ) as process,
    ):
        try:
            until(lambda: tells("READY=1"), process)
            until(lambda: documents() == 12, process)
            (here / "docs" / "new.txt").write_text("Something new.")
            until(lambda: documents() == 13, process)
            assert run(*argv).status == 4  # the ledger is held
            status = run("status", "--state", "l.db", "--json").lines[0]
            assert status["live"]["watching"]
            assert status["held"] is None
            assert "listens, listed whole" in run("status", "--state", "l.db").out
            assert "nothing is held" in run("approve", "--state", "l.db").out
            assert "lists it now" in run("refresh", "--state", "l.db").out
            process.send_signal(signal.SIGSTOP)  # it sees them go at once, however busy the machine is
            for path in (here / "docs").iterdir():
                if path.name != "new.txt":
                    path.unlink()
            process.send_signal(signal.SIGCONT)
            until(lambda: run("status", "--state", "l.db", "--json").lines[0]["held"] is not None, process)
            assert "`penstock approve` lets them go" in run("status", "--state", "l.db").out
            assert "may go" in run("approve", "--state", "l.db").out
            until(lambda: documents() == 1, process)
            before = told.count("WATCHDOG=1")
            until(lambda: tells("WATCHDOG=1") and told.count("WATCHDOG=1") > before + 2, process)
            process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            out, err = process.communicate(timeout=30)
            assert time.monotonic() - began < 20
            assert tells("STOPPING=1")
        finally:
            process.kill()
    assert process.returncode == 0, err
    assert "Traceback" not in err
    report = json.loads(out.splitlines()[-1])
    assert report["status"] == "stopped"
    assert run("verify", "-q", "--state", "l.db").status == 0
    result = run("refresh", "--state", "l.db")
    assert result.status == 2
    assert "no run follows a source" in result.err


def test_every_is_of_live(here: Path, model: str, run: Run) -> None:
    result = run("ingest", "docs", "--into", "sqlite://./index.db", "--model", model, "--every", "10m")
    assert result.status == 2
    assert "--live" in result.err
    assert "expected one such as 30s" in run("ingest", "docs", "--into", "sqlite://./i.db", "--every", "soon").err
