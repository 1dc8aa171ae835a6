"""What a new generation of an index is held to: that it answers questions as well as the one that it replaces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from penstock.core.contracts import Index, MultiEmbedder, Sink
from penstock.core.errors import UsageError
from penstock.core.generations import TOLERANCE
from penstock.registry import INDEXES, find, has_index, scheme
from penstock.sinks.fanout import members

if TYPE_CHECKING:
    from penstock.jobs.evaluate import Comparison, Evaluation
    from penstock.jobs.questions import Questions
    from penstock.jobs.search import OpenIndex


@dataclass(frozen=True, slots=True)
class Requirement:
    """Questions that the new generation has to answer as well as the old one does."""

    questions: Questions
    open_old: Callable[[str], OpenIndex]
    """Opens the old generation by its url, with the model that made it."""
    tolerance: float = TOLERANCE
    """By how much nDCG@10 may be lower, where the difference may be chance."""

    def check(self, old: Sink, new: Sink) -> None:
        """Raise an error where the two could not be searched later."""
        _url(new)
        with self.open_old(_url(old)):
            pass

    def evaluate(self, old: Sink, new: Sink, embedder: MultiEmbedder) -> Evaluation:
        """Ask both generations the questions; the embedder is that of the new one. Raises UsageError where neither has
        a single answer, as the questions may be of other documents."""
        from penstock.jobs.evaluate import evaluate  # here, as numpy is not needed before
        from penstock.jobs.search import OpenIndex

        with self.open_old(_url(old)) as before, OpenIndex(_index(_url(new)), lambda schema: embedder) as after:
            evaluation = evaluate([before, after], self.questions)
        if evaluation.hint:
            raise UsageError(f"the questions say nothing about the index, so it was not switched: {evaluation.hint}")
        return evaluation

    def worse(self, evaluation: Evaluation) -> tuple[str, ...]:
        """The legs by which the new generation answers worse."""
        return tuple(
            one.leg
            for one in between(evaluation.comparisons)
            if one.ndcg.mean < 0 and (one.ndcg.real or one.ndcg.mean < -self.tolerance)
        )


def between(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons of one index with another."""
    return [one for one in comparisons if one.index != one.than_index]


def _url(sink: Sink) -> str:
    """That of the index, or of the first one that can be searched, where several are filled together."""
    for one in members(sink):
        if has_index(one.url):
            return one.url
    raise UsageError(f"{sink.url} cannot be searched, so it cannot be held to questions")


def _index(url: str) -> Index:
    index: Index = find(INDEXES, scheme(url))(url)
    return index
