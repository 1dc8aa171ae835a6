"""`penstock evaluate`, and `reindex --questions`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from penstock.embedders import names
from penstock.sinks.memory import forget
from penstock.testing.embedders import OverlapReranker
from tests.cli.conftest import SENTENCE, Run

LANCE = "lance://./index"
LINE = {"question": SENTENCE, "uri": "docs/gates.md", "passage": "much water the pipe"}


@pytest.fixture
def questions(here: Path) -> str:
    (here / "q.jsonl").write_text(f"{json.dumps(LINE)}\n" * 3)
    return "q.jsonl"


def test_a_table_a_plot_and_json(ingest: Run, run: Run, index: str, questions: str) -> None:
    ingest()
    ran = run("evaluate", "--questions", questions, "--in", index, "-k", "2", "--plot", "q.svg")
    assert ran.status == 0
    table = [line.split("\t") for line in ran.out.splitlines() if "\t" in line]
    assert table[0] == ["leg", "recall@2", "nDCG@10", "MRR", "p50", "p95"]
    assert table[1][:4] == ["vector", *["1.00 (1.00–1.00)"] * 3]
    assert table[1][4].endswith(" ms")
    assert Path("q.svg").read_text().startswith("<svg ")
    ran = run("evaluate", "--questions", questions, "--in", index, "--json")
    assert ran.err == ""
    (record,) = ran.lines
    assert (record["questions"], record["k"], record["qualities"][0]["leg"]) == (3, 10, "vector")


def test_two_indexes_are_compared(
    ingest: Run, run: Run, index: str, questions: str, request: pytest.FixtureRequest
) -> None:
    ingest()
    other = f"{index}-other"
    request.addfinalizer(lambda: forget(other))
    ingest("--chunk", "20 characters", "--state", "other.db", into=other)
    ran = run("evaluate", "--questions", questions, "--in", index, "--in", other)
    assert ran.status == 0
    assert "index\tleg\t" in ran.out
    line = next(line for line in ran.out.splitlines() if line.startswith("vector against vector"))
    assert "no sure difference: nDCG@10 " in line
    assert line.endswith(f", in {other} against {index}")


def test_reranked_searches_are_measured_as_well(
    ingest: Run, run: Run, index: str, questions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def overlap(name: str) -> OverlapReranker:
        asked.append(name)
        return OverlapReranker()

    monkeypatch.setattr(names, "reranker", overlap)
    ingest()
    ran = run("evaluate", "--questions", questions, "--in", index, "--rerank", "some-reranker")
    assert "\nrerank\t1.00 " in ran.out
    assert asked == ["some-reranker"]


def test_questions_are_proposed_and_can_be_asked(ingest: Run, run: Run, index: str) -> None:
    ingest()
    ran = run("evaluate", "--make", "5", "--in", index)
    assert ran.status == 0
    assert [(line["question"], line["passage"]) for line in ran.lines if "gates" in line["uri"]] == [
        ("Gates", SENTENCE)
    ]
    assert "2 questions proposed, all that were found. They are a beginning only" in ran.err
    Path("made.jsonl").write_text(ran.out)
    assert run("evaluate", "--questions", "made.jsonl", "--in", index, "--json").lines[0]["questions"] == 2


def test_uris_of_another_place_are_noticed(ingest: Run, run: Run, index: str) -> None:
    ingest()
    Path("q.jsonl").write_text('{"question": "x", "uri": "elsewhere/gates.md"}')
    assert "no answer was found at all" in run("evaluate", "--questions", "q.jsonl", "--in", index).err


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((), "--questions"),
        (("--questions", "q.jsonl", "--make", "3"), "not allowed"),
        (("--questions", "none.jsonl"), "none.jsonl cannot be read"),
        (("--questions", "q.jsonl", "--plot", "q.png"), ".svg"),
        (("--questions", "q.jsonl", "--plot", "none/q.svg"), "there is no folder none"),
        (("--make", "3", "--plot", "q.svg"), "--make takes one --in"),
        (("--make", "3", "--in", "memory://b"), "--make takes one --in"),
        (("--make", "3", "--rerank", "x"), "--make takes one --in"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said(
    ingest: Run, run: Run, index: str, questions: str, words: tuple[str, ...], why: str
) -> None:
    ingest()
    ran = run("evaluate", "--in", index, *words)
    assert (ran.status, ran.out) == (2, "")
    assert why in ran.err


def test_a_wrong_line_is_status_2(ingest: Run, run: Run, index: str, questions: str) -> None:
    ingest()
    Path(questions).write_text(json.dumps(LINE) + "\n{}\n")
    ran = run("evaluate", "--in", index, "--questions", questions)
    assert ran.status == 2
    assert "q.jsonl, line 2: " in ran.err


def test_a_reindex_is_held_to_questions(ingest: Run, run: Run, questions: str) -> None:
    """Tiny chunks lose the passage: the old one stays. It is told why, and how to switch all the same."""
    ingest(into=LANCE)
    refused = run("reindex", "--chunk", "8 characters", "--questions", questions)
    assert refused.status == 1
    assert "answers    vector: no sure difference: nDCG@10 -" in refused.out
    assert "the new one answers the questions worse by vector" in refused.out
    assert "without --questions" in refused.out
    record = run("reindex", "--chunk", "8 characters", "--questions", questions, "--json").lines[-1]
    assert (record["switched"], record["worse"][0], record["quality"]["questions"]) == (False, "vector", 3)
    lenient = run("reindex", "--chunk", "8 characters", "--questions", questions, "--tolerance", "100%")
    assert (lenient.status, "from now on" in lenient.out) == (0, True)


def test_reindex_refuses_questions_that_it_would_not_ask(ingest: Run, run: Run, questions: str) -> None:
    ingest(into=LANCE)
    assert "--tolerance is of --questions" in run("reindex", "--chunk", "9 tokens", "--tolerance", "1%").err
    assert "--questions is of --model" in run("reindex", "--rollback", "--questions", questions).err
