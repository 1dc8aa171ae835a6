"""Ledgers: one an index, found again whatever changes about the source; listed, and removed where they are dead."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from penstock.core.errors import MassDeletion, UsageError
from penstock.jobs.ledgers import files, paths, summary
from penstock.ledger import Ledger
from penstock.pipeline import Pipeline
from penstock.sinks.memory import forget
from penstock.testing.embedders import HashingEmbedder

from .conftest import Run


def only() -> Path:
    [path] = paths(Path(".penstock"))
    return path


def test_an_exclude_takes_documents_out(ingest: Run) -> None:
    """It is the same index of the same source: what is excluded now leaves it, under the guard."""
    ingest("-q")
    ran = ingest("--exclude", "*.txt", "--max-delete", "10%")
    assert ran.status == 3
    assert "1 documents with 1 of 2 chunks" in ran.err
    ran = ingest("--exclude", "*.txt")
    assert (ran.status, "1 deleted" in ran.out) == (0, True)
    assert len(paths(Path(".penstock"))) == 1
    assert ingest().status == 0  # and back


def test_another_name_of_the_folder_is_a_move(ingest: Run, run: Run, model: str, index: str) -> None:
    """Nothing is embedded, nothing counts as deleted; plan says the same."""
    ingest("-q")
    Path("docs").rename("papers")
    again = ("papers", "--into", index, "--model", model, "--max-delete", "0")
    planned = run("plan", *again)
    assert "0 chunks" in planned.out
    assert "2 to delete" in planned.out
    assert "--allow-mass-delete" not in planned.err
    ran = run("ingest", *again)
    assert ran.status == 0, ran.err
    assert "0 embedded" in ran.out or "2 moved" in ran.out
    assert len(paths(Path(".penstock"))) == 1


def test_another_source_does_not_silently_replace_the_first(ingest: Run, run: Run, model: str, index: str) -> None:
    """However large it is: what is new does not make less of what would be lost."""
    ingest("-q")
    other = Path("other")
    other.mkdir()
    for n in range(20):
        (other / f"{n}.md").write_text(f"Something else, number {n}.\n")
    ran = run("ingest", "other", "--into", index, "--model", model)
    assert ran.status == 3
    assert "2 documents with 2 of 2 chunks" in ran.err
    assert "--namespace" in ran.err


def test_a_ledger_of_an_earlier_version_is_found(ingest: Run, run: Run, index: str) -> None:
    """Its name was made of the source as well: the settings that it remembers tell what it fills."""
    ingest("-q")
    path = only()
    for file in files(path):
        file.rename(file.with_name(file.name.replace(path.stem, "index-0123abcd")))
    ran = ingest()
    assert "0 changed (2 documents)" in ran.out
    assert only().stem == "index-0123abcd"
    assert run("status").status == 0


def test_several_that_filled_one_index_are_a_question(ingest: Run) -> None:
    ingest("-q")
    path = only()
    shutil.copy(path, path.with_name("copy.db"))
    path.rename(path.with_name("another.db"))
    ran = ingest()
    assert ran.status == 2
    assert "--state .penstock/another.db" in ran.err
    assert "--state .penstock/copy.db" in ran.err


def test_a_refused_plan_is_what_a_run_would_say(ingest: Run, run: Run, model: str, index: str) -> None:
    ingest("-q", "--state", "one.db")
    refused = ingest("--state", "two.db")
    planned = run("plan", "docs", "--into", index, "--model", model, "--state", "two.db")
    assert (refused.status, planned.status) == (3, 3)
    assert planned.err == refused.err
    assert "filled by the ledger one.db" in refused.err.replace(f"{Path.cwd()}/", "")
    assert not Path("two.db").exists()


@pytest.mark.parametrize("options", [("--model", "no/such-model"), ("--chunk", "1000000 tokens")])
def test_a_run_that_is_refused_leaves_no_ledger_behind(run: Run, model: str, options: tuple[str, str]) -> None:
    ran = run(
        "ingest", "docs", "--into", "lance://./new", *(() if "--model" in options else ("--model", model)), *options
    )
    if ran.status == 0:
        return
    assert ran.status in (2, 3)
    assert not [*Path(".penstock").glob("*")]


def test_ledgers_are_listed(ingest: Run, run: Run, index: str) -> None:
    assert run("ledgers").status == 2
    ingest("-q")
    [listed] = run("ledgers", "--json").lines
    assert (listed["documents"], listed["chunks"], listed["status"]) == (2, 2, "done")
    assert (listed["into"], listed["source"]) == ([index], [str(Path("docs").absolute())])
    Path(".penstock/broken.db").write_bytes(b"not a database" * 100)
    shown = run("ledgers").out
    assert index in shown
    assert "broken.db" in shown


def test_dead_ledgers_are_pruned(ingest: Run, run: Run, index: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those whose index is gone, or that another fills. One that cannot be read or reached is left alone."""
    ingest("-q")
    ingest("-q", into="sqlite://./gone.db")
    ingest("-q", into="sqlite://./kept.db")
    ingest("-q", "--state", ".penstock/stolen.db", "--adopt")
    Path(".penstock/broken.db").write_bytes(b"not a database" * 100)
    Path("gone.db").unlink()
    assert run("ledgers", "--prune").status == 2  # nobody is there to say yes
    assert len(paths(Path(".penstock"))) == 5
    ran = run("ledgers", "--prune", "--yes")
    assert (ran.status, "removed 2 ledgers" in ran.out) == (0, True)
    assert "gone.db is gone" in ran.out
    assert "filled by another ledger" in ran.out
    left = [summary(path) for path in paths(Path(".penstock"))]
    assert sorted(one.into[0].rpartition("/")[2] for one in left if one.into) == sorted([index[9:], "kept.db"])
    assert "nothing to prune" in run("ledgers", "--prune").out


def test_a_ledger_in_use_is_not_pruned(ingest: Run, run: Run) -> None:
    ingest("-q", into="sqlite://./gone.db")
    Path("gone.db").unlink()
    with Ledger.writer(only()):
        ran = run("ledgers", "--prune", "--yes")
    assert ran.status == 4
    assert "using the ledger" in ran.err
    assert only().exists()


def test_paths_in_a_toml_are_from_where_it_is(
    run: Run, model: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As cron runs it, from anywhere; and moved with its folder, it goes on there."""
    job = here / "job"
    job.mkdir()
    (here / "docs").rename(job / "docs")
    shutil.copytree(model, job / "model")
    (job / "penstock.toml").write_text(
        'source = "docs"\ninto = ["sqlite://./notes.db"]\nmodel = "model"\nstate = "state.db"\n'
    )
    assert run("run", "job/penstock.toml").status == 0
    assert (job / "notes.db").exists()
    assert (job / "state.db").exists()
    monkeypatch.chdir("/")
    assert "0 changed (2 documents)" in run("run", str(job / "penstock.toml")).out
    monkeypatch.chdir(job)
    assert "0 changed (2 documents)" in run("run", "penstock.toml").out
    assert Pipeline.from_toml("penstock.toml").ledger.path == Path("state.db")


def test_a_folder_whose_mount_is_gone(ingest: Run) -> None:
    """It is empty, and complete: the guard is what stands between it and an empty index."""
    ingest("-q")
    for path in Path("docs").iterdir():
        path.unlink()
    assert ingest().status == 3


def test_a_state_that_is_a_folder_is_refused(here: Path) -> None:
    with pytest.raises(UsageError, match="cannot open the ledger"):
        Pipeline("docs", into="memory://none", model=HashingEmbedder(8), state=here).run()
    forget("memory://none")


def test_what_was_there_twice_is_no_loss(here: Path) -> None:
    """Of two files with one text, one goes: no text is lost."""
    docs = here / "twice"
    docs.mkdir()
    for n in range(4):
        (docs / f"{n}.md").write_text("The same words.\n")

    def pipeline() -> Pipeline:
        return Pipeline(docs, into=f"memory://{here}", model=HashingEmbedder(8), state=here / "t.db", max_delete=0)

    pipeline().run()
    (docs / "0.md").unlink()
    assert pipeline().run().deleted == 1
    for n in (1, 2, 3):
        (docs / f"{n}.md").unlink()
    with pytest.raises(MassDeletion, match="3 documents with 3 of 3 chunks"):
        pipeline().run()
    with closing(sqlite3.connect(here / "t.db")) as db:
        assert db.execute("SELECT count(*) FROM documents").fetchone() == (3,)
    forget(f"memory://{here}")
