"""Ctrl-C, terminals, and readers that go away: in processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.conftest import Run

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")

FILES = 120
SLOW = """
import sys, time
from penstock.cli.main import main
from penstock.embedders.onnx import OnnxEmbedder
embed = OnnxEmbedder.embed
OnnxEmbedder.batch_rows = 2
def slow(self, chunks):
    open("embedding", "w").close()
    time.sleep({nap})
    return embed(self, chunks)
OnnxEmbedder.embed = slow
sys.exit(main())
"""


@contextmanager
def started(nap: float, *argv: str, background: bool = False) -> Iterator[subprocess.Popen[str]]:
    """The command line in another process, whose model takes `nap` seconds for two chunks."""
    interrupt = signal.SIG_IGN if background else signal.default_int_handler
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW.format(nap=nap), *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Whoever runs the tests in the background has SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, interrupt) and None,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def until(process: subprocess.Popen[str], counter: str) -> None:
    """Read progress until the counter has begun to move."""
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line).get(counter):
            return
    raise AssertionError(f"ended before {counter} moved: {process.stderr.read() if process.stderr else ''}")


@pytest.fixture
def many(here: Path) -> Path:
    for number in range(FILES):
        (here / "docs" / f"{number}.txt").write_text(f"This is text number {number}.")
    return here


@pytest.mark.parametrize(
    ("number", "background"), [(signal.SIGINT, False), (signal.SIGTERM, False), (signal.SIGTERM, True)]
)
def test_ctrl_c_writes_what_is_in_flight_and_a_rerun_does_the_rest(
    many: Path, model: str, run: Run, number: signal.Signals, background: bool
) -> None:
    """So does a machine's word that it is to be taken away, also where Ctrl-C is ignored."""
    argv = ("ingest", "docs", "--into", "lance://./index", "--model", model, "--json")
    with started(0.1, *argv, background=background) as process:
        until(process, "written")
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    report = json.loads(out.splitlines()[-1])
    assert (report["event"], report["status"]) == ("report", "stopped")
    written = report["counts"]["written"]
    assert 0 < written < FILES
    rest = run(*argv)
    assert rest.status == 0
    counts = rest.lines[-1]["counts"]
    assert counts["embedded"] == FILES + 2 - written, (report["counts"], counts)
    assert run("verify", "-q").status == 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_to_be_stopped_by_a_service_manager_is_no_failure_if_so_wished(
    many: Path, model: str, run: Run, number: signal.Signals, status: int
) -> None:
    argv = ("ingest", "docs", "--into", "lance://./index", "--model", model, "--json", "--stop-ok")
    with started(0.1, *argv) as process:
        until(process, "written")
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == status, err
    report = json.loads(out.splitlines()[-1])
    assert (report["status"], report["ok"]) == ("stopped", False)
    assert run(*argv).status == 0
    assert run("verify", "-q").status == 0


@pytest.mark.parametrize(("signals", "status"), [(1, 0), (2, 130)])
def test_sigterm_while_nothing_is_in_flight(many: Path, model: str, signals: int, status: int) -> None:
    """A verification ends at once. A run that is sent a second signal gives up, and that is no success."""
    ingest = ("ingest", "docs", "--into", "lance://./index", "--model", model, "-q")
    assert subprocess.run([sys.executable, "-m", "penstock", *ingest], check=False).returncode == 0
    job = ("verify", "--sample", "100%") if signals == 1 else ("reindex", "--chunk", "100 tokens")
    with started(60, *job, "--stop-ok", "--log-format", "json") as process:
        assert process.stderr is not None
        for _ in range(300):
            if (many / "embedding").exists():
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        if signals == 2:
            while "stopping: writing what is in flight" not in (line := process.stderr.readline()):
                assert json.loads(line)["event"] in ("start", "progress")
            process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
    assert process.returncode == status, err
    assert json.loads(err.splitlines()[-1])["message"].startswith("stopped; what was written is kept")


def test_the_first_ctrl_c_is_answered_and_the_second_ends_it_at_once(many: Path, model: str, run: Run) -> None:
    argv = ("ingest", "docs", "--into", "lance://./index", "--model", model)
    with started(60, *argv) as process:
        assert process.stderr is not None
        for _ in range(300):
            if (many / "embedding").exists():
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        while "stopping: writing what is in flight" not in (line := process.stderr.readline()):
            assert "documents" in line
        time.sleep(0.5)
        assert process.poll() is None, "the first Ctrl-C lets what is in flight run out"
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert time.monotonic() - began < 10
    assert out == ""
    assert err.count("\n") == 1
    assert "Run it again" in err
    assert run(*argv, "-q").status == 0
    assert run("verify", "-q").status == 0


def test_a_reader_that_goes_away_is_no_error(here: Path) -> None:
    from penstock.engine.journal import Failure
    from penstock.ledger import Ledger

    with Ledger("l.db") as ledger:
        ledger.open()
        failures = (Failure(f"file:///{number:05}", "parse", "bad " * 50) for number in range(5000))
        ledger.record(failures, run=1)
    argv = [sys.executable, "-m", "penstock", "failures", "--state", "l.db"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith("document")
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_a_run_goes_on_when_nobody_reads_its_progress(many: Path, model: str, run: Run) -> None:
    argv = ("ingest", "docs", "--into", "lance://./index", "--model", model)
    with started(0.01, *argv, "--json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read()
        assert (process.wait(30), err) == (141, "")
    assert run("status", "--json").lines[0]["done"] == FILES + 2


def test_a_terminal_gets_a_live_picture_which_goes_when_the_run_ends(many: Path, model: str) -> None:
    import pty

    ours, theirs = pty.openpty()
    argv = [sys.executable, "-c", SLOW.format(nap=0.02), "ingest", "docs", "--into", "memory://", "--model", model]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=theirs, env={**os.environ, "TERM": "xterm"}) as process:
        os.close(theirs)
        shown = b""
        # A terminal whose other end is closed reads as an error, not as an end.
        with contextlib.suppress(OSError):
            while part := os.read(ours, 65536):
                shown += part
        os.close(ours)
        assert process.stdout is not None
        assert b"122 added" in process.stdout.read()
    assert process.returncode == 0
    for part in (b"documents", b"chunks/s", b"in flight", b"bottleneck", b"512.0 MiB"):
        assert part in shown
    assert shown.rindex(b"\x1b[?25h") > shown.rindex(b"\x1b[?25l"), "the cursor is back"
    assert shown.endswith(b"\x1b[2K"), "and the picture wiped out"


def test_it_runs_with_its_streams_closed_as_under_a_daemon(many: Path, model: str, run: Run) -> None:
    command = f"{sys.executable} -m penstock ingest docs --into lance://./index --model {model} >&- 2>&-"
    assert subprocess.run(["sh", "-c", command], check=False).returncode == 0
    assert run("status", "--json").lines[0]["done"] == FILES + 2
