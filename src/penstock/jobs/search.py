"""Search of an index: a query is embedded by the model that made the index's vectors, or refused."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

from penstock.core.contracts import Index, MultiEmbedder, OneModel
from penstock.core.errors import QueryMismatch, UsageError
from penstock.core.records import VECTOR, Hit, Point, Vector
from penstock.core.schema import IndexSchema, Manifest
from penstock.embedders.named import image_queries
from penstock.jobs.following import Following, Generation
from penstock.jobs.hybrid import Fusion, Leg, find_fused_page, leg_names, weights_of
from penstock.jobs.own_vectors import checked_vector
from penstock.jobs.pages import Page, find_page
from penstock.jobs.queries import Query
from penstock.jobs.searchable import Facets, Hits, Searchable, Where

T = TypeVar("T")
IMAGES = 8
"""Images that are embedded together: they are decoded at once."""
_FUNCTION = re.compile(r"[^\W\d]\w*(\.([^\W\d]\w*|<\w+>))+")
"""What a function is called as a model: its module and qualified name. No name on a model hub is like that."""
DISTINCT_AMONG = 1024
"""The most hits that are fetched to find `k` different texts."""


class OpenIndex(Searchable):
    """An index together with its model. Needs no ledger; may be searched while a run fills it, and follows a re-index.

    >>> hits = open_index("lance://./index").search("how do I resume?", k=5)
    """

    def __init__(self, base: Index, choose: Callable[[IndexSchema], MultiEmbedder]) -> None:
        """`choose` makes the embedder of an index, or raises: of the one that is there, and of one that follows it."""
        self._following = Following(base, choose)
        self._loaded: MultiEmbedder | None = None
        self._loading = threading.Lock()
        self._turns = threading.Semaphore()
        """A model is called by no more threads at once than it allows, however many search."""

    @property
    def url(self) -> str:
        """Where it was opened, whichever generation is current."""
        return self._following.url

    @property
    def schema(self) -> IndexSchema:
        return self._following.generation.schema

    @property
    def index(self) -> Index:
        """The current generation, when last it was asked which."""
        return self._following.generation.index

    @property
    def embedder(self) -> MultiEmbedder:
        return self._following.generation.embedder

    @property
    def manifest(self) -> Manifest:
        return self._following.call(lambda one: one.index.manifest(), lambda manifest: True)

    def _count_values(self, names: Sequence[str], where: Where, limit: int) -> Facets:
        return self._following.call(
            lambda one: one.index.facets(names, where, limit=limit),
            lambda facets: any(facets.values()),
        )

    def answer(self, queries: Sequence[Query]) -> list[Hits]:
        def answer(generation: Generation) -> list[Page]:
            if queries[0].hybrid:
                return self._fused(generation, queries)
            name = generation.schema.name(queries[0].using)
            vectors = self._vectors(generation, queries, name)
            spec = generation.schema.vectors[name]
            return [
                find_page(generation.index, query, vector, name, spec)
                for query, vector in zip(queries, vectors, strict=True)
            ]

        pages = self._following.call(
            answer, lambda pages: all(len(page.hits) == query.k for page, query in zip(pages, queries, strict=True))
        )
        return [Hits(page, query.text, [self.url] * len(page.hits)) for page, query in zip(pages, queries, strict=True)]

    def _fused(self, generation: Generation, queries: Sequence[Query]) -> list[Page]:
        """The page of each hybrid query. A model is loaded only where one of its vectors is a leg."""
        index, schema = generation.index, generation.schema
        weights = weights_of(queries[0], leg_names(schema, index.finds_words))
        vectors = {name: self._vectors(generation, queries, name) for name in weights if name in schema.vectors}
        return [
            find_fused_page(
                index,
                query,
                Fusion(query, weights, index, schema),
                [Leg(name, vectors[name][n] if name in vectors else None) for name in weights],
            )
            for n, query in enumerate(queries)
        ]

    def _vectors(self, generation: Generation, queries: Sequence[Query], name: str) -> list[Vector]:
        """The vector of each query: texts embedded together, and images."""
        spec, embedder = generation.schema.vectors[name], generation.embedder
        texts = [query.text for query in queries if query.text is not None]
        images = [query.image for query in queries if query.image is not None]
        showing = image_queries(embedder, name) if images else None
        if images and showing is None:
            raise QueryMismatch(f"the index is of {spec.model}, which embeds no images")
        given = [checked_vector(query.vector, spec) for query in queries if query.vector is not None]
        with self._turn(embedder) if texts or images else nullcontext():
            of_texts = iter([*_batches(lambda some: embedder.query(some, name), texts, embedder.batch_rows)])
            of_images = iter([*_batches(showing.query_images, images, IMAGES)] if showing else ())
        of_vectors = iter(given)
        return [
            next(of_texts if query.text is not None else of_images if query.image is not None else of_vectors)
            for query in queries
        ]

    def _turn(self, embedder: MultiEmbedder) -> threading.Semaphore:
        """The turns of that model, which is open from now on."""
        with self._loading:
            if self._loaded is not embedder:
                embedder.open()
                self._loaded, self._turns = embedder, threading.Semaphore(embedder.workers)
            return self._turns

    def fetch(self, ids: Sequence[str]) -> Sequence[Point]:
        wanted = len(set(ids))
        return self._following.call(lambda one: one.index.fetch(ids), lambda points: len(points) >= wanted)

    def __len__(self) -> int:
        return self._following.call(lambda one: one.index.count(), lambda count: False)

    def close(self) -> None:
        self._following.close()


def _batches(embed: Callable[[list[T]], Sequence[Vector]], inputs: Sequence[T], rows: int) -> Iterator[Vector]:
    for start in range(0, len(inputs), rows):
        yield from embed(list(inputs[start : start + rows]))


def facets_json(facets: Facets) -> dict[str, list[dict[str, Any]]]:
    return {name: [{"value": value, "count": number} for value, number in counts] for name, counts in facets.items()}


@dataclass(frozen=True, slots=True)
class DistinctHit:
    """A hit, and farther ones whose chunks have the same text."""

    hit: Hit
    copies: tuple[Hit, ...] = ()
    stands_for: int = 1
    """Hits that are collapsed into it, itself among them: its copies, or its near-duplicates."""

    @property
    def uris(self) -> tuple[str, ...]:
        """The documents of the copies, each once."""
        return tuple(dict.fromkeys(copy.chunk.uri for copy in self.copies))


def collapse(hits: Iterable[Hit]) -> list[DistinctHit]:
    """Put hits together whose chunks have the same text, in the order of the first of each. Images stay apart, as their
    texts are only captions."""
    groups: dict[tuple[str, str], list[Hit]] = {}
    for hit in hits:
        chunk = hit.chunk
        text = "" if chunk.image is not None else chunk.text.strip()
        groups.setdefault((text, "" if text else chunk.id), []).append(hit)
    return [DistinctHit(first, tuple(copies), 1 + len(copies)) for first, *copies in groups.values()]


def distinct_hits(nearest: Callable[[int], Sequence[Hit]], k: int) -> list[DistinctHit]:
    """The k nearest hits with different texts. `nearest(k)` gives the k nearest, whatever their texts; it is asked for
    more where some of them are copies, for DISTINCT_AMONG at most."""
    limit = k
    while True:
        hits = nearest(limit)
        distinct = collapse(hits)
        if len(distinct) >= k or len(hits) < limit or limit >= DISTINCT_AMONG:
            return distinct[:k]
        limit = max(k, min(4 * limit, DISTINCT_AMONG))


def models_of(schema: IndexSchema) -> str | dict[str, OneModel]:
    """The models that an index was made with, by the names of their vectors. Raises UsageError where one is a function,
    whose name must not be asked of a model hub."""
    for spec in schema.vectors.values():
        if _FUNCTION.fullmatch(spec.model) and not os.path.exists(spec.model):
            raise UsageError(
                f"the index was made by a function, {spec.model}, which only your program has: search it there, with"
                " penstock.open_index(url, model=...)"
            )
    if schema.vectors.keys() == {VECTOR}:
        return schema.only.model
    return {name: spec.model for name, spec in schema.vectors.items()}
