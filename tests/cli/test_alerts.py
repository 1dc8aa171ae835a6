"""`penstock alert`, and searches in windows of time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import SENTENCE, Run
from tests.live import until


@pytest.fixture
def indexed(here: Path, ingest: Run) -> Path:
    assert ingest().status == 0
    return here


def test_alerts_are_added_listed_and_removed(indexed: Path, run: Run, ingest: Run) -> None:
    assert run("alert", "list").out == "no alerts\n"
    added = run(
        "alert", "add", SENTENCE, "--name", "gates", "--score", "0.99", "--exec", "cat", "--where", "extension=md"
    )
    assert added.status == 0, added.err
    assert "embedded from now on" in added.out
    (one,) = run("alert", "list", "--json").lines
    assert (one["name"], one["query"], one["score"], one["command"]) == ("gates", SENTENCE, 0.99, "cat")
    assert (one["where"], one["matches"], one["delivered"]) == ({"extension": "md"}, 0, 0)
    assert run("alert", "add", "x", "--name", "gates").status == 2
    for name in ("found.md", "not markdown.txt"):
        (indexed / "docs" / name).write_text(SENTENCE)
    assert ingest().status == 0
    (one,) = run("alert", "list", "--json").lines
    assert (one["matches"], one["delivered"], one["waiting"], one["lost"]) == (1, 1, 0, 0)
    run("alert", "remove", "gates")
    assert run("alert", "remove", "gates").status == 2
    assert run("alert", "list", "--json").lines == []


def test_matches_are_shown(indexed: Path, run: Run, ingest: Run) -> None:
    added = run("alert", "add", "anything", "--score", "-1", "--name", "all", "--json")
    assert added.lines[0]["name"] == "all"
    (indexed / "docs" / "new.md").write_text("A new text on turbines.")
    assert ingest().status == 0
    assert json.loads(run("status", "--json").out)["alerts"] == 1
    assert "1, 0 matches waiting to be delivered" in run("status").out
    table = run("alert", "list").out.splitlines()
    assert table[0].split("\t")[:3] == ["alert", "query", "score"]
    assert table[1].split("\t")[:3] == ["all", "anything", "-1"]
    (match,) = run("alert", "tail", "--json").lines
    assert match["uri"].endswith("/docs/new.md")
    assert match["text"] == "A new text on turbines."
    assert {"key", "alert", "query", "score", "chunk", "metadata", "time"} <= match.keys()
    shown = run("alert", "tail").out
    assert "docs/new.md" in shown
    assert "A new text on turbines." in shown
    for n in range(3):
        (indexed / "docs" / f"{n}.md").write_text(f"A new text, number {n}.")
        assert ingest().status == 0
    assert [Path(one["uri"]).name for one in run("alert", "tail", "-n", "2", "--json").lines] == ["1.md", "2.md"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["add", " "], "invalid query"),
        (["add", "x", "--webhook", "nothing"], "invalid webhook"),
        (["add", "x", "--webhook", "http://h/", "--exec", "cat"], "not allowed with"),
        (["add", "x", "--where", "page"], "invalid --where"),
        (["add", "x", "--score", "much"], "invalid float"),
        (["add", "x", "--using", "other"], "unknown vector 'other'"),
        (["remove", "x"], "no alert named 'x'"),
        ([], "required"),
    ],
)
def test_what_cannot_be_is_refused(indexed: Path, run: Run, argv: list[str], message: str) -> None:
    ran = run("alert", *argv)
    assert ran.status == 2
    assert message in ran.err


def test_tail_goes_on(indexed: Path, run: Run, ingest: Run) -> None:
    run("alert", "add", "anything", "--score", "-1", "--name", "all")
    (indexed / "docs" / "before.md").write_text("A text of before.")
    assert ingest().status == 0
    out = indexed / "out"
    with (
        out.open("w") as file,
        subprocess.Popen(
            [sys.executable, "-m", "penstock", "alert", "tail", "--follow", "--json"], stdout=file
        ) as tail,
    ):
        try:

            def shown() -> list[str]:
                return [Path(json.loads(line)["uri"]).name for line in out.read_text().splitlines()]

            until(lambda: shown() == ["before.md"], 60, shown)
            (indexed / "docs" / "after.md").write_text("A text of after.")
            assert ingest().status == 0
            until(lambda: shown() == ["before.md", "after.md"], 60, shown)
        finally:
            tail.terminate()


def test_searches_in_windows_of_time(indexed: Path, run: Run, ingest: Run, index: str) -> None:
    """By `time`, where a document has one, else by `modified`."""
    old = time.time() - 3 * 3600
    os.utime(indexed / "docs" / "gates.md", (old, old))
    (indexed / "docs" / "gates.md").write_text("Another text on gates.")
    os.utime(indexed / "docs" / "gates.md", (old, old))
    assert ingest().status == 0

    def found(*options: str) -> set[str]:
        ran = run("search", "gates", "--in", index, "--json", *options)
        assert ran.status == 0, ran.err
        return {Path(line["uri"]).name for line in ran.lines}

    assert found("--since", "2h") == {"two%20words.txt"}
    assert found("--since", "4h") == {"two%20words.txt", "gates.md"}
    assert found("--since", "2020-01-01") == {"two%20words.txt", "gates.md"}
    assert found("--since", "2h", "--where", "extension=md") == set()
    facets = run("search", "--facets", "extension", "--since", "2h", "--in", index, "--json").lines
    assert facets == [{"facets": {"extension": [{"value": "txt", "count": 1}]}}]
    refused = run("search", "gates", "--in", index, "--since", "soon")
    assert refused.status == 2
    assert "invalid since 'soon': expected a time such as 2h" in refused.err
