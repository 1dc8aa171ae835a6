"""Evaluations in words: tables of measures, and what was compared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from penstock.display.text import milliseconds

if TYPE_CHECKING:
    from penstock.jobs.evaluate import Comparison, Difference, Evaluation
    from penstock.jobs.measures import Estimate
    from penstock.jobs.reindex import Reindexed


def quality_columns(evaluation: Evaluation, several: bool) -> list[str]:
    """`several`: indexes."""
    return [*(["index"] if several else []), "leg", f"recall@{evaluation.k}", "nDCG@10", "MRR", "p50", "p95"]


def quality_rows(evaluation: Evaluation, several: bool) -> Iterator[list[str]]:
    for one in evaluation.qualities:
        times = milliseconds(one.p50), milliseconds(one.p95)
        yield [*([one.index] if several else []), one.leg, *map(estimate_text, one.measures), *times]


def estimate_text(estimate: Estimate) -> str:
    return f"{estimate.mean:.2f} ({estimate.low:.2f}–{estimate.high:.2f})"


def comparison_rows(evaluation: Evaluation, several: bool) -> Iterator[tuple[str, str]]:
    """A row for each pair of legs; `several`: indexes, which are named then."""
    for one in evaluation.comparisons:
        yield f"{one.leg} against {one.than_leg}", f"{difference_text(one.ndcg)}{_of(one) if several else ''}"


def difference_text(ndcg: Difference) -> str:
    return f"{ndcg.verdict}: nDCG@10 {ndcg.mean:+.3f} ({ndcg.low:+.3f} to {ndcg.high:+.3f})"


def _of(one: Comparison) -> str:
    return f", in {one.index}" if one.index == one.than_index else f", in {one.index} against {one.than_index}"


def answer_rows(reindexed: Reindexed) -> Iterator[tuple[str, str]]:
    """How a new index answers the questions that it was held to, beside the old one."""
    if reindexed.quality:
        for one in reindexed.quality.comparisons:
            if one.index != one.than_index:
                yield "answers", f"{one.leg}: {difference_text(one.ndcg)}"


def refusal(reindexed: Reindexed) -> str:
    """Why the new index is not the current one, where it answers worse, and what to do."""
    if not reindexed.worse:
        return ""
    return (
        f": the new one answers the questions worse by {', '.join(reindexed.worse)}. It is kept beside the old one:"
        " the same command without --questions switches to it, `reindex --drop` removes it"
    )
