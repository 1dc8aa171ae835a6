"""Searches measured by questions: every leg, several indexes, and an index that another is to replace."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import penstock as ps
from penstock.core.errors import QueryMismatch, UsageError
from penstock.core.records import VECTOR, Chunk, Dense, Point
from penstock.core.schema import Manifest, VectorSpec, single
from penstock.display.plot import plot
from penstock.jobs import evaluate as jobs
from penstock.jobs.evaluate import Evaluation, evaluate
from penstock.jobs.search import OpenIndex
from penstock.sinks.memory import MemoryIndex, MemorySink, forget
from penstock.testing.chaos import Lines
from penstock.testing.embedders import HashingEmbedder, OverlapReranker
from penstock.testing.sources import ListSource
from tests.worded import WordsIndex

TEXTS = [f"alpha{n} beta{n} gamma{n} delta{n}" for n in range(40)]
QUESTIONS: list[dict[str, Any]] = [
    {"question": f"alpha{n} beta{n} gamma{n}", "uri": f"doc:{n}"} for n in range(len(TEXTS))
]


class Blind(HashingEmbedder):
    """Sees of a question its last word alone, half of the time nothing."""

    def describe(self) -> VectorSpec:
        return replace(super().describe(), model="blind", fingerprint="blind")

    def query(self, texts: Sequence[str]) -> list[Dense]:
        return super().query([text if text.split()[-1][-1] in "02468" else "nothing" for text in texts])

    def embed(self, chunks: Sequence[Chunk]) -> list[Dense]:
        return super().query([chunk.text for chunk in chunks])


class Wordless(MemoryIndex):
    """Has no full text."""

    finds_words = False


class Short(HashingEmbedder):
    def embed(self, chunks: Sequence[Chunk]) -> list[Dense]:
        return super().query([chunk.text for chunk in chunks])

    def query(self, texts: Sequence[str]) -> list[Dense]:
        if any("alpha7 " in text for text in texts):
            raise QueryMismatch("too long")
        return super().query(texts)


@pytest.fixture
def fill(tmp_path: Path) -> Iterator[Any]:
    urls = []

    def fill(name: str, model: HashingEmbedder, kind: type[MemoryIndex] = Wordless) -> OpenIndex:
        urls.append(f"memory://{tmp_path}/{name}")
        chunks = [Chunk(f"{n:032x}", f"doc:{n}", 0, text, (0, len(text))) for n, text in enumerate(TEXTS)]
        with MemorySink(urls[-1]) as sink:
            sink.open(Manifest(single(model.describe())))
            vectors = model.embed(chunks)
            sink.write([Point(one, {VECTOR: vector}) for one, vector in zip(chunks, vectors, strict=True)])
        return ps.open_index(kind(urls[-1]), model)

    yield fill
    for url in urls:
        forget(url)


def test_an_index_that_answers_all_is_perfect(fill: Any) -> None:
    """In every batch, and whatever k."""
    seen: list[tuple[int, int]] = []
    with fill("one", HashingEmbedder(512)) as index:
        found = evaluate(index, QUESTIONS * 4, k=1, progress=lambda *moment: seen.append(moment))
    (quality,) = found.qualities
    assert (quality.index, quality.leg, found.questions, found.k) == (index.url, "vector", 160, 1)
    assert quality.measures == ((1, 1, 1),) * 3
    assert 0 < quality.p50 <= quality.p95
    assert seen[-1] == (160, 160)
    assert len(seen) == 101, "a hundred questions alone, the others in one batch"
    assert found.comparisons == ()
    assert found.hint == ""


def test_measures_are_means_over_the_questions(fill: Any) -> None:
    """Half of the questions are answered, so every measure is near 0.5, within its interval."""
    with fill("one", Blind(512)) as index:
        (quality,) = evaluate(index, QUESTIONS).qualities
    assert quality.mrr.mean == pytest.approx(0.5, abs=0.1)
    for estimate in quality.measures:
        assert estimate.low < estimate.mean < estimate.high
        assert estimate.high - estimate.low > 0.1


def test_every_leg_is_measured_and_compared_with_the_first(fill: Any) -> None:
    with fill("one", Blind(512), WordsIndex) as index:
        found = evaluate(index, QUESTIONS)
    assert [one.leg for one in found.qualities] == ["vector", "words", "hybrid"]
    assert [one.mrr.mean for one in found.qualities][1] == 1
    words, hybrid = found.comparisons
    assert (words.leg, words.than_leg, hybrid.leg, hybrid.than_leg) == ("words", "vector", "hybrid", "vector")
    assert words.ndcg.real
    assert words.ndcg.verdict == "better"
    assert words.ndcg.mean == pytest.approx(found.qualities[1].ndcg.mean - found.qualities[0].ndcg.mean)


def test_searches_are_measured_reranked_as_well(fill: Any) -> None:
    """Those of all legs, where there are several; of each question once, and once before the first."""
    for kind, legs in ((Wordless, ["vector", "rerank"]), (WordsIndex, ["vector", "words", "hybrid", "rerank"])):
        reranker = OverlapReranker()
        with fill(f"reranked-{len(legs)}", Blind(512), kind) as index:
            found = evaluate(index, QUESTIONS, rerank=reranker)
        assert [one.leg for one in found.qualities] == legs
        assert found.qualities[-1].mrr.mean == 1
        assert len(reranker.asked) == 41


def test_indexes_are_compared_by_legs_of_the_same_name(fill: Any) -> None:
    with fill("good", HashingEmbedder(512)) as good, fill("blind", Blind(512), WordsIndex) as blind:
        found = evaluate([good, blind], QUESTIONS)
    across = [one for one in found.comparisons if one.index != one.than_index]
    assert [(one.index, one.leg, one.than_index, one.than_leg) for one in across] == [
        (blind.url, "vector", good.url, "vector")
    ]
    assert across[0].ndcg.verdict == "worse"
    assert across[0].ndcg.high < 0
    with fill("same", HashingEmbedder(512)) as same, fill("good2", HashingEmbedder(512)) as good:
        (one,) = evaluate([good, same], QUESTIONS).comparisons
    assert one.ndcg == (0, 0, 0, False)
    assert one.ndcg.verdict == "no sure difference"


def test_a_question_that_the_model_cannot_take_counts_as_not_answered(
    fill: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone and in a batch, where the others are answered."""
    for timed in (100, 0):
        monkeypatch.setattr(jobs, "TIMED", timed)
        if not timed:
            monkeypatch.setattr(jobs, "percentiles", lambda values, shares: (0.0, 0.0))
        with fill(f"short{timed}", Short(512)) as index:
            (quality,) = evaluate(index, QUESTIONS).qualities
        assert quality.refused == 1
        assert quality.mrr.mean == pytest.approx(39 / 40)


def test_uris_that_are_not_those_of_the_index_are_said(fill: Any) -> None:
    with fill("one", HashingEmbedder(512)) as index:
        hint = evaluate(index, [{"question": "alpha1", "uri": "s3://bucket/1"}]).hint
    assert hint == "no answer was found at all: the questions name s3://bucket/1, and searches find doc:1"


def test_what_cannot_be_evaluated_is_refused(fill: Any, tmp_path: Path) -> None:
    with fill("one", HashingEmbedder(512)) as index:
        for indexes in ([], "memory://x", [index, index.index]):
            with pytest.raises(UsageError, match="expected one or a list of them"):
                evaluate(indexes, QUESTIONS)
        with pytest.raises(UsageError, match="invalid k 0"):
            evaluate(index, QUESTIONS, k=0)
        (tmp_path / "q").write_text("{}")
        with pytest.raises(UsageError, match="line 1"):
            evaluate(index, tmp_path / "q")


def test_the_plot_is_sound_xml_with_a_row_for_each_leg(fill: Any) -> None:
    from xml.etree import ElementTree

    with fill("a<b>&\x07" + "long" * 50, HashingEmbedder(512)) as one, fill("two", Blind(512), WordsIndex) as two:
        picture = plot(evaluate([one, two], QUESTIONS))
    root = ElementTree.fromstring(picture)
    texts = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts.count("vector") == 2
    assert {"words", "hybrid", "recall@10", "nDCG@10", "MRR"} <= {*texts}
    assert len([*root.iter("{http://www.w3.org/2000/svg}circle")]) == 12
    assert max(len(text or "") for text in texts) < 130


def test_it_is_in_the_package_and_json(fill: Any) -> None:
    with fill("one", HashingEmbedder(512), WordsIndex) as index:
        found: Evaluation = ps.evaluate(index, QUESTIONS[:3])
    record = json.loads(json.dumps(found.to_json()))
    assert record["qualities"][0]["ndcg"] == {"mean": 1, "low": 1, "high": 1}
    assert record["comparisons"][0]["ndcg"] == {"mean": 0, "low": 0, "high": 0, "real": False}


# ---------------------------------------------------------------- a re-index that is held to questions


class Live:
    """An index in memory, its source, and its re-index."""

    def __init__(self, folder: Path) -> None:
        self.url, self.state, self.source = f"memory://{folder}/live", folder / "ledger.db", ListSource()
        self.source.entries = {f"doc:{n}": text.encode() for n, text in enumerate(TEXTS)}

    def pipeline(self, model: HashingEmbedder) -> ps.Pipeline:
        return ps.Pipeline(self.source, into=self.url, model=model, chunk=Lines(), state=self.state)

    def reindex(self, model: HashingEmbedder, former: HashingEmbedder, **options: Any) -> Any:
        return self.pipeline(model).reindex(questions=QUESTIONS, former_model=former, **options)

    @property
    def current(self) -> int:
        manifest = MemorySink(self.url).manifest()
        assert manifest
        return manifest.current


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    live = Live(tmp_path)
    yield live
    for url in (live.url, f"{live.url}_1"):
        forget(url)


def test_a_reindex_that_answers_worse_does_not_switch(live: Live) -> None:
    """The new one is kept; without questions it becomes the current one."""
    live.pipeline(HashingEmbedder(512)).run()
    refused = live.reindex(Blind(512), HashingEmbedder(512))
    assert not refused.switched
    assert refused.worse[0] == "vector"
    assert refused.quality.comparisons
    assert live.current == 0
    json.dumps(refused.to_json())
    with ps.open_index(live.url, HashingEmbedder(512)) as index:
        assert index.search("alpha1 beta1", k=1)[0].chunk.uri == "doc:1"
    again = live.pipeline(Blind(512)).reindex()
    assert (again.switched, again.reports[0].counts["embedded"]) == (True, 0)


def test_questions_of_other_documents_hold_a_reindex_back(live: Live) -> None:
    live.pipeline(HashingEmbedder(512)).run()
    others: Any = [{"question": "alpha1", "uri": "doc:elsewhere"}]
    with pytest.raises(UsageError, match=r"say nothing about the index.*the questions name .*elsewhere"):
        live.pipeline(Blind(512)).reindex(questions=others, former_model=HashingEmbedder(512))
    assert live.current == 0


def test_a_reindex_that_answers_better_switches(live: Live) -> None:
    live.pipeline(Blind(512)).run()
    done = live.reindex(HashingEmbedder(512), Blind(512))
    assert (done.switched, done.worse) == (True, ())
    assert done.quality.comparisons[-1].ndcg.verdict in ("better", "no sure difference")


def test_a_loss_that_may_be_chance_passes_up_to_the_tolerance() -> None:
    from penstock.jobs.evaluate import Comparison, Difference
    from penstock.jobs.requirement import Requirement

    def worse(mean: float, real: bool, tolerance: float) -> tuple[str, ...]:
        found = Difference(mean, mean - 0.1, mean + 0.1, real)
        nothing = Difference(-1.0, -1.0, -1.0, True)
        pair = Comparison("new", "vector", "old", "vector", nothing, found, nothing)
        inside = replace(pair, leg="words", than_index="new", ndcg=nothing)
        evaluation = Evaluation(9, 10, (), (inside, pair), "")
        return Requirement([], lambda url: pytest.fail(url), tolerance).worse(evaluation)

    assert worse(-0.04, False, 0.05) == ()
    assert worse(-0.06, False, 0.05) == ("vector",)
    assert worse(-0.01, True, 0.05) == ("vector",)
    assert worse(-0.01, False, 0.0) == ("vector",)
    assert worse(0.1, True, 0.0) == ()


def test_nothing_is_built_where_the_old_one_cannot_be_asked(live: Live) -> None:
    """Its model is not to be had by its name, or a question is wrong."""
    live.pipeline(HashingEmbedder(512)).run()
    for options, error in (({}, ps.PenstockError), ({"former_model": HashingEmbedder(512)}, UsageError)):
        questions: Any = QUESTIONS if not options else [{"question": "x"}]
        with pytest.raises(error):
            live.pipeline(Blind(512)).reindex(questions=questions, **options)
    assert MemorySink(f"{live.url}_1").manifest() is None
