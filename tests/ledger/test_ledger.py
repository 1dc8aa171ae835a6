"""The ledger's file: who may hold it, what it refuses, what it knows after a kill."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.core.errors import LockedError, UsageError
from penstock.engine.journal import ChunkEntry, Ending, Failure
from penstock.ledger import Ledger, schema

HOLD = """
import sys, time
from penstock.ledger import Ledger
ledger = Ledger(sys.argv[1])
ledger.open()
{body}
print("held", flush=True)
time.sleep(60)
"""


def holder(path: Path, body: str = "") -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(body=body), str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_a_second_process_is_told_who_holds_the_ledger(tmp_path: Path) -> None:
    """And a kill -9 of the holder frees it: no lock is ever stale."""
    path = tmp_path / "ledger.db"
    process = holder(path)
    try:
        with pytest.raises(LockedError, match=rf"process {process.pid}\b"):
            Ledger(path).open()
        with Ledger(path) as reader:
            reader.open(exclusive=False)  # looking is free
            assert reader.counts().documents == 0
    finally:
        os.kill(process.pid, signal.SIGKILL)
        end(process)
    with Ledger(path) as ledger:
        ledger.open()


def test_a_second_ledger_of_one_process_is_refused_too(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db") as first:
        first.open()
        with pytest.raises(LockedError, match=f"process {os.getpid()}"):
            Ledger(tmp_path / "ledger.db").open()
    with Ledger(tmp_path / "ledger.db") as second:
        second.open()


def test_what_was_committed_survives_a_kill(tmp_path: Path) -> None:
    """And what was not is gone: the write-ahead log is recovered by the next process."""
    path = tmp_path / "ledger.db"
    body = """
from penstock.engine.journal import ChunkEntry
run = ledger.begin_run("space")
begun = ledger.begin(["doc:a"], run)["doc:a"]
ledger.acknowledge([ChunkEntry(begun.document, bytes([n]) * 16, n, n, begun.attempt) for n in range(200)], run)
ledger._open().execute("BEGIN IMMEDIATE")
ledger._open().execute("DELETE FROM chunks")
"""
    process = holder(path, body)
    assert Path(f"{path}-wal").stat().st_size > 0
    end(process)
    with Ledger(path) as ledger:
        ledger.open()
        assert ledger.counts().acknowledged == 200
        assert ledger.begin_run("space") == 2
        assert [run.status for run in ledger.runs()] == ["running", "died"]


@pytest.mark.parametrize(
    "content", [b"not a database, but a text that somebody keeps here", b"SQLite format 3\0" + b"\xff" * 4096]
)
def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="cannot open the ledger"):
        Ledger(path).open()
    assert path.read_bytes() == content


@pytest.mark.parametrize("version", [0, schema.VERSION])
def test_the_database_of_somebody_else_is_refused_and_left_alone(tmp_path: Path, version: int) -> None:
    """Whatever it says its version is: many programs leave it at 0, and many count from 1."""
    path = tmp_path / "ledger.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE invoices (amount INTEGER)")
        db.execute(f"PRAGMA user_version={version}")
    db.close()
    before = path.read_bytes()
    with pytest.raises(UsageError, match="not a ledger"):
        Ledger(path).open()
    assert path.read_bytes() == before


def test_a_ledger_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with Ledger(path) as ledger:
        ledger.open()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(UsageError, match=r"newer Penstock \(schema 99"):
        Ledger(path).open()


def test_a_ledger_that_is_only_looked_at_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing has been ingested there"):
        Ledger(tmp_path / "none.db").open(create=False)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_a_mistake_in_usage(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot open the ledger"):
        Ledger(tmp_path / "file" / "ledger.db").open()


def test_a_closed_ledger_says_so(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.open()
    ledger.close()
    ledger.close()
    with pytest.raises(UsageError, match="closed"):
        ledger.counts()


def test_a_comparison_finds_what_is_missing_orphaned_and_doubled(tmp_path: Path) -> None:
    ids = [bytes([n]) * 16 for n in range(6)]
    with Ledger(tmp_path / "ledger.db") as ledger:
        ledger.open()
        run = ledger.begin_run("space")
        begun = ledger.begin(["doc:a"], run)["doc:a"]
        rows = [ChunkEntry(begun.document, id, n, n, begun.attempt) for n, id in enumerate(ids)]
        ledger.intend(rows)
        ledger.acknowledge(rows[:4], run)  # 4 and 5 were on their way: there or not, neither is wrong
        held = [[ids[0].hex(), ids[1].hex()], [ids[1].hex(), ids[4].hex()], ["ab" * 16, "a name of its own"]]
        comparison = ledger.compare(held)
        try:
            assert comparison.total == 6
            assert [id for _, id in comparison.missing()] == [ids[2], ids[3]]
            assert sorted(comparison.orphans()) == ["a name of its own", "ab" * 16]
            assert list(comparison.doubled()) == [ids[1].hex()]
        finally:
            comparison.close()


@pytest.mark.parametrize("text", ["caf\udce9.txt: permission denied", "nul \0 byte", "\N{SNOWMAN}" * 5000])
def test_a_failure_of_any_text_is_written_down(tmp_path: Path, text: str) -> None:
    """File names that are no UTF-8 reach the messages of the operating system."""
    with Ledger(tmp_path / "ledger.db") as ledger:
        ledger.open()
        ledger.record([Failure("doc:a", "read", text, place=text[:20])], run=1)
        (told,) = ledger.failures()
        assert told.cause[:4] == text[:4].replace("\udce9", "?")


def test_a_ledger_from_before_there_were_several_sinks_is_opened(tmp_path: Path) -> None:
    """What it lacks is made, and what it holds stays."""
    path = tmp_path / "ledger.db"
    with sqlite3.connect(path) as db:
        schema.STEPS[0](db)
        db.execute("INSERT INTO meta VALUES ('id', 'abc')")
        db.execute("INSERT INTO documents (uri, state, seen, run, attempt) VALUES ('doc:a', 'done', 1, 1, 1)")
        db.execute("INSERT INTO failures VALUES ('doc:a', 'parse', 'page 7', 'torn', 1, 2, 1.0, 2.0)")
        db.execute(f"PRAGMA application_id={schema.APPLICATION}")
        db.execute("PRAGMA user_version=1")
    db.close()
    with Ledger.writer(path) as ledger:
        assert ledger.id == "abc"
        assert ledger.members() == {}
        assert ledger.counts().documents == 1
        assert [(f.place, f.cause, f.attempts, f.attempt) for f in ledger.failures()] == [("page 7", "torn", 2, 0)]
    with Ledger.reader(path) as ledger:
        assert ledger.counts().failures == 1


def test_failures_are_cleared_by_attempts_and_not_by_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that is set back, or forward, neither keeps a mended failure nor erases a fresh one."""
    import penstock.ledger.failures as failures

    times = iter((1_000_000.0, 500_000.0, 2_000_000.0) * 10)
    monkeypatch.setattr(failures.time, "time", lambda: next(times))
    with Ledger.writer(tmp_path / "ledger.db") as ledger:
        for _ in range(3):
            run = ledger.begin_run("space")
            begun = ledger.begin(["doc:a"], run)["doc:a"]
            fresh = Failure("doc:a", "parse", "torn", place=f"page {begun.attempt}", attempt=begun.attempt)
            ledger.record([fresh, Failure("list:a", "list", "denied")], run)
            ledger.finish([Ending(begun.document, begun.attempt, "doc:a", "f", "done", {})])
            ledger.clear_listing(run)
            left = [(f.stage, f.place) for f in ledger.failures()]
            assert left == [("parse", f"page {begun.attempt}"), ("list", "")]
            ledger.clear_listing(run + 1)
            assert [f.stage for f in ledger.failures()] == ["parse"]


class Accepting:
    """A ledger, and runs in which documents fail."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def fail(self, uri: str, fingerprint: str, *stages: str, state: str = "failed", cause: str = "torn") -> int:
        """A run in which that version of the document fails at these stages."""
        run = self.ledger.begin_run("space")
        begun = self.ledger.begin([uri], run)[uri]
        self.ledger.record([Failure(uri, stage, cause, attempt=begun.attempt) for stage in stages], run)
        self.ledger.finish([Ending(begun.document, begun.attempt, uri, fingerprint, state, {})])
        return run

    @property
    def accepted(self) -> list[tuple[str, str]]:
        return [(failure.uri, failure.stage) for failure in self.ledger.failures() if failure.accepted]


@pytest.fixture
def accepting(tmp_path: Path) -> Iterator[Accepting]:
    with Ledger.writer(tmp_path / "ledger.db") as ledger:
        yield Accepting(ledger)


def test_a_failure_is_accepted_for_a_version_of_its_document(accepting: Accepting) -> None:
    """It stays so where the same fails again; another version, or another stage, is a new failure."""
    ledger = accepting.ledger
    accepting.fail("doc:a", "version 1", "parse")
    accepting.fail("doc:b", "version 1", "parse")
    assert ledger.accept_failures(["doc:a"]) == 1
    assert accepting.accepted == [("doc:a", "parse")]
    assert (ledger.counts().failures, ledger.counts().accepted, ledger.accepted_documents("failed")) == (2, 1, 1)
    run = accepting.fail("doc:a", "version 1", "parse", cause="torn after 3 s")
    assert (accepting.accepted, ledger.unaccepted(run)) == ([("doc:a", "parse")], 0)
    run = accepting.fail("doc:a", "version 1", "parse", "embed")
    assert (accepting.accepted, ledger.unaccepted(run)) == ([("doc:a", "parse")], 1)
    assert ledger.accepted_documents("failed") == 0
    run = accepting.fail("doc:a", "version 2", "parse")
    assert (accepting.accepted, ledger.unaccepted(run)) == ([], 1)
    assert [failure.uri for failure in ledger.pressing(run)] == ["doc:a", "doc:b"]


def test_an_accepted_failure_that_is_mended_is_forgotten(accepting: Accepting) -> None:
    accepting.fail("doc:a", "version 1", "parse")
    accepting.ledger.accept_failures()
    accepting.fail("doc:a", "version 1", state="done")
    accepting.fail("doc:a", "version 1", "parse")
    assert accepting.accepted == []


def test_failures_to_list_are_accepted_though_they_have_no_version(accepting: Accepting) -> None:
    ledger = accepting.ledger
    denied = Failure("file:///closed", "list", "denied", permanent=False)
    ledger.record([denied], ledger.begin_run("space"))
    assert ledger.accept_failures() == 1
    run = ledger.begin_run("space")
    ledger.record([denied], run)
    assert (accepting.accepted, ledger.unaccepted(run)) == ([("file:///closed", "list")], 0)


def test_what_is_accepted_can_count_again(accepting: Accepting) -> None:
    accepting.fail("doc:a", "version 1", "parse", "embed")
    assert accepting.ledger.accept_failures() == 2
    assert accepting.ledger.accepted("doc:a")
    assert accepting.ledger.unaccept_failures(["doc:a"]) == 2
    assert not accepting.ledger.accepted("doc:a")
    assert accepting.accepted == []


def test_of_documents_that_have_not_failed_nothing_is_accepted(accepting: Accepting) -> None:
    accepting.fail("doc:a", "version 1", "parse")
    with pytest.raises(UsageError, match="no failure of doc:b"):
        accepting.ledger.accept_failures(["doc:a", "doc:b"])
    assert accepting.accepted == []


def test_a_document_of_a_type_that_nothing_reads_does_not_press(accepting: Accepting) -> None:
    run = accepting.fail("doc:a", "version 1", "parse", state="skipped")
    assert list(accepting.ledger.pressing(0)) == list(accepting.ledger.noted(0)) == []
    assert accepting.ledger.unaccepted(run) == 0
    assert len(list(accepting.ledger.failures())) == 1


def test_failures_noted_by_later_runs_are_told_apart(accepting: Accepting) -> None:
    first = accepting.fail("doc:a", "version 1", "parse")
    accepting.fail("doc:b", "version 1", "parse")
    assert [failure.uri for failure in accepting.ledger.noted(first)] == ["doc:b"]
    assert [failure.uri for failure in accepting.ledger.pressing(first)] == ["doc:a", "doc:b"]


def test_since_when_a_sink_is_behind(tmp_path: Path) -> None:
    """The run that goes on, or the next one between two; and it stays the first of them until it has caught up."""
    with Ledger(tmp_path / "ledger.db") as ledger:
        ledger.open()
        ledger.enlist({"a": None, "b": None, "c": None})
        ledger.fell_behind("a", ["ab" * 16, "not hexadecimal"])
        for _ in range(2):
            run = ledger.begin_run("space")
            ledger.fell_behind("a")
        ledger.fell_behind("b")
        ledger.end_run(run, "done", {})
        ledger.fell_behind("c")
        assert ledger.members() == {"a": 1, "b": 2, "c": 3}
        assert sorted(ledger.undeleted("a", 10)) == ["ab" * 16, "not hexadecimal"]
        ledger.deleted("a", ["ab" * 16])
        assert ledger.undeleted("a", 10) == ["not hexadecimal"]
        ledger.caught_up("b")
        ledger.enlist({"b": None, "a": None})
        assert ledger.members() == {"a": None, "b": None}
        assert not ledger.undeleted("a", 10)
