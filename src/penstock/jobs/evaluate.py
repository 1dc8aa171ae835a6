"""How well searches of an index answer questions: each of its vectors by itself, its full text, and all together."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from penstock.core.contracts import Reranker
from penstock.core.errors import QueryMismatch, UsageError
from penstock.core.schema import WORDS
from penstock.jobs.measures import (
    NDCG_DEPTH,
    Estimate,
    estimates,
    is_real,
    ndcg,
    percentiles,
    recall,
    reciprocal_rank,
)
from penstock.jobs.questions import Question, Questions, QuestionsSpec, read_questions
from penstock.jobs.search import OpenIndex
from penstock.jobs.searchable import Hits, Options

if TYPE_CHECKING:
    from penstock.jobs.measures import Values

TIMED = 100
"""Questions that are asked one by one, for the latency. The others go in batches."""
BATCH, HELD = 64, 4096
"""Questions that are asked together, and hits of them that are in memory, at most."""


@dataclass(frozen=True, slots=True)
class Quality:
    """How well one leg of an index answers the questions. Means and 95 % intervals are over the questions."""

    index: str
    leg: str
    """The name of a vector; `words`, the full text; `hybrid`, all of these; `rerank`, the one before, reranked."""
    recall: Estimate
    """Of the answers, the share among the first k hits."""
    ndcg: Estimate
    """Of the first ten hits."""
    mrr: Estimate
    p50: float
    """Seconds of a search, by the first questions, each asked alone."""
    p95: float
    refused: int
    """Questions that the model cannot take, as they are too long for it. They count as not answered."""

    @property
    def measures(self) -> tuple[Estimate, Estimate, Estimate]:
        return self.recall, self.ndcg, self.mrr


class Difference(NamedTuple):
    """A mean difference over the questions, with its 95 % interval by the paired bootstrap."""

    mean: float
    low: float
    high: float
    real: bool
    """It is more than chance."""

    @property
    def verdict(self) -> str:
        return "no sure difference" if not self.real else "better" if self.mean > 0 else "worse"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One leg beside another one, of the same index or of another: above 0, it is better."""

    index: str
    leg: str
    than_index: str
    than_leg: str
    recall: Difference
    ndcg: Difference
    mrr: Difference


@dataclass(frozen=True, slots=True)
class Evaluation:
    questions: int
    k: int
    qualities: tuple[Quality, ...]
    comparisons: tuple[Comparison, ...]
    """Of the legs of each index with its first one, and of each further index with the first one: legs of the same
    name, or the first of each where they have no name in common."""
    hint: str
    """Where not one answer was found: a uri of the questions, and one of the index."""

    def to_json(self) -> dict[str, Any]:
        record = asdict(self)
        for one in (*record["qualities"], *record["comparisons"]):
            for name in ("recall", "ndcg", "mrr"):
                one[name] = one[name]._asdict()
        return record


@dataclass(frozen=True, slots=True)
class _Leg:
    index: OpenIndex
    name: str
    options: Options


def evaluate(
    indexes: OpenIndex | Sequence[OpenIndex],
    questions: QuestionsSpec,
    *,
    k: int = 10,
    rerank: str | Reranker | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Ask an index, or several to compare them, the questions, and measure how well they are answered.

    `questions`: a file of JSON lines, or mappings such as its lines: {"question": ..., "uri": ...}. `k`: how many hits
    recall is of. `rerank`: measure searches that this cross-encoder reranks as well. `progress(done, total)` is called
    now and then, with searches.

    >>> evaluate(open_index("lance://./index"), "questions.jsonl").qualities[0].ndcg.mean
    """
    if k < 1:
        raise UsageError(f"invalid k {k}: expected at least 1")
    opened = [indexes] if isinstance(indexes, OpenIndex) else [*indexes] if isinstance(indexes, list | tuple) else []
    if not opened or not all(isinstance(one, OpenIndex) for one in opened):
        raise UsageError(f"invalid indexes {indexes!r}: expected one or a list of them, as open_index(url) gives")
    asked = read_questions(questions)
    legs = [leg for index in opened for leg in legs_of(index, rerank)]
    measured = _Measured(legs, len(asked), k)
    measured.ask_all(asked, progress)
    return measured.evaluation()


def legs_of(index: OpenIndex, rerank: str | Reranker | None) -> list[_Leg]:
    """Every way to search an index by a text: each vector, its full text, all of these together, and that reranked."""
    legs = [_Leg(index, name, {"using": name}) for name in index.schema.vectors]
    if index.index.finds_words and WORDS not in index.schema.vectors:
        legs.append(_Leg(index, WORDS, {"hybrid": {WORDS: 1.0}}))
    if len(legs) > 1:
        legs.append(_Leg(index, "hybrid", {"hybrid": True}))
    if rerank is not None:
        legs.append(_Leg(index, "rerank", {**legs[-1].options, "rerank": rerank}))
    return legs


class _Measured:
    """What the searches found: of each question and leg three values, and of the first questions the seconds."""

    def __init__(self, legs: Sequence[_Leg], number: int, k: int) -> None:
        self._legs, self._number, self._k = legs, number, k
        self._depth = max(k, NDCG_DEPTH)
        self._values: Values = np.zeros((number, len(legs), 3))
        self._seconds: list[list[float]] = [[] for _ in legs]
        self._refused = [0] * len(legs)
        self._uris: tuple[str | None, str | None] = None, None
        """Of the first answer that has one, and of the first hit."""

    def ask_all(self, questions: Questions, progress: Callable[[int, int], None] | None) -> None:
        done = 0
        for some in self._batches(questions):
            if done + len(some) > self._number:
                break
            if not done:
                for leg in self._legs:  # the first search loads the model
                    _answers(leg, [some[0].text], self._depth)
            for column, leg in enumerate(self._legs):
                self._ask(done, some, column, leg)
                if progress:
                    progress(done * len(self._legs) + (column + 1) * len(some), self._number * len(self._legs))
            done += len(some)
        if done != self._number:
            raise UsageError("the file of questions changed while they were asked: ask again")

    def _batches(self, questions: Questions) -> Iterator[list[Question]]:
        rest, done = iter(questions), 0
        together = max(1, min(BATCH, HELD // self._depth))
        while some := list(islice(rest, 1 if done < TIMED else together)):
            yield some
            done += len(some)

    def _ask(self, first: int, questions: Sequence[Question], column: int, leg: _Leg) -> None:
        began = time.perf_counter()
        answers = _answers(leg, [question.text for question in questions], self._depth)
        if first < TIMED:
            self._seconds[column].append(time.perf_counter() - began)
        for row, (question, hits) in enumerate(zip(questions, answers, strict=True), first):
            if hits is None:
                self._refused[column] += 1
                continue
            self._note_uris(question, hits)
            ranks = question.ranks(hits)
            values = recall(ranks, self._k), ndcg(question.grades, ranks), reciprocal_rank(ranks)
            self._values[row, column] = values

    def _note_uris(self, question: Question, hits: Hits) -> None:
        expected, found = self._uris
        expected = expected or next((answer.resolved for answer in question.answers if answer.resolved), None)
        self._uris = expected, found or (hits[0].chunk.uri if hits else None)

    def evaluation(self) -> Evaluation:
        pairs = list(_pairs(self._legs))
        values = self._values
        differences = [values[:, one] - values[:, other] for one, other in pairs]
        columns = np.concatenate([*values.transpose(1, 0, 2), *differences], axis=1)
        means = estimates(columns)
        each = [means[start : start + 3] for start in range(0, len(means), 3)]
        return Evaluation(
            questions=self._number,
            k=self._k,
            qualities=tuple(self._quality(column, *of_leg) for column, of_leg in enumerate(each[: len(self._legs)])),
            comparisons=tuple(
                self._comparison(pair, of_pair, several)
                for pair, of_pair, several in zip(pairs, each[len(self._legs) :], differences, strict=True)
            ),
            hint=self._hint(),
        )

    def _quality(self, column: int, recall: Estimate, ndcg: Estimate, mrr: Estimate) -> Quality:
        leg = self._legs[column]
        p50, p95 = percentiles(self._seconds[column], (50, 95))
        return Quality(leg.index.url, leg.name, recall, ndcg, mrr, p50, p95, self._refused[column])

    def _comparison(self, pair: tuple[int, int], means: Sequence[Estimate], differences: Values) -> Comparison:
        one, than = (self._legs[column] for column in pair)
        found = [Difference(*mean, is_real(differences[:, n], mean)) for n, mean in enumerate(means)]
        return Comparison(one.index.url, one.name, than.index.url, than.name, *found)

    def _hint(self) -> str:
        expected, found = self._uris
        if self._values.any() or expected is None:
            return ""
        return f"no answer was found at all: the questions name {expected}, and searches find {found or 'nothing'}"


def _answers(leg: _Leg, texts: list[str], depth: int) -> list[Hits | None]:
    """The hits of each text; None for one that the model cannot take."""
    try:
        return [*leg.index.search(texts, depth, **leg.options)]
    except QueryMismatch:
        if len(texts) == 1:
            return [None]
        return [hits for text in texts for hits in _answers(leg, [text], depth)]


def _pairs(legs: Sequence[_Leg]) -> Iterator[tuple[int, int]]:
    """Which legs are compared with which, as numbers."""
    columns: dict[int, dict[str, int]] = {}
    for column, leg in enumerate(legs):
        columns.setdefault(id(leg.index), {})[leg.name] = column
    first, *others = columns.values()
    for of_index in (first, *others):
        baseline, *rest = of_index.values()
        yield from ((column, baseline) for column in rest)
    for of_index in others:
        common = [(column, first[name]) for name, column in of_index.items() if name in first]
        yield from common or [(next(iter(of_index.values())), next(iter(first.values())))]
