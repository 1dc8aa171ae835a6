"""Several indexes searched together. Scores of different models cannot be compared, so hits are merged by rank."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar

from penstock.core.contracts import Index, ModelSpec
from penstock.core.errors import PenstockError, QueryMismatch, StageError, UsageError, naming
from penstock.core.fields import Scalar, kind
from penstock.core.records import NOTHING, Hit, Point
from penstock.jobs.hybrid import leg_names, share, weights_of
from penstock.jobs.own_vectors import kind_of
from penstock.jobs.pages import Page
from penstock.jobs.queries import Query
from penstock.jobs.search import OpenIndex
from penstock.jobs.searchable import Facets, Hits, Options, Searchable, Where
from penstock.sinks.facets import most

R = TypeVar("R")
WINDOW = 100
"""Hits of each index that are ranked, where fewer are asked for: so a chunk found in several gets its share of each."""
FACET_VALUES = 1000
"""Values of a field that are added up, of each index the most frequent ones, where fewer are asked for."""


class OpenIndexes(Searchable):
    """Several indexes, each with its own model, searched as one by reciprocal rank fusion.

    Each index is asked in a thread of its own. One that fails is an error that names it.

    >>> hits = open_index(["lance://./index?table=texts", "lance://./index?table=images"]).search("a red circle")
    """

    def __init__(
        self,
        indexes: Sequence[str | Index],
        models: Sequence[ModelSpec] | None,
        open_one: Callable[[str | Index, ModelSpec], OpenIndex],
    ) -> None:
        """`models`: one for each index, or None for that of its manifest."""
        chosen = [None] * len(indexes) if models is None else models
        if not isinstance(chosen, list | tuple) or len(chosen) != len(indexes):
            expected = f"expected a list of {len(indexes):,}, one for each index, or None"
            raise UsageError(f"invalid model {models!r}: {expected}")
        with ExitStack() as stack:
            opened = []
            for index, model in zip(indexes, chosen, strict=True):
                with of_index(index if isinstance(index, str) else index.url):
                    opened.append(stack.enter_context(open_one(index, model)))
            self.indexes: Sequence[OpenIndex] = opened
            self._open = stack.pop_all()

    def answer(self, queries: Sequence[Query]) -> list[Hits]:
        using = queries[0].using if queries else None
        names = dict.fromkeys(name for one in self.indexes for name in one.schema.vectors)
        if using is not None and using not in names:
            raise UsageError(f"unknown vector {using!r}: the indexes have {', '.join(names)}")
        for query in queries:
            if query.vector is not None and kind_of(query.vector) == "Dense":
                self._check_vector(len(query.vector), using)
        if queries and queries[0].hybrid:
            weights_of(queries[0], list(dict.fromkeys(name for one in self.indexes for name in _legs(one))))
        answers = self._ask(lambda one: list(_answers(one, queries)))
        return [self._merged(query, [each[n] for each in answers]) for n, query in enumerate(queries)]

    def fetch(self, ids: Sequence[str]) -> Sequence[Point]:
        """The points of these ids; of one that several indexes have, that of the first."""
        found: dict[str, Point] = {}
        for points in self._ask(lambda one: one.fetch(ids)):
            for point in points:
                found.setdefault(point.id, point)
        return list(found.values())

    def __len__(self) -> int:
        """The points of all indexes."""
        return sum(self._ask(len))

    def close(self) -> None:
        self._open.close()

    def _check_options(self, options: Options) -> None:
        if options.get("cursor") is not None:
            raise UsageError("cursor: several indexes searched together have no further pages; ask for a larger k")
        if options.get("threshold") is not None and options.get("rerank") is None:
            raise UsageError(
                "threshold: several indexes are merged by rank, as scores of different models cannot be compared;"
                " search one index, or rerank"
            )

    def _count_values(self, names: Sequence[str], where: Where, limit: int) -> Facets:
        return add_facets(self._ask(lambda one: one.facets(names, where, facet_values(limit))), limit)

    def _check_vector(self, dimensions: int, using: str | None) -> None:
        """Raise UsageError where a vector of that size could be of one index or of another."""
        specs = [spec for one in self.indexes for name, spec in one.schema.vectors.items() if name == _name(one, using)]
        fits = {spec.fingerprint for spec in specs if spec.kind == "Dense" and spec.dim == dimensions}
        if len(fits) > 1:
            raise UsageError(
                f"vector: {dimensions:,} dimensions fit indexes of different models; search the one that it is of"
            )

    def _ask(self, task: Callable[[OpenIndex], R]) -> list[R]:
        """The task's result of each index. Raises the first error, with the url of its index."""

        def ask(one: OpenIndex) -> R:
            with of_index(one.url):
                return task(one)

        with ThreadPoolExecutor(len(self.indexes), thread_name_prefix="search") as threads:
            return list(threads.map(ask, self.indexes))

    def _merged(self, query: Query, answers: Sequence[Hits | QueryMismatch]) -> Hits:
        """The first k by the sums of their shares; those of equal sums in the order of the indexes."""
        skipped: dict[str, str] = {}
        found: dict[str, _Fused] = {}
        hints: list[str | None] = []
        for one, hits in zip(self.indexes, answers, strict=True):
            if isinstance(hits, QueryMismatch):
                skipped[one.url] = str(hits)
                continue
            hints.append(hits.hint)
            for rank, (hit, stands_for) in enumerate(zip(hits, hits.stands_for, strict=True), 1):
                fused = found.setdefault(hit.chunk.id, _Fused(0.0, rank, hit, stands_for, one.url))
                if rank < fused.rank:
                    fused.rank, fused.hit, fused.stands_for, fused.source = rank, hit, stands_for, one.url
                fused.score += hit.score if query.hybrid else share(rank)  # of a hybrid search: the shares of its legs
                for leg, of_leg in hit.legs.items():
                    fused.legs[leg] = min(of_leg, fused.legs.get(leg, of_leg))
        if len(skipped) == len(self.indexes):
            causes = "; ".join(f"{url}: {why}" for url, why in skipped.items())
            raise QueryMismatch(f"no index can take the query: {causes}")
        best = sorted(found.values(), key=lambda fused: -fused.score)[: query.k]
        # A field that one of the indexes has is no mistake, though none of its chunks pass.
        hint = "; ".join(dict.fromkeys(filter(None, hints))) if not found and all(hints) else None
        merged = [replace(one.hit, score=one.score, legs=one.legs or NOTHING) for one in best]
        page = Page(merged, [one.stands_for for one in best], None, hint)
        return Hits(page, query.text, [one.source for one in best], skipped)


@dataclass(slots=True)
class _Fused:
    """A chunk on its way to a merged hit, as the index has it in which it ranks best."""

    score: float
    rank: int
    hit: Hit
    stands_for: int
    source: str
    legs: dict[str, int] = field(default_factory=dict)
    """The best rank in legs of that name."""


@contextmanager
def of_index(url: str) -> Iterator[None]:
    """Have errors say which index they are of, whoever raised them."""
    try:
        with naming(url):
            yield
    except PenstockError:
        raise
    except Exception as error:  # a driver, or a model of the user's, may raise anything
        raise StageError("search", url, error) from error


def facet_values(limit: int) -> int:
    """How many values to ask each index for, where `limit` of all are wanted."""
    return max(limit, FACET_VALUES)


def add_facets(several: Iterable[Facets], limit: int) -> Facets:
    """The counts of several indexes added up, and of each field the `limit` most frequent values."""
    sums: dict[str, Counter[tuple[type, Scalar]]] = {}
    for facets in several:
        for name, counts in facets.items():
            sums.setdefault(name, Counter()).update({(kind(value), value): number for value, number in counts})
    return {name: most(counts, limit) for name, counts in sums.items()}


def _answers(one: OpenIndex, queries: Sequence[Query]) -> Iterator[Hits | QueryMismatch]:
    """What one index has on each query, or why its model cannot take it."""
    most_hits = one.index.max_k
    window = WINDOW if most_hits is None else min(WINDOW, most_hits)
    asked = [replace(query, k=max(query.k, window), using=_name(one, query.using)) for query in queries]
    try:
        if queries[0].hybrid:
            asked = _with_own_legs(one, asked)
        yield from one.answer(asked)
    except QueryMismatch as error:
        if len(queries) == 1:
            yield error
        else:  # one of them: each alone
            for query in queries:
                yield from _answers(one, [query])


def _legs(one: OpenIndex) -> list[str]:
    return leg_names(one.schema, one.index.finds_words)


def _with_own_legs(one: OpenIndex, queries: Sequence[Query]) -> list[Query]:
    """The hybrid queries, of those legs that the index has. Raises QueryMismatch where it has none of them."""
    if not isinstance(wanted := queries[0].hybrid, Mapping):
        return list(queries)
    legs = _legs(one)
    if not (own := {name: weight for name, weight in wanted.items() if name in legs}):
        raise QueryMismatch(f"it has no leg {' or '.join(wanted)}, only {', '.join(legs)}")
    return [replace(query, hybrid=own) for query in queries]


def _name(one: OpenIndex, using: str | None) -> str | None:
    """The name of the vector to search an index by: where it has only one, that one."""
    return one.schema.only_name if len(one.schema.vectors) == 1 else using
