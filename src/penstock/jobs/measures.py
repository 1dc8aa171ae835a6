"""How well ranked hits answer questions, and how sure that is: pure functions of ranks and of values a question."""

from __future__ import annotations

from collections.abc import Sequence
from math import log2
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

NDCG_DEPTH = 10
RESAMPLES = 2000
BOUNDS = (2.5, 97.5)
"""Percentiles of the resampled means between which 95 % of them lie."""
LEAST_DIFFERING = 6
"""Questions that have to differ before a difference can be real: five that all fall to one side do so by chance in
1 of 16 cases (two-sided), six in 1 of 32."""
_DRAWN = 1 << 20
"""Numbers that are drawn at a time."""

Ranks = Sequence[int | None]
"""For each answer to a question the rank, from 1, of the first hit that has it; None where no hit has."""


class Estimate(NamedTuple):
    """A mean over the questions, with its 95 % confidence interval."""

    mean: float
    low: float
    high: float


def recall(ranks: Ranks, k: int) -> float:
    """The share of the answers that are among the first k hits."""
    return sum(rank is not None and rank <= k for rank in ranks) / len(ranks)


def reciprocal_rank(ranks: Ranks) -> float:
    """One divided by the rank of the first hit that has an answer; 0 where none has."""
    return 1 / min((rank for rank in ranks if rank is not None), default=float("inf"))


def ndcg(grades: Sequence[float], ranks: Ranks, depth: int = NDCG_DEPTH) -> float:
    """The normalised discounted cumulative gain, with the grades themselves as gains, as trec_eval and BEIR have it.

    An answer counts at the first hit that has it. A hit that has several gains them all, but the result is at most 1.
    """
    gained = sum(
        grade / log2(rank + 1) for grade, rank in zip(grades, ranks, strict=True) if rank is not None and rank <= depth
    )
    best = sorted(grades, reverse=True)[:depth]
    return min(1.0, gained / sum(grade / log2(rank + 1) for rank, grade in enumerate(best, 1)))


def estimates(values: Values, resamples: int = RESAMPLES, seed: int = 0) -> list[Estimate]:
    """The mean of each column, with a bootstrap interval. `values` has a row a question.

    All columns are resampled by the same draws of questions. The interval of a column of differences is so that of the
    paired bootstrap.
    """
    means = _resampled(values, resamples, np.random.default_rng(seed))
    low, high = np.percentile(means, BOUNDS, axis=0)
    return [Estimate(*map(float, one)) for one in zip(values.mean(axis=0), low, high, strict=True)]


def _resampled(values: Values, resamples: int, random: np.random.Generator) -> Values:
    """The means of the columns in each resample: one row each."""
    rows, columns = values.shape
    means = np.empty((resamples, columns))
    step = max(1, _DRAWN // rows)
    for start in range(0, resamples, step):
        drawn = random.integers(rows, size=(min(step, resamples - start), rows))
        times = np.stack([np.bincount(one, minlength=rows) for one in drawn]).astype(np.float64)
        means[start : start + len(drawn)] = times @ values / rows
    return means


def is_real(differences: Values, estimate: Estimate) -> bool:
    """Whether a mean difference is more than chance: its interval excludes 0, and enough questions differ."""
    differing = int(np.count_nonzero(differences))
    return differing >= LEAST_DIFFERING and (estimate.low > 0 or estimate.high < 0)


def percentiles(values: Sequence[float], shares: Sequence[float]) -> tuple[Any, ...]:
    """The percentiles of some values, as floats."""
    return tuple(map(float, np.percentile(values, shares)))
