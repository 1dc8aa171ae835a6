"""The commands, over the real library: LanceDB, the ledger and a small model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from penstock.embedders import names
from penstock.jobs.rerank import rerankers
from penstock.sinks.memory import forget
from penstock.testing.embedders import OverlapReranker
from tests.cli.conftest import SENTENCE, Run

LANCE = "lance://./index"


def test_the_main_job(ingest: Run, run: Run) -> None:
    first = ingest(into=LANCE)
    assert first.status == 0
    assert "2 added · 0 changed · 0 unchanged · 0 deleted · 0 failed · 0 skipped" in first.out
    assert "2 embedded" in first.out
    again = ingest(into=LANCE)
    assert again.status == 0
    assert again.out.startswith("0 changed (2 documents) in ")
    search = run("search", SENTENCE, "--in", LANCE, "-k", "1")
    assert search.status == 0
    assert "docs/gates.md" in search.out
    assert "Gates" in search.out
    assert SENTENCE in search.out
    Path("docs/gates.md").write_text("# Gates\n\nThey are shut.\n")
    Path("docs/two words.txt").unlink()
    assert "0 added · 1 changed · 0 unchanged · 1 deleted" in ingest("--allow-mass-delete", into=LANCE).out


def test_json_lines_for_machines(ingest: Run, run: Run, index: str) -> None:
    ran = ingest("--json")
    assert ran.status == 0
    assert ran.err == ""
    *progress, report = ran.lines
    assert progress
    assert {line["event"] for line in progress} == {"progress"}
    assert {"in_flight", "budget", "bottleneck", "eta"} <= set(progress[0])
    assert (report["event"], report["ok"], report["counts"]["added"]) == ("report", True, 2)
    hits = run("search", SENTENCE, "--in", index, "--json").lines
    assert len(hits) == 2
    assert hits[0]["score"] > hits[1]["score"]
    assert hits[0]["text"].endswith(SENTENCE)
    assert hits[0]["uri"].endswith("/docs/gates.md")


def test_quiet_says_nothing(ingest: Run) -> None:
    ran = ingest("-q")
    assert (ran.status, ran.out, ran.err) == (0, "", "")


def test_copies_of_a_text_are_one_result(ingest: Run, run: Run, index: str) -> None:
    """So that five copies of a document do not fill the first five results."""
    for name in "bcdef":
        Path(f"docs/{name}.md").write_text(Path("docs/gates.md").read_text())
    ingest("-q")
    search = run("search", SENTENCE, "--in", index, "-k", "2")
    assert search.out.count(SENTENCE) == 1
    assert "Nothing here is about turbines." in search.out
    assert "and 5 more: docs/" in search.out
    assert "and 2 other documents" in search.out
    first, second = run("search", SENTENCE, "--in", index, "-k", "2", "--json").lines
    assert len({first["uri"], *first["copies"]}) == 6
    assert second["copies"] == []
    assert run("search", SENTENCE, "--in", index, "-k", "5", "--all").out.count(SENTENCE) == 5


def test_a_search_by_score_and_type(ingest: Run, run: Run, index: str) -> None:
    ingest("-q")
    hits = run("search", SENTENCE, "--in", index, "--json").lines
    best, other = (hit["score"] for hit in hits)
    assert len(run("search", SENTENCE, "--in", index, "--json", "--threshold", str((best + other) / 2)).lines) == 1
    assert len(run("search", SENTENCE, "--in", index, "--json", "--type", "text").lines) == 2
    none = run("search", SENTENCE, "--in", index, "--type", "image")
    assert "nothing found" in none.err
    assert run("search", SENTENCE, "--in", index, "--type", "video").status == 2


def test_documents_that_failed_before_are_said_to_have(ingest: Run, run: Run) -> None:
    Path("docs/broken.pdf").write_bytes(b"%PDF-1.7\nnot at all")
    ingest("-q")
    assert "0 changed (2 documents, 1 failed before)" in ingest().out
    planned = run("plan").out
    assert "2 unchanged" in planned
    assert "1 failed before" in planned


def test_chunks_that_the_model_could_not_take_whole_are_counted(ingest: Run) -> None:
    Path("docs/numbers.txt").write_text(" ".join(str(n) for n in range(3000)))
    shown = ingest("--chunk", "4000 characters").out
    assert "chunks are shorter than asked for: 4000 characters are often more than the 510 tokens that" in shown


def test_a_search_of_several_indexes(ingest: Run, run: Run, index: str) -> None:
    """Merged by rank; each hit says which index it is from, and counts are added up."""
    other = f"{index}-other"
    ingest("--include", "*.md")
    ingest("--include", "*.txt", "--state", "other.db", into=other)
    both = ("--in", index, "--in", other)
    hits = run("search", SENTENCE, *both, "--json").lines
    assert [(hit["index"], hit["score"]) for hit in hits] == [(index, 1 / 61), (other, 1 / 61)]
    assert [hit["index"] for hit in run("search", SENTENCE, "--in", other, "--json").lines] == [other]
    shown = run("search", SENTENCE, *both).out
    assert f"in {index}\n" in shown
    assert f"in {other}\n" in shown
    assert f"in {index}" not in run("search", SENTENCE, "--in", index).out
    for words in ([SENTENCE], []):
        facets = run("search", *words, *both, "--facets", "type", "--json").lines[-1]
        assert facets == {"facets": {"type": [{"value": "text", "count": 2}]}}
    refused = run("search", SENTENCE, *both, "--threshold", "0.5")
    assert (refused.status, "merged by rank" in refused.err) == (2, True)
    for words in ([SENTENCE], ["--facets", "type"]):
        assert run("search", *words, "--in", index, "--in", index).status == 2
        gone = run("search", *words, "--in", index, "--in", "memory://gone")
        assert (gone.status, "memory://gone" in gone.err) == (3, True)


def test_search_in_one_document_named_by_its_path(ingest: Run, run: Run, index: str) -> None:
    ingest("-q")
    ran = run("search", SENTENCE, "--in", index, "--document", "docs/two words.txt")
    assert "docs/two words.txt" in ran.out
    assert "gates.md" not in ran.out


def test_a_broken_document_is_status_1_and_in_failures(ingest: Run, run: Run) -> None:
    Path("docs/broken.pdf").write_bytes(b"%PDF-1.7\nnot at all")
    ran = ingest()
    assert ran.status == 1
    assert "1 failed" in ran.out
    assert "penstock failures" in ran.out
    listed = run("failures")
    assert listed.status == 0
    head, row = listed.out.splitlines()
    assert head.split("\t") == ["document", "stage", "place", "cause", "attempts", "when", "accepted"]
    assert row.split("\t")[:2] == ["docs/broken.pdf", "parse"]
    assert run("failures", "--json").lines[0]["attempts"] == 1
    assert run("verify").status == 1
    assert run("retry").status == 1
    assert run("failures", "--json").lines[0]["attempts"] == 2
    Path("docs/broken.pdf").write_text("A plain text after all.")
    assert run("retry", "-q").status == 0
    assert run("failures").out.strip() == "no failures"
    assert run("retry").out.strip() == "nothing to retry"


def test_nothing_of_a_file_name_reaches_the_terminal_as_a_command(ingest: Run, run: Run) -> None:
    name = "docs/\x1b]0;gotcha\x07.pdf"
    Path(name).write_bytes(b"%PDF-1.7\nnot at all")
    ran = ingest()
    shown = ran.out + ran.err + run("failures").out + run("status").out
    assert "gotcha" in shown
    assert not {"\x1b", "\x07"} & set(shown)


def test_a_mass_deletion_is_refused_with_status_3(ingest: Run) -> None:
    ingest("-q")
    for path in Path("docs").iterdir():
        path.unlink()
    ran = ingest()
    assert ran.status == 3
    assert "--allow-mass-delete" in ran.err
    assert "MassDeletion" not in ran.err
    ran = ingest("--allow-mass-delete")
    assert (ran.status, "2 deleted" in ran.out) == (0, True)


def test_the_limit_of_deletions_is_an_option(ingest: Run, run: Run) -> None:
    """On the command line and, as everything there, remembered: `plan` warns of what the run refuses."""
    ingest("-q", "--max-delete", "0")
    next(Path("docs").iterdir()).unlink()
    planned = run("plan")
    assert "1 to delete" in planned.out
    assert "--allow-mass-delete" in planned.err
    assert ingest("--max-delete", "0").status == 3
    assert ingest("--max-delete", "100%").status == 0
    refused = ingest("--max-delete", "most")
    assert (refused.status, "expected a share such as 10%" in refused.err) == (2, True)


def test_an_index_of_another_ledger_is_status_3_unless_adopted(ingest: Run) -> None:
    ingest("-q")
    ran = ingest("--state", "other.db")
    assert ran.status == 3
    assert "--adopt" in ran.err
    ran = ingest("--state", "other.db", "--adopt")
    assert ran.status == 0
    assert "adopted 2 points" in ran.out
    assert "0 embedded" in ran.out


def test_another_chunking_is_refused_with_status_3(ingest: Run) -> None:
    ingest("-q")
    ran = ingest("--chunk", "100 tokens")
    assert ran.status == 3
    assert "100 tokens" in ran.err


def test_plan_says_what_a_run_would_do_and_does_not_do_it(run: Run, model: str, ingest: Run, index: str) -> None:
    ran = run("plan", "docs", "--into", index, "--model", model)
    assert ran.status == 0
    assert "2 new · 0 changed" in ran.out
    assert "docs/two words.txt" in ran.out
    assert not list(Path().glob(".penstock/*"))
    ingest("-q")
    Path("docs/new.txt").write_text("A third.")
    plan = run("plan", "--json").lines[0]
    assert (plan["new"], plan["unchanged"], plan["chunks"]) == (1, 2, 1)


def test_status(ingest: Run, run: Run, index: str) -> None:
    ingest("-q")
    ran = run("status")
    assert ran.status == 0
    assert "2 done" in ran.out
    assert index in ran.out
    status = run("status", "--json").lines[0]
    assert (status["documents"], status["acknowledged"], status["runs"][0]["status"]) == (2, 2, "done")
    assert status["ledger_bytes"] > 1000


def test_verify_and_repair(ingest: Run, run: Run, index: str) -> None:
    ingest("-q")
    assert run("verify").out.splitlines()[-1] == "source, ledger and index agree"
    Path("docs/new.txt").write_text("A third.")
    ran = run("verify")
    assert ran.status == 1
    assert "outdated" in ran.out
    assert "penstock verify --repair" in ran.out
    assert run("verify", "--repair", "-q").status == 0
    assert run("verify", "--json").lines[0]["ok"] is True


def test_explain_leads_from_a_point_to_its_origin(ingest: Run, run: Run, index: str) -> None:
    ingest("-q")
    hit = run("search", SENTENCE, "--in", index, "--json").lines[0]
    ran = run("explain", hit["id"])
    assert ran.status == 0
    for part in ("docs/gates.md", "markdown", "Gates", SENTENCE, "256 tokens"):
        assert part in ran.out
    origin = run("explain", hit["id"], "--json").lines[0]
    assert (origin["run"]["id"], origin["chunk"]["text"]) == (1, hit["text"])
    assert run("explain", "0" * 32).status == 1
    forget(index)
    ran = run("explain", hit["id"])
    assert ran.status == 0
    assert "docs/gates.md" in ran.out


def test_a_toml_file_says_the_same_as_the_options(run: Run, model: str, index: str) -> None:
    Path("penstock.toml").write_text(f'source = "docs"\ninto = "{index}"\nmodel = "{model}"\nexclude = ["*.txt"]\n')
    ran = run("run", "penstock.toml", "--json")
    assert ran.status == 0
    assert ran.lines[-1]["counts"]["added"] == 1
    Path("penstock.toml").write_text(f'source = "docs"\ninto = "{index}"\ncolour = "red"\n')
    ran = run("run", "penstock.toml")
    assert ran.status == 2
    assert "colour" in ran.err


def test_with_several_ledgers_one_is_to_be_chosen(ingest: Run, run: Run) -> None:
    ingest("-q")
    first = next(Path(".penstock").glob("*.db"))
    ingest("-q", into="memory://second")
    ran = run("status")
    assert ran.status == 2
    assert f"--state {first}" in ran.err
    assert "second" in ran.err
    assert run("status", "--state", str(first)).status == 0


def test_without_a_ledger_it_says_how_to_begin(run: Run) -> None:
    ran = run("failures")
    assert ran.status == 2
    assert "penstock ingest" in ran.err


def test_models_are_listed_and_found(run: Run, model: str) -> None:
    ran = run("models")
    assert ran.status == 0
    assert "all-MiniLM-L6-v2" in ran.out
    assert run("models", "fetch", model).out.strip() == model


def test_the_default_model_is_fetched_where_none_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from penstock.cli.commands import models

    monkeypatch.setattr(models, "resolve", lambda name: f"folder of {name}")
    assert run("models", "fetch").out == "folder of None\n"


@pytest.mark.parametrize("error", [PermissionError("not yours"), UnicodeError("odd")])
def test_an_error_of_the_system_is_no_traceback(
    run: Run, ingest: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, index: str
) -> None:
    from penstock.jobs.search import OpenIndex

    ingest("-q")

    def search(*args: object) -> None:
        raise error

    monkeypatch.setattr(OpenIndex, "search", search)
    ran = run("search", "x", "--in", index)
    assert ran.status == 3
    assert ran.err.count("\n") == 1


def test_reindex_and_back(ingest: Run, run: Run) -> None:
    """In words and in JSON; the ledger that other commands find by themselves is the current index's."""
    ingest(into=LANCE)
    reindexed = run("reindex", "--chunk", "200 characters")
    assert reindexed.status == 0
    assert "table=chunks_1 · " in reindexed.out
    assert "recall     100.0%" in reindexed.out
    assert "reindex --rollback" in reindexed.out
    assert run("search", SENTENCE, "--in", LANCE, "-k", "1").out.count("gates.md") == 1
    assert ".1.db" in run("status").out
    assert run("verify").status == 0
    refused = ingest(into=LANCE)
    assert refused.status == 3
    assert "200 characters" in refused.err
    assert run("reindex", "--rollback").out.startswith("current: lance://")
    assert ingest(into=LANCE).out.startswith("0 changed")
    dropped = run("reindex", "--drop", "--json").lines[0]["dropped"]
    assert dropped[0].endswith("?table=chunks_1")
    assert run("reindex", "--drop").out == "nothing to drop\n"
    (report,) = run("reindex", "--chunk", "100 characters", "--json").lines[-1:]
    assert (report["switched"], report["recall"]) == (True, 1.0)


@pytest.mark.parametrize("words", [[], ["--rollback", "--chunk", "5 tokens"], ["--rollback", "--drop"]], ids=str)
def test_reindex_says_what_it_takes(ingest: Run, run: Run, words: list[str]) -> None:
    ingest(into=LANCE)
    refused = run("reindex", *words)
    assert refused.status == 2
    assert "--rollback" in refused.err


def test_namespaces_share_an_index(ingest: Run, run: Run) -> None:
    """Each verified by itself, searched together."""
    for name in ("one", "two"):
        assert ingest("--namespace", name, "--state", f"{name}.db", into=LANCE).status == 0
    assert len(run("search", SENTENCE, "--in", LANCE, "--json", "--all").lines) == 4
    assert [len(hit["copies"]) for hit in run("search", SENTENCE, "--in", LANCE, "--json").lines] == [1, 1]
    assert "points     2 in the index" in run("verify", "--state", "one.db").out
    assert "--namespace" in ingest("--state", "three.db", into=LANCE).err


def test_a_hybrid_search_says_which_legs_found_a_hit(ingest: Run, run: Run, index: str) -> None:
    ingest("-q")
    shown = run("search", "turbines", "--in", index, "--hybrid")
    assert re.search(r"(vector \d · words 1|words 1 · vector \d)", shown.out)
    first, *others = run("search", "turbines", "--in", index, "--hybrid", "words=2,vector=0.5", "--json").lines
    assert first["text"] == "Nothing here is about turbines."
    assert first["legs"]["words"] == 1
    assert [{*hit["legs"]} for hit in others] == [{"vector"}]
    assert all(hit["legs"] == {} for hit in run("search", "turbines", "--in", index, "--json").lines)
    only = run("search", "turbines", "--in", index, "--hybrid", "words=1", "--json").lines
    assert [hit["legs"] for hit in only] == [{"words": 1}]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--hybrid", "late=1"], "no leg 'late': the index has no leg of that name; expected words, vector"),
        (["--hybrid", "words:2"], "invalid weights 'words:2': expected LEG=WEIGHT,..., such as words=0.5,vector=1"),
        (["--hybrid", "words=two"], "invalid weights"),
        (["--hybrid", "words=-1"], "invalid weight -1.0 of 'words'"),
        (["--hybrid", "--using", "vector"], "expected one of these two"),
        (["--hybrid", "--threshold", "0.1"], "cannot be compared"),
        (["--distinct", "--all"], "not allowed with"),
    ],
)
def test_hybrid_searches_that_are_refused(ingest: Run, run: Run, index: str, options: list[str], says: str) -> None:
    ingest("-q")
    refused = run("search", "turbines", "--in", index, *options)
    assert refused.status == 2
    assert says in refused.err


def test_near_duplicates_are_collapsed_on_request(ingest: Run, run: Run, index: str) -> None:
    """As on the page, by their vectors."""
    for name in "bc":
        Path(f"docs/{name}.md").write_text(Path("docs/gates.md").read_text())
    ingest("-q")
    hits = run("search", SENTENCE, "--in", index, "--distinct", "--json").lines
    assert [(hit["stands_for"], hit["copies"]) for hit in hits] == [(3, []), (1, [])]
    assert "and 2 near-duplicates" in run("search", SENTENCE, "--in", index, "--distinct").out
    assert [hit["stands_for"] for hit in run("search", SENTENCE, "--in", index, "--json").lines] == [3, 1]
    assert run("search", SENTENCE, "--in", index, "--distinct", "--hybrid", "--json").lines[0]["stands_for"] == 3


def test_a_search_is_reranked_and_tells_the_ranks_before(
    ingest: Run, run: Run, index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies are one hit, as in any search."""
    Path("docs/copy.md").write_text(Path("docs/gates.md").read_text())
    ingest("-q")
    model = OverlapReranker()
    monkeypatch.setattr(names, "reranker", lambda name: model)
    rerankers.drop()
    try:
        first, second = run("search", "turbines", "--in", index, "--rerank", "overlap", "-k", "2", "--json").lines
        assert first["text"] == "Nothing here is about turbines."
        assert first["rank_before"] in (1, 2, 3)
        assert second["stands_for"] == 2
        assert model.asked == [("turbines", 3)]
        shown = run("search", "turbines", "--in", index, "--rerank", "overlap", "--hybrid").out
        assert re.search(r"before: [123]", shown)
        every = run("search", "turbines", "--in", index, "--rerank", "overlap", "--all", "--json").lines
        assert [hit["text"] for hit in every] == [first["text"], second["text"], second["text"]]
    finally:
        rerankers.drop()


def test_what_is_no_reranker_is_refused(ingest: Run, run: Run, index: str) -> None:
    ingest("-q")
    refused = run("search", "turbines", "--in", index, "--rerank", "./docs")
    assert refused.status != 0
    assert "there is no model at ./docs" in refused.err
