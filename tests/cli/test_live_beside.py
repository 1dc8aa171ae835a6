"""The commands beside a `penstock ingest --live` in a process of its own."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.support import inotify
from tests.cli.conftest import Run
from tests.live import free_port, until

pytestmark = pytest.mark.skipif(not inotify.available(), reason="there is no inotify on this system")


class Following:
    """A run that follows docs/ in a process of its own."""

    def __init__(self, here: Path, model: str, run: Run) -> None:
        self.here, self.run, self.port = here, run, free_port()
        self.argv = ["ingest", "docs", "--into", "sqlite://./index.db", "--model", model, "--state", "l.db"]
        self.argv += ["--live", "--stop-ok"]
        # Into a file, as nobody reads a pipe.
        self.err = here / "err.txt"
        with self.err.open("w") as stream:
            argv = [*self.argv, "--metrics", f"127.0.0.1:{self.port}", "--log-format", "json"]
            self.process = subprocess.Popen([sys.executable, "-m", "penstock", *argv], stderr=stream)

    def until(self, condition: Callable[[], object]) -> None:
        def met() -> object:
            assert self.process.poll() is None, self.err.read_text()
            return condition()

        until(met, 90, self.err.read_text)

    def status(self) -> dict[str, Any]:
        status = self.run("status", "--json", "--state", "l.db")
        return status.lines[0] if status.status == 0 else {}  # the run has not made its ledger yet

    def documents(self) -> int:
        return int(self.status().get("done", 0))

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()


@pytest.fixture
def following(here: Path, model: str, run: Run) -> Iterator[Following]:
    for n in range(4):
        (here / "docs" / f"{n}.txt").write_text(f"This is text number {n}.")
    one = Following(here, model, run)
    try:
        one.until(lambda: one.documents() == 6 and one.status()["live"])
        yield one
        one.process.send_signal(signal.SIGTERM)
        assert one.process.wait(60) == 0, one.err.read_text()
    finally:
        one.process.kill()
        one.process.wait()


def test_each_command_works_beside_it(following: Following, run: Run) -> None:
    state = ("--state", "l.db")
    (following.here / "docs" / "new.txt").write_text("Something new.")
    following.until(lambda: following.documents() == 7)
    verified = run("verify", "--json", *state)
    assert verified.status == 0, verified
    assert verified.lines[0]["in_sync"] > 0
    assert run("verify", "--repair", "-q", *state).status == 0
    assert re.search(r"in sync +as of \d", run("verify", *state).out)
    explained = run("explain", "docs/new.txt", *state)
    assert explained.status == 0
    assert re.search(r"indexed +.* s after it was heard of · .* s after it was changed", explained.out)
    entry = next(one for one in run("documents", "--json", *state).lines if one["uri"].endswith("new.txt"))
    assert entry["since_heard"] >= 0
    assert entry["searchable"] > 0
    assert "no failures" in run("failures", *state).out
    retried = run("retry", *state)
    assert (retried.status, "nothing to retry" in retried.out) == (0, True), retried
    removed = run("remove", "docs/new.txt", "-y", "--json", *state)
    assert (removed.status, removed.lines[0]["documents"]) == (0, 1), removed
    assert following.documents() == 6
    assert run("remove", "docs/new.txt", "--undo", *state).status == 0
    plan = run("plan", "--json", *state)
    assert (plan.status, plan.lines[0]["new"]) == (0, 1), plan
    second = run(*following.argv)
    assert second.status == 4
    assert f"process {following.process.pid}" in second.err


def test_a_reindex_beside_it_is_followed_and_loses_no_change(following: Following, run: Run) -> None:
    """Though the run was begun with other chunks: it goes on with those of the new generation."""
    docs = following.here / "docs"
    reindex = subprocess.Popen(
        [sys.executable, "-m", "penstock", "reindex", "--chunk", "100 characters", "--state", "l.db", "-q"],
        stderr=subprocess.PIPE,
        text=True,
    )
    number = 0
    while reindex.poll() is None:
        number += 1
        (docs / "changing.txt").write_text(f"This is version {number} of a text that changes. " * 5)
        (docs / f"{number % 4}.txt").write_text(f"This is text {number % 4}, and its version {number}.")
    assert reindex.communicate()[1] == ""
    assert reindex.returncode == 0
    (docs / "afterwards.txt").write_text("This came after the switch.")
    one = following

    def there() -> bool:
        rows = run("documents", "afterwards", "--state", "l.db", "--json")
        return rows.status == 0 and rows.lines[0]["state"] == "done"

    one.until(there)
    assert one.status()["ledger"] == "l.1.db"
    one.until(lambda: run("verify", "--json", "--state", "l.db").status == 0)  # other changes may be on their way
    hits = run("search", "version", "--in", "sqlite://./index.db", "--json", "-k", "50", "--all").lines
    texts = " ".join(hit["text"] for hit in hits)
    assert f"version {number} of a text" in texts
    assert f"text {number % 4}, and its version {number}." in texts


def test_metrics_and_health(following: Following) -> None:
    following.until(lambda: 'penstock_run_total{what="documents"} 6\n' in following.get("/metrics")[1])
    status, text = following.get("/metrics")
    assert status == 200
    figures = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert figures['penstock_run_total{what="documents"}'] == "6"
    assert figures["penstock_live_trouble"] == "0"
    assert float(figures['penstock_freshness_seconds{since="heard",quantile="0.5"}']) >= 0
    following.until(lambda: "penstock_live_in_sync_age_seconds" in following.get("/metrics")[1])
    assert following.get("/healthz") == (200, "alive\n")
    assert following.get("/else")[0] == 404
    # One that says nothing, and one that trickles, hold up others for a moment at most.
    with socket.create_connection(("127.0.0.1", following.port)):
        assert following.get("/healthz")[0] == 200
    log = [json.loads(line) for line in following.err.read_text().splitlines()]
    assert any(line["event"] == "progress" and line["live"]["watching"] for line in log)


def test_a_run_that_is_stuck_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from penstock.cli import endpoint
    from penstock.engine.progress import COUNTERS, Progress

    now = [1000.0]
    monkeypatch.setattr(endpoint.time, "monotonic", lambda: now[0])
    health = endpoint.Health()

    def moment(queued: int, documents: int, waiting: str = "") -> None:
        counts = dict.fromkeys(COUNTERS, 0) | {"documents": documents}
        health(Progress(1.0, counts, (), 1, True, 0, queued=queued, waiting=waiting))

    moment(0, 0)
    now[0] += endpoint.SILENT + 1
    assert "no sign of life" in health.trouble
    for _ in range(30):  # away is not stuck
        now[0] += 50
        moment(3, 1, "write: connection refused")
        assert not health.trouble
    for _ in range(30):  # nor is idle
        now[0] += 50
        moment(0, 1)
        assert not health.trouble
    for _ in range(13):
        now[0] += 50
        moment(3, 1)
    assert "none has got on" in health.trouble
    moment(3, 2)
    assert not health.trouble


def test_an_address_for_metrics(here: Path, model: str, run: Run) -> None:
    for address in ("9100", "127.0.0.1:http", "127.0.0.1:70000"):
        result = run("ingest", "docs", "--into", "sqlite://./i.db", "--model", model, "--metrics", address)
        assert result.status == 2
        assert "expected HOST:PORT, such as 127.0.0.1:9100" in result.err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        result = run("ingest", "docs", "--into", "sqlite://./i.db", "--model", model, "--metrics", address)
    assert result.status == 2
    assert f"cannot serve metrics at {address}: Address already in use" in result.err
