"""Measures against plain definitions of them, and intervals against what they promise."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import permutations

import numpy as np
import pytest

from penstock.jobs.measures import Estimate, estimates, is_real, ndcg, percentiles, recall, reciprocal_rank


def drawn(chance: random.Random) -> tuple[list[float], list[int | None]]:
    """Grades, and ranks that hits could have: no two answers at one rank."""
    number = chance.randint(1, 6)
    ranks: list[int | None] = [*chance.sample(range(1, 16), number)]
    return [chance.choice([1, 2, 3.5]) for _ in ranks], [chance.choice([rank, rank, None]) for rank in ranks]


def dcg(gains: Sequence[float]) -> float:
    return sum(gain / math.log2(place + 2) for place, gain in enumerate(gains[:10]))


def test_measures_are_those_of_the_definitions() -> None:
    """nDCG by the list of gains, place by place, and by the best of all orders; recall and MRR by the list as well."""
    chance = random.Random(0)
    for _ in range(200):
        grades, ranks = drawn(chance)
        gains = [0.0] * 20
        for grade, rank in zip(grades, ranks, strict=True):
            if rank is not None:
                gains[rank - 1] = grade
        best = max(dcg(order) for order in permutations(grades))
        assert ndcg(grades, ranks) == pytest.approx(dcg(gains) / best)
        k = chance.randint(1, 15)
        assert recall(ranks, k) == pytest.approx(sum(map(bool, gains[:k])) / len(grades))
        first = next((place for place, gain in enumerate(gains, 1) if gain), None)
        assert reciprocal_rank(ranks) == (0 if first is None else 1 / first)


def test_an_answer_that_comes_earlier_is_never_worse() -> None:
    chance = random.Random(1)
    for _ in range(200):
        grades, ranks = drawn(chance)
        one = chance.randrange(len(ranks))
        rank = ranks[one]
        better = list(ranks)
        better[one] = 16 if rank is None else max(1, rank - 1)
        assert ndcg(grades, better) >= ndcg(grades, ranks)
        assert reciprocal_rank(better) >= reciprocal_rank(ranks)
        assert 0 <= ndcg(grades, ranks) <= 1


def test_a_hit_with_two_answers_is_at_most_perfect() -> None:
    assert ndcg([1, 1], [1, 1]) == 1
    assert recall([1, 1], 1) == 1


def test_an_interval_has_the_true_mean_as_often_as_it_says() -> None:
    """In 95 % of samples, so in 180 to 199 of 200; narrower the more there are."""
    samples = np.random.default_rng(0).random((200, 40, 1)) ** 2
    found = [estimates(sample, resamples=200)[0] for sample in samples]
    assert 180 <= sum(one.low <= 1 / 3 <= one.high for one in found) <= 199
    assert all(one.low <= one.mean <= one.high for one in found)
    several = samples.reshape(-1, 1)
    (wide,), (narrow,) = estimates(several[:50]), estimates(several[:5000])
    assert narrow.high - narrow.low == pytest.approx((wide.high - wide.low) / 10, rel=0.3)


def test_intervals_are_the_same_every_time() -> None:
    values = np.random.default_rng(0).random((30, 3))
    assert estimates(values) == estimates(values)
    assert estimates(values, seed=1) != estimates(values)


def test_the_interval_of_a_difference_is_paired() -> None:
    """Values that go up and down together differ for sure, though their own intervals overlap."""
    base = np.random.default_rng(0).random(40)
    better, worse = base + 0.02 + np.linspace(0, 0.01, 40), base
    of_better, of_worse, difference = estimates(np.stack([better, worse, better - worse], axis=1))
    assert of_better.low < of_worse.high
    assert 0.02 <= difference.low < difference.high <= 0.03
    assert is_real(better - worse, difference)


@pytest.mark.parametrize(
    ("differences", "real"),
    [
        ([0.0] * 50, False),
        ([-1.0] * 5, False),
        ([-1.0] * 6, True),
        ([-1.0] * 5 + [0.0] * 5, False),
        ([0.5, -0.5] * 20, False),
    ],
    ids=["none", "five", "six", "five-of-ten", "both-ways"],
)
def test_a_difference_is_real_where_chance_would_not_make_it(differences: list[float], real: bool) -> None:
    values = np.array(differences)
    (estimate,) = estimates(values[:, None])
    assert is_real(values, estimate) is real


def test_one_question_has_an_interval_of_no_width() -> None:
    assert estimates(np.array([[0.5]])) == [Estimate(0.5, 0.5, 0.5)]
    assert percentiles([3.0], (50, 95)) == (3.0, 3.0)
