"""`penstock documents`, `explain` of a document, and `remove`."""

from __future__ import annotations

import io
import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from penstock.ledger import Ledger
from penstock.pipeline import Pipeline
from penstock.testing.embedders import HashingEmbedder
from penstock.testing.sources import ListSource
from tests.cli.conftest import Run

HOSTILE = os.fsdecode(b"docs/na\xffme\x1b[31m\n.txt")


@pytest.fixture
def filled(ingest: Run, here: Path) -> Run:
    """Documents of every state: done, failed, skipped, in part, and such that are passed over."""
    for name in ("old/1.md", "old/2.md", "older.md", "x.tmp", ".hidden.md"):
        (here / "docs" / name).parent.mkdir(exist_ok=True)
        (here / "docs" / name).write_text(f"The text of {name}.\n")
    Path("docs/broken.pdf").write_bytes(b"%PDF-1.7\nnot at all")
    Path("docs/unknown.bin").write_bytes(bytes(range(256)))
    Path("docs/link.md").symlink_to("older.md")
    Path(HOSTILE).write_text("A name that is none.\n")

    def again(*options: str) -> Any:
        return ingest("--exclude", "*.tmp", *options)

    again("-q")
    return again


def names(run: Run, *argv: str) -> list[str]:
    ran = run("documents", *argv)
    assert ran.status == 0, ran.err
    return [line.split("\t")[0] for line in ran.out.splitlines()[1:]]


def test_all_documents_by_name(filled: Run, run: Run) -> None:
    ran = run("documents")
    lines = [line.split("\t") for line in ran.out.splitlines()]
    assert lines[0] == ["document", "state", "chunks", "changed"]
    listed = {line[0]: line[1:3] for line in lines[1:]}
    assert listed.pop("docs/na\ufffdme\ufffd[31m .txt") == ["done", "1"]  # nothing of it commands a terminal
    assert listed == {
        "docs/broken.pdf": ["failed", "0"],
        "docs/gates.md": ["done", "1"],
        "docs/old/1.md": ["done", "1"],
        "docs/old/2.md": ["done", "1"],
        "docs/older.md": ["done", "1"],
        "docs/two words.txt": ["done", "1"],
        "docs/unknown.bin": ["skipped", "0"],
    }
    assert [line[0] for line in lines[1:]] == names(run)
    records = run("documents", "--json").lines
    assert [record["uri"] for record in records] == sorted(record["uri"] for record in records)
    assert {record["state"] for record in records} == {"done", "failed", "skipped"}
    assert all(record["changed"] > 1e9 and record["cause"] == "" for record in records)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("old/", ["docs/old/1.md", "docs/old/2.md"]),
        ("./docs/old", ["docs/old/1.md", "docs/old/2.md", "docs/older.md"]),
        ("*.pdf", ["docs/broken.pdf"]),
        ("docs/*.md", ["docs/gates.md", "docs/older.md"]),
        ("docs/**/?.md", ["docs/old/1.md", "docs/old/2.md"]),
        ("[12].md", ["docs/old/1.md", "docs/old/2.md"]),
        ("two words", ["docs/two words.txt"]),
        ("file://**/gates.md", ["docs/gates.md"]),
    ],
)
def test_a_part_of_the_name_or_a_glob(filled: Run, run: Run, pattern: str, expected: list[str]) -> None:
    assert names(run, pattern) == expected
    assert names(run, pattern, "--limit", "1") == expected[:1]


def test_an_absolute_path_is_a_name_as_well(filled: Run, run: Run, here: Path) -> None:
    assert names(run, str(here / "docs" / "old")) == names(run, "docs/old")
    assert names(run, str(here / "docs" / "*.pdf")) == ["docs/broken.pdf"]


def test_what_matches_nothing_is_status_1(filled: Run, run: Run) -> None:
    ran = run("documents", "nosuch\x1b[31m")
    assert (ran.status, ran.out) == (1, "")
    assert "no document matches nosuch\ufffd[31m" in ran.err
    assert run("documents", "--removed").out == "no documents\n"
    assert run("documents", "--removed", "--json").out == ""
    assert run("documents", "--removed", "--failing").status == 2
    assert run("documents", "--limit", "0").status == 2
    assert run("documents", "!*.md").status == 2
    assert run("documents", "--state", "nosuch.db").status == 2
    assert not Path("nosuch.db").exists()


def test_failing_documents_are_those_that_a_retry_tries(filled: Run, run: Run) -> None:
    assert names(run, "--failing") == ["docs/broken.pdf", "docs/unknown.bin"]
    assert names(run, "pdf", "--failing") == ["docs/broken.pdf"]


def test_missing_documents_are_those_that_the_source_no_longer_has(filled: Run, run: Run, here: Path) -> None:
    assert run("documents", "--missing").out == "no documents\n"
    Path("docs/old/1.md").unlink()
    Path("docs/older.md").rename("docs/.older.md")
    assert names(run, "--missing") == ["docs/old/1.md", "docs/older.md"]
    assert {line["cause"] for line in run("documents", "--missing", "--json").lines} == {"the source no longer has it"}
    Path("docs").rename("away")
    ran = run("documents", "--missing")  # an unmounted disk is no news of each document
    assert ran.status == 3
    assert "cannot read" in ran.err


def test_a_ledger_of_many_documents_is_listed_by_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first comes before the others are read, and no statement sorts."""
    with Ledger.writer(tmp_path / "ledger.db") as ledger:
        run = ledger.begin_run("space")
        ledger.begin([f"doc:{n:05}" for n in range(2000)], run)
    pipeline = Pipeline(
        ListSource(), into=f"memory://{tmp_path}", model=HashingEmbedder(8), state=tmp_path / "ledger.db"
    )
    statements: list[str] = []
    read = Ledger._read

    def noted(self: Ledger, sql: str, *parameters: Any) -> list[Any]:
        statements.append(sql)
        return read(self, sql, *parameters)

    monkeypatch.setattr(Ledger, "_read", noted)
    documents = pipeline.documents()
    assert next(documents).uri == "doc:00000"
    (page,) = [sql for sql in statements if "ORDER BY d.uri" in sql]
    assert sum(1 for _ in documents) == 1999
    assert len([sql for sql in statements if "ORDER BY d.uri" in sql]) == 5
    with sqlite3.connect(tmp_path / "ledger.db") as db:
        plan = " ".join(row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {page}", ("", 500)))
    db.close()
    assert "SEARCH d USING INDEX sqlite_autoindex_documents_1 (uri>?)" in plan
    assert "TEMP B-TREE" not in plan


# ---------------------------------------------------------------- explain


def verdict(run: Run, name: str) -> tuple[int, str, str]:
    ran = run("explain", name, "--json")
    report = ran.lines[0]
    assert report["ok"] == (ran.status == 0)
    return ran.status, report["verdict"], report["reason"]


def test_a_document_in_the_index_is_explained(filled: Run, run: Run, here: Path) -> None:
    ran = run("explain", "docs/gates.md", "--chunks")
    assert ran.status == 0
    for text in ("docs/gates.md", "indexed", "done", "markdown (text/markdown)", "1 in memory://", "# Gates The gate"):
        assert text in ran.out
    for name in ("docs/../docs/gates.md", str(here / "docs/gates.md"), (here / "docs/gates.md").as_uri()):
        assert verdict(run, name) == (0, "indexed", "it is in the index as in the source")
    report, chunk = run("explain", "docs/gates.md", "--chunks", "--json").lines
    assert (report["chunks"], report["run"]["id"], report["document"]["parser"]) == (1, 1, "markdown")
    assert run("explain", chunk["id"]).status == 0
    assert chunk["text"].startswith("# Gates")
    assert run("explain", chunk["id"], "--chunks").status == 2


@pytest.mark.parametrize(
    ("name", "expected", "reason"),
    [
        ("docs/broken.pdf", "failed", "not a readable PDF"),
        ("docs/unknown.bin", "skipped", ""),
        ("docs/x.tmp", "passed over", "excluded: "),
        ("docs/.hidden.md", "passed over", "hidden: "),
        ("docs/link.md", "passed over", "link: "),
        ("docs/nosuch.md", "missing", "the source has no such document"),
        ("/etc/hostname", "unknown", "not within file://"),
        ("s3://bucket/key", "unknown", "not within file://"),
    ],
)
def test_why_a_document_is_not_in_the_index(filled: Run, run: Run, name: str, expected: str, reason: str) -> None:
    status, said, why = verdict(run, name)
    assert (status, said) == (1, expected)
    assert why.startswith(reason)
    ran = run("explain", name)
    assert ran.status == 1
    assert expected in ran.out


def test_what_happened_since_the_last_run(filled: Run, run: Run) -> None:
    Path("docs/new.md").write_text("new")
    assert verdict(run, "docs/new.md")[1] == "new"
    Path("docs/gates.md").write_text("# Gates\n\nThey are shut.\n")
    assert verdict(run, "docs/gates.md")[1] == "changed"
    Path("docs/old/1.md").unlink()
    assert verdict(run, "docs/old/1.md")[1] == "gone"
    Path("docs/old/2.md").rename("docs/old/.2.md")
    Path("docs/old/2.md").symlink_to(".2.md")
    assert verdict(run, "docs/old/2.md")[1] == "passed over"
    filled("-q", "--allow-mass-delete")
    assert [verdict(run, f"docs/{name}")[1] for name in ("new.md", "gates.md")] == ["indexed", "indexed"]
    assert verdict(run, "docs/old/1.md")[1] == "missing"


def test_a_document_that_was_interrupted(filled: Run, run: Run, here: Path) -> None:
    uri = (here / "docs/gates.md").as_uri()
    (path,) = Path(".penstock").glob("*.db")
    with Ledger.writer(path) as ledger:
        ledger.begin([uri], ledger.begin_run("space"))
    assert verdict(run, "docs/gates.md")[1:] == ("unfinished", "a run was interrupted: the next one completes it")


def test_a_folder_or_nothing_is_no_document(filled: Run, run: Run) -> None:
    ran = run("explain", "docs/old")
    assert ran.status == 2
    assert "a folder of 2 documents" in ran.err
    assert run("explain", "").status == 2
    assert run("explain", HOSTILE).status == 0
    assert "\x1b" not in run("explain", HOSTILE).out + run("explain", f"{HOSTILE}x").out


# ---------------------------------------------------------------- remove


def test_a_folder_is_removed_for_good_and_let_in_again(filled: Run, run: Run) -> None:
    planned = run("remove", "docs/old", "docs/gates.md", "--dry-run")
    assert planned.status == 0
    assert "3 with 3 chunks would go" in planned.out
    assert "docs/old/1.md" in planned.out
    assert "docs/gates.md" in names(run)
    removed = run("remove", "docs/old", "docs/gates.md")
    assert (removed.status, removed.err) == (0, "")
    assert "3 with 3 chunks are out, and stay out" in removed.out
    assert names(run, "--removed") == ["docs/gates.md", "docs/old"]
    assert names(run, "--removed", "old") == ["docs/old"]
    assert verdict(run, "docs/old/1.md")[:2] == (1, "removed")
    report = filled("--json").lines[-1]
    assert report["passed_over"]["removed"] == 3
    assert report["counts"]["added"] == 0
    assert run("remove", "docs/old", "-q").out == ""  # once more is no error
    undone = run("remove", "--undo", "docs/old", "--json")
    assert [Path(uri).name for uri in undone.lines[0]["uris"]] == ["old"]
    assert filled("--json").lines[-1]["counts"]["added"] == 2
    assert verdict(run, "docs/old/1.md")[1] == "indexed"
    assert verdict(run, "docs/gates.md")[1] == "removed"


@pytest.mark.parametrize(
    "name", ["docs/nosuch", "/etc", "s3://bucket/prefix", "s3://bucket/\udcff", "docs/ol", "", f"{HOSTILE}x"]
)
def test_what_is_not_in_the_ledger_cannot_be_removed(filled: Run, run: Run, name: str) -> None:
    before = names(run)
    for options in ([], ["--dry-run"], ["--undo"]):
        ran = run("remove", "docs/older.md", name, *options)
        assert ran.status == 2, options
        assert "\x1b" not in ran.err
    assert names(run) == before
    assert run("remove", "docs/older.md", "--state", "nosuch.db").status == 2


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("argv", "answer", "goes"),
    [
        (["docs/old"], "y\n", True),
        (["docs/old"], "YES\n", True),
        (["docs/old"], "\n", False),
        (["docs/old"], "", False),
        (["docs/old", "--yes"], "n\n", True),
        (["docs/old/1.md"], "n\n", True),
    ],
)
def test_more_than_one_document_is_confirmed_at_a_terminal(
    filled: Run, run: Run, monkeypatch: pytest.MonkeyPatch, argv: list[str], answer: str, goes: bool
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    ran = run("remove", *argv)
    assert ran.status == (0 if goes else 1)
    asked = argv == ["docs/old"]
    assert ("Remove 2 documents with 2 chunks from the index for good? [y/N]" in ran.err) == asked
    assert ("nothing was removed" in ran.err) != goes
    assert ("docs/old/1.md" in names(run)) != goes


def test_components_of_ones_own_are_removed_in_python(run: Run, here: Path) -> None:
    """And listed from the command line."""
    source = ListSource({"doc:a": b"one", "doc:b": b"two"})
    pipeline = Pipeline(source, into="sqlite://index.db", model=HashingEmbedder(8), state="own.db")
    pipeline.run()
    assert names(run, "--state", "own.db") == ["doc:a", "doc:b"]
    for argv in (["remove", "doc:a"], ["explain", "doc:a"], ["documents", "--missing"]):
        ran = run(*argv, "--state", "own.db")
        assert ran.status == 2
        assert "use its Python object" in ran.err
    assert pipeline.remove("doc:a").documents == 1
    assert pipeline.explain("doc:a").verdict == "removed"
    assert json.dumps(pipeline.explain("doc:b").to_json())
    assert pipeline.explain("doc:b").ok
    assert [chunk.text for chunk in pipeline.chunks("doc:b")] == ["two"]
    del source.entries["doc:b"]
    assert [entry.uri for entry in pipeline.documents(missing=True)] == ["doc:b"]
