"""Hybrid search: the hits of several legs, each a vector of the index or its full text, fused by their ranks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from penstock.core.contracts import Index
from penstock.core.errors import UsageError
from penstock.core.records import Hit, Vector
from penstock.core.schema import WORDS, IndexSchema
from penstock.jobs.hints import hint
from penstock.jobs.pages import Page, depth_of, distinct_of, nearest, page_of, wanted
from penstock.jobs.queries import Query
from penstock.jobs.since import within

RANK_OFFSET = 60
"""What reciprocal rank fusion adds to each rank: a hit's share is 1 / (RANK_OFFSET + rank)."""
WINDOW = 10
"""Hits of each leg that are fused first. With 100, chance hits of two legs come before the right one of a single leg:
nDCG@10 of benchmarks/hybrid.py falls by 0.05."""
GROWTH = 4
"""How many times larger the next window is."""


def share(rank: int, weight: float = 1.0) -> float:
    """What a rank adds to the score of a hit."""
    return weight / (RANK_OFFSET + rank)


def fuse(rankings: Mapping[str, Iterable[Hit]], weights: Mapping[str, float]) -> list[Hit]:
    """The hits of all legs, best first; those of equal scores in the order of the legs."""
    ranks: dict[str, dict[str, int]] = {}
    hits: dict[str, Hit] = {}
    for leg, ranking in rankings.items():
        for rank, hit in enumerate(ranking, 1):
            hits.setdefault(hit.chunk.id, hit)
            ranks.setdefault(hit.chunk.id, {}).setdefault(leg, rank)
    fused = [
        Hit(sum(share(rank, weights[leg]) for leg, rank in ranks[id].items()), hit.chunk, ranks[id])
        for id, hit in hits.items()
    ]
    return sorted(fused, key=lambda hit: -hit.score)


def leg_names(schema: IndexSchema, finds_words: bool) -> list[str]:
    """The legs of an index. The full text is the first, as of hits with equal scores its own are the better ones: a
    vector always finds something. An index of an earlier version may have a vector named `words`, which is that leg."""
    return [*([WORDS] if finds_words and WORDS not in schema.vectors else []), *schema.vectors]


def weights_of(query: Query, names: Sequence[str]) -> dict[str, float]:
    """The legs that a hybrid query searches by, with their weights, in the order of `names`, which are those that there
    are. Raises UsageError for one that there is not."""
    if not isinstance(query.hybrid, Mapping):
        return dict.fromkeys(names, 1.0)
    if unknown := [name for name in query.hybrid if name not in names]:
        has = "full text" if unknown[0] == WORDS else "leg of that name"
        raise UsageError(
            f"hybrid: no leg {str(unknown[0])[:100]!r}: the index has no {has}; expected {', '.join(names)}"
        )
    return {name: float(query.hybrid[name]) for name in names if name in query.hybrid}


@dataclass(frozen=True, slots=True)
class Leg:
    name: str
    vector: Vector | None
    """None where it is the full text."""

    def search(self, index: Index, query: Query, k: int) -> list[Hit]:
        where = within(query.where, query.since)
        if self.vector is not None:
            return nearest(index, self.vector, k, where, self.name)
        assert query.text is not None, "a hybrid query without a text is refused before it comes here"
        return index.search_words(query.text, k, where)


class Fusion:
    """The fused list of a hybrid query, which grows until it holds the page that is asked for.

    The legs are asked for windows of the same sizes whatever the page, and what only a larger window has comes after
    all of the smaller ones, with no higher a score: so the pages of a query are pieces of one list.
    """

    def __init__(self, query: Query, weights: Mapping[str, float], index: Index, schema: IndexSchema) -> None:
        self._query, self._weights, self._index = query, weights, index
        self._compared = _compared(weights, schema) if query.distinct else ""
        self._depth = depth_of(query, index)
        self._hits: dict[str, Hit] = {}
        self.window = min(WINDOW, self._depth)
        """Hits that each of the `open` legs is to be asked for next."""
        self.open: Sequence[str] = list(weights)
        """The legs that may have more hits."""

    def add(self, legs: Sequence[Leg], answers: Sequence[Sequence[Hit]]) -> Page | None:
        """Take in what each leg has found in its window. The page, once the list holds it; else None, and the legs are
        to be asked for the next window."""
        query = self._query
        names = [leg.name for leg in legs]
        rankings = {
            name: [hit for hit in hits if wanted(hit, query)] for name, hits in zip(names, answers, strict=True)
        }
        lowest = next((hit.score for hit in reversed(self._hits.values())), math.inf)
        for hit in fuse(rankings, self._weights):
            if hit.chunk.id not in self._hits:
                self._hits[hit.chunk.id] = replace(hit, score=min(hit.score, lowest))
        self.open = [name for name, hits in zip(names, answers, strict=True) if len(hits) >= self.window]
        hits = list(self._hits.values())
        found = distinct_of(self._index, hits, self._compared) if query.distinct else [(hit, 1) for hit in hits]
        if len(found) > query.offset + query.k or not self.open or self.window >= self._depth:
            return page_of(query, found, self._depth, None if any(answers) else self._hint(legs))
        self.window = min(GROWTH * self.window, self._depth)
        return None

    def _hint(self, legs: Sequence[Leg]) -> str | None:
        """By a vector: chunks without a word of the query may have the field as well."""
        for leg in legs:
            if leg.vector is not None:
                return hint(self._index, leg.vector, self._query.where, leg.name)
        return None


def _compared(weights: Mapping[str, float], schema: IndexSchema) -> str:
    """The vector by which near-duplicates are known: a dense one, of the legs if they have one."""
    for name in (*weights, *schema.vectors):
        if name in schema.vectors and schema.vectors[name].kind == "Dense":
            return name
    raise UsageError("distinct: the index has no dense vectors, by which near-duplicates are known")


def find_fused_page(index: Index, query: Query, fusion: Fusion, legs: Sequence[Leg]) -> Page:
    """The page of a hybrid query, whose legs are searched side by side."""
    with ThreadPoolExecutor(len(legs), thread_name_prefix="leg") as threads:
        while True:
            asked = [leg for leg in legs if leg.name in fusion.open]
            searching = [threads.submit(leg.search, index, query, fusion.window) for leg in asked]
            if (page := fusion.add(asked, [one.result() for one in searching])) is not None:
                return page
