"""Runs that nobody watches: logs of JSON, what a quiet run says, exit statuses, failures that somebody lives with."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import penstock as ps
from penstock.cli.commands import ledger as commands
from penstock.cli.commands.runs import NAMED
from penstock.cli.output.streams import STATUSES
from penstock.core.errors import LockedError, StageError
from penstock.engine.journal import Failure
from penstock.ledger import Ledger
from tests.cli.conftest import ROOT, Ran, Run

EXAMPLES = ROOT / "examples"
BROKEN = b"%PDF-1.7\nnot at all"


def events(ran: Ran) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ran.err.splitlines()]


@pytest.fixture
def broken(here: Path) -> Path:
    path = here / "docs" / "broken.pdf"
    path.write_bytes(BROKEN)
    return path


# ---------------------------------------------------------------- logs


def test_a_log_of_json_tells_a_run_from_its_start_to_its_end(ingest: Run, index: str, broken: Path) -> None:
    ran = ingest("--log-format", "json")
    assert (ran.status, ran.out) == (1, "")
    start, *progress, failure, end = events(ran)
    assert (start["event"], start["command"], start["index"]) == ("start", "ingest", index)
    assert progress
    assert {event["event"] for event in progress} == {"progress"}
    assert {"in_flight", "budget", "bottleneck", "eta"} <= set(progress[0])
    assert (failure["event"], failure["level"], failure["document"]) == ("failure", "error", broken.as_uri())
    assert (failure["stage"], failure["attempts"], failure["accepted"]) == ("parse", 1, False)
    assert failure["cause"]
    assert (end["event"], end["level"], end["ok"], end["exit_status"]) == ("end", "error", False, 1)
    assert (end["status"], end["counts"]["added"], end["failing"]) == ("done", 2, 1)
    for event in events(ran):
        assert event["time"].endswith("Z")
        assert datetime.fromisoformat(event["time"]).utcoffset() == timedelta(0)
        assert event["level"] in ("info", "warning", "error")


def test_a_log_has_the_failures_of_its_own_run(ingest: Run, run: Run, broken: Path) -> None:
    """What failed before, and was not tried again, is a number at the end; `retry` tries it again."""
    ingest("--log-format", "json")
    again = events(ingest("--log-format", "json"))
    assert "failure" not in {event["event"] for event in again}
    assert (again[-1]["failing"], again[-1]["exit_status"]) == (1, 1)
    retried = events(run("retry", "--log-format", "json"))
    assert [event["attempts"] for event in retried if event["event"] == "failure"] == [2]


def test_the_log_is_beside_the_results(ingest: Run, run: Run) -> None:
    ran = ingest("--log-format", "json", "--json")
    assert [line["event"] for line in ran.lines] == ["report"]
    assert events(ran)[-1]["event"] == "end"
    ran = run("verify", "--log-format", "json")
    assert (ran.status, ran.out) == (0, ""), ran.err
    assert (events(ran)[-1]["ok"], events(ran)[-1]["points"]) == (True, 2)
    Path("docs/new.txt").write_text("A third.")
    assert events(run("verify", "--log-format", "json", "--repair"))[-1]["repaired"]["counts"]["added"] == 1


def test_a_reindex_logs_what_fails_in_the_new_index(ingest: Run, run: Run, index: str, broken: Path) -> None:
    ingest("-q")
    ran = run("reindex", "--chunk", "100 tokens", "--log-format", "json")
    told = events(ran)
    assert ran.out == ""
    assert [event["document"] for event in told if event["event"] == "failure"] == [broken.as_uri()]
    assert (told[-1]["event"], told[-1]["switched"], told[-1]["exit_status"]) == ("end", True, ran.status)
    ran = run("reindex", "--rollback", "--log-format", "json")
    assert (ran.out, events(ran)[-1]["current"]) == ("", [index])


def test_notices_are_events(ingest: Run, run: Run) -> None:
    ingest("-q")
    ran = ingest("--log-format", "json", "--state", "other.db", "--adopt")
    (notice,) = (event for event in events(ran) if event["event"] == "notice")
    assert (notice["level"], "adopted 2 points" in notice["message"]) == ("warning", True)


def test_an_error_that_ends_a_run_is_an_event_with_its_traceback(
    run: Run, ingest: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_API_KEY", "hunter2")

    def fails(*_: object, **__: object) -> None:
        raise StageError("embed", "doc:7", ValueError("bad shape, hunter2"))

    monkeypatch.setattr(ps.Pipeline, "run", fails)
    ran = ingest("--log-format", "json")
    start, error = events(ran)
    assert (ran.status, start["event"]) == (3, "start")
    assert (error["event"], error["level"], error["stage"], error["document"]) == ("error", "error", "embed", "doc:7")
    assert error["cause"] == "ValueError: bad shape, ***"
    assert "ValueError: bad shape, ***" in error["traceback"]
    assert "hunter2" not in ran.err
    plain = ingest()
    assert plain.err == "penstock: embed at doc:7: ValueError: bad shape, *** (PENSTOCK_DEBUG=1 shows where)\n"


def test_what_failed_before_an_error_ended_the_run_is_logged(
    ingest: Run, broken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ps.Pipeline.run

    def fails(self: ps.Pipeline, *args: Any, **options: Any) -> None:
        real(self, *args, **options)
        raise StageError("write", None, ValueError("full"))

    monkeypatch.setattr(ps.Pipeline, "run", fails)
    assert [event["event"] for event in events(ingest("--log-format", "json"))][-2:] == ["failure", "error"]
    assert "docs/broken.pdf: parse: " in ingest("-q").err


# ---------------------------------------------------------------- quiet runs


def test_a_quiet_run_names_what_failed_as_long_as_it_does(ingest: Run, run: Run, broken: Path) -> None:
    for _ in range(2):
        ran = ingest("-q")
        assert (ran.status, ran.out) == (1, "")
        assert ran.err.startswith("penstock: docs/broken.pdf: parse: ")
        assert ran.err.count("\n") == 1
    assert run("verify", "-q").err == ran.err
    Path("docs/raw.bin").write_bytes(bytes(range(256)) * 40)  # nothing reads it, and that is no failure
    broken.unlink()
    ran = ingest("-q")
    assert (ran.status, ran.out, ran.err) == (0, "", "")


def test_a_quiet_run_names_a_few_and_counts_the_rest(ingest: Run) -> None:
    for number in range(NAMED + 3):
        Path(f"docs/{number:02}.pdf").write_bytes(BROKEN)
    ran = ingest("-q")
    assert ran.err.count("docs/") == NAMED
    assert ran.err.splitlines()[-1] == "penstock: and 3 more: `penstock failures` lists all"


def test_a_quiet_log_has_failures_and_errors_only(ingest: Run, broken: Path) -> None:
    for _ in range(2):
        ran = ingest("-q", "--log-format", "json")
        assert (ran.status, ran.out) == (1, "")
        assert [event["event"] for event in events(ran)] == ["failure"]


def test_a_quiet_run_names_the_store_that_is_behind(ingest: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real = ps.Pipeline.run
    behind = ("qdrant://host:6333/notes",)
    monkeypatch.setattr(ps.Pipeline, "run", lambda *args, **options: replace(real(*args, **options), behind=behind))
    ran = ingest("-q")
    assert (ran.status, ran.err.count("\n")) == (1, 1)
    assert ran.err.startswith("penstock: qdrant://host:6333/notes: away")


# ---------------------------------------------------------------- failures that somebody lives with


def test_accepted_failures_are_left_out_of_the_exit_status(ingest: Run, run: Run, broken: Path) -> None:
    assert ingest("-q").status == 1
    assert run("failures", "--accept", "docs/broken.pdf").out == "1 failure accepted\n"
    ran = ingest()
    assert (ran.status, ran.err) == (0, "")
    assert "1 document could not be indexed whole, accepted" in ran.out
    assert ingest("-q").err == ""
    assert run("verify", "-q").status == 0
    assert "documents that could not be indexed, accepted" in run("verify").out
    assert run("failures", "--json").lines[0]["accepted"] is True
    assert run("failures").out.splitlines()[1].endswith("\tyes")
    assert "1, accepted" in run("status").out
    status = run("status", "--json").lines[0]
    assert (status["failures"], status["accepted"], status["documents_accepted"]) == (1, 1, 1)
    assert run("retry", "-q").status == 0
    Path("docs/other.pdf").write_bytes(BROKEN)
    ran = ingest()
    assert ran.status == 1
    assert "2 documents could not be indexed whole, 1 of them accepted" in ran.out
    assert "2, 1 of them accepted" in run("status").out
    assert ingest("-q").err.count("\n") == 1


def test_a_document_that_changes_and_fails_again_is_a_new_failure(ingest: Run, run: Run, broken: Path) -> None:
    ingest("-q")
    run("failures", "--accept-all")
    assert ingest("-q").status == 0
    broken.write_bytes(BROKEN + b" again")
    assert ingest("-q").status == 1
    assert run("failures", "--json").lines[0]["accepted"] is False


def test_acceptance_is_taken_back(ingest: Run, run: Run, broken: Path) -> None:
    ingest("-q")
    assert run("failures", "--accept", broken.as_uri(), "--json").lines == [{"accepted": 1}]
    assert run("failures", "--unaccept", broken.as_uri(), "--json").lines == [{"unaccepted": 1}]
    assert ingest("-q").status == 1


def test_what_has_not_failed_cannot_be_accepted(ingest: Run, run: Run, broken: Path) -> None:
    ingest("-q")
    ran = run("failures", "--accept", "docs/gates.md")
    assert (ran.status, "docs/gates.md" in ran.err, "penstock failures" in ran.err) == (2, True, True)
    assert run("failures", "--accept", "docs/broken.pdf", "--accept-all").status == 2


def test_documents_that_each_run_tries_again_are_accepted(tmp_path: Path) -> None:
    """A model's service that cuts one document off each time, say."""
    import numpy as np

    def letters(texts: Sequence[str]) -> Any:
        if any("Another" in text for text in texts):
            raise ConnectionResetError("connection reset by peer")
        return np.array([[text.count(letter) for letter in "etaoin"] for text in texts], dtype=np.float32) + 0.1

    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.txt").write_text("A text.")
    (docs / "b.txt").write_text("Another.")
    pipeline = ps.Pipeline(docs, into=f"memory://{tmp_path}", model=letters, state=tmp_path / "l.db")
    report = pipeline.run()
    assert (report.failing, report.accepted, report.ok) == (1, 0, False)
    found = pipeline.verify()
    assert (found.outdated, found.failing, found.ok) == (1, 0, False)
    with Ledger.reader(pipeline.ledger.path) as ledger:
        assert ledger.counts().open == 1
        ledger.accept_failures()
    report = pipeline.run()
    assert (report.failing, report.accepted, report.unaccepted, report.ok) == (1, 1, 0, True)
    found = pipeline.verify()
    assert (found.failing, found.accepted, found.outdated, found.ok) == (1, 1, 0, True)


def test_tracebacks_are_shown_where_they_are_wanted(here: Path, run: Run) -> None:
    with Ledger.writer("l.db") as ledger:
        trace = 'Traceback\n  File "own.py", line 3, in chunk\n    \x1b[31mreturn 1 / 0\nZeroDivisionError: by nought'
        failure = Failure("file:///a.md", "chunk", "ZeroDivisionError: by nought", traceback=trace)
        ledger.record([failure, Failure("file:///b.md", "parse", "torn")], run=1)
    shown = run("failures", "--state", "l.db", "--traceback").out
    assert '     File "own.py", line 3, in chunk\n' in shown
    assert "\x1b" not in shown
    assert "/b.md · parse\n   torn" in shown
    assert "own.py" not in run("failures", "--state", "l.db").out
    assert all("traceback" not in line for line in run("failures", "--state", "l.db", "--json").lines)
    lines = run("failures", "--state", "l.db", "--json", "--traceback").lines
    assert [line["traceback"] for line in lines] == [trace, ""]


# ---------------------------------------------------------------- exit statuses


def test_a_second_run_ends_with_status_4(ingest: Run, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    ingest("-q")
    (path,) = Path(".penstock").glob("*.db")
    with Ledger.writer(path):
        ran = ingest("-q")
        assert (ran.status, ran.out) == (4, "")
        assert ran.err.startswith("penstock: another run (process ")
        assert ran.err.count("\n") == 1
        assert events(ingest("--log-format", "json"))[-1]["cause"].startswith("LockedError: another run")

    def status(args: object) -> int:
        raise StageError("write", None, LockedError("another worker has it"))

    monkeypatch.setattr(commands, "status", status)
    assert run("status").status == 4


def test_the_guide_and_the_help_have_every_exit_status(run: Run) -> None:
    guide = (ROOT / "docs" / "guide.md").read_text()
    table = guide.split("### Exit statuses")[1].split("\n#")[0]
    assert [int(number) for number in re.findall(r"^\| `?(\d+)`? \|", table, re.MULTILINE)] == list(STATUSES)
    shown = run("--help").out
    for status, meaning in STATUSES.items():
        assert f"  {status:<4} {meaning}\n" in shown


# ---------------------------------------------------------------- examples


@pytest.fixture
def installed(here: Path, model: str) -> Callable[[str], str]:
    """Text of an example, with the paths that it is installed with replaced by those of the test."""
    program = here / "bin" / "penstock"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m penstock "$@"\n')
    program.chmod(0o700)
    settings = f'source = ["docs"]\ninto = "sqlite://./index.db"\nmodel = {json.dumps(model)}\n'
    (here / "penstock.toml").write_text(settings)
    paths = {
        "/opt/penstock/bin/penstock": str(program),
        "/etc/penstock/penstock.toml": str(here / "penstock.toml"),
        "/var/lib/penstock": str(here),
    }

    def substitute(text: str) -> str:
        for before, after in paths.items():
            text = text.replace(before, after)
        return text

    return substitute


def unit(text: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[method-assign,assignment]
    parser.read_string(text)
    return parser


def test_the_service_does_a_run_and_logs_it(installed: Callable[[str], str], here: Path, run: Run) -> None:
    service = unit(installed((EXAMPLES / "systemd" / "penstock.service").read_text()))["Service"]
    assert (service["Type"], service["KillMode"], service["SuccessExitStatus"]) == ("oneshot", "mixed", "4")
    command = shlex.split(service["ExecStart"])
    done = subprocess.run(command, cwd=service["WorkingDirectory"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    told = [json.loads(line) for line in done.stderr.splitlines()]
    assert (told[0]["event"], told[-1]["event"], told[-1]["counts"]["added"]) == ("start", "end", 2)
    (path,) = (here / ".penstock").glob("*.db")
    with Ledger.writer(path):
        locked = subprocess.run(command, cwd=here, capture_output=True, check=False).returncode
    assert str(locked) == service["SuccessExitStatus"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_finds_nothing_wrong_with_the_units(installed: Callable[[str], str], here: Path) -> None:
    units = []
    for path in (EXAMPLES / "systemd").iterdir():
        (here / path.name).write_text(installed(path.read_text()))
        units.append(str(here / path.name))
    assert len(units) == 3
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False)
    about = [line for line in done.stderr.splitlines() if "penstock" in line]
    assert (done.returncode, about) == (0, []), done.stderr


def test_the_line_for_cron_says_nothing_unless_something_failed(
    installed: Callable[[str], str], here: Path, broken: Path
) -> None:
    lines = (EXAMPLES / "cron" / "penstock").read_text().splitlines()
    (job,) = (line for line in lines if re.match(r"\d", line))
    *when, user, command = job.split(maxsplit=6)
    assert (len(when), user) == (5, "penstock")
    assert "%" not in command, "cron takes it for the end of a line"

    def cron() -> subprocess.CompletedProcess[str]:
        return subprocess.run(["/bin/sh", "-c", installed(command)], capture_output=True, text=True, check=False)

    failed = cron()
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith("penstock: docs/broken.pdf: parse: ")
    broken.unlink()
    done = cron()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
