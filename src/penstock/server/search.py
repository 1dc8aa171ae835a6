"""From a query to a page of hits: embed, combine, search, collapse."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from penstock.core.contracts import Index
from penstock.core.errors import SinkError
from penstock.core.records import Chunk, Dense, Hit, Point, Vector
from penstock.jobs.snippets import snippet, words_of
from penstock.server.batcher import Batcher, Embedded
from penstock.server.generations import NamedVector, ServedGeneration, ServedIndex
from penstock.server.image_fetcher import ImageFetcher
from penstock.server.metrics import Metrics
from penstock.server.problems import Problem, bad_request, not_found
from penstock.server.queries import Query
from penstock.server.settings import Settings
from penstock.server.thumbnails import Thumbnails
from penstock.server.vector_math import collapse_duplicates, combine

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Values = NDArray[np.float32]

T = TypeVar("T")
R = TypeVar("R")

MAX_SNIPPET_QUERY = 300
"""Characters of a query whose words are looked for, to choose the snippets."""
MAX_INLINE = 50
"""Hits that are converted on the event loop; more are converted in a thread."""


@dataclass(slots=True)
class Timings:
    """Seconds. What runs at the same time counts once."""

    embed: float = 0.0
    search: float = 0.0
    queue: float = 0.0

    def to_json(self) -> dict[str, float]:
        """In milliseconds."""
        return {name: round(getattr(self, name) * 1000, 3) for name in ("embed", "search", "queue")}


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """One search of one generation."""

    generation: ServedGeneration
    target: NamedVector
    query: Query
    timings: Timings


class Searcher:
    def __init__(
        self, served: ServedIndex, settings: Settings, metrics: Metrics, thumbnails: Thumbnails, fetcher: ImageFetcher
    ) -> None:
        self._served, self._settings, self._metrics = served, settings, metrics
        self._thumbnails, self._fetcher = thumbnails, fetcher

    async def search(self, query: Query) -> dict[str, Any]:
        """One page of hits. Where the index fails because it has moved, all of it is done again where it is now: a
        vector of the old model means nothing there."""
        if query.image_url is not None:
            query = await self._fetch(query, query.image_url)
        if query.image is not None:
            await self._check_image(query.image)
        checked = query
        return await self.with_index(lambda generation: self._search(generation, checked))

    async def with_index(self, task: Callable[[ServedGeneration], Awaitable[R]]) -> R:
        """Run the task with the served generation; once more with another one, where the index fails and has moved."""
        with self._served.lease() as generation:
            try:
                return await task(generation)
            except SinkError:  # of the index; a model that fails is no reason to reopen it
                following = self._served.work("fetch", lambda: self._served.follow(generation))
                if not (await asyncio.wrap_future(following))[0]:
                    raise
        with self._served.lease() as generation:
            return await task(generation)

    async def points(self, ids: Sequence[str]) -> Sequence[Point]:
        return await self.with_index(lambda generation: self._call(generation, lambda index: index.fetch(ids)))

    async def count(self) -> int:
        return await self.with_index(lambda generation: self._call(generation, lambda index: index.count()))

    async def _call(self, generation: ServedGeneration, task: Callable[[Index], R]) -> R:
        calling = self._served.work("files", lambda: generation.call(task), generation)
        return (await asyncio.wrap_future(calling))[0]

    async def embed(self, batcher: Batcher[T], inputs: Sequence[T], timings: Timings) -> list[Vector]:
        """Embed texts or images, in batches shared with other requests."""
        results: list[Embedded] = await _all([batcher.submit(one) for one in inputs])
        for result in results:
            self._metrics.observe("penstock_stage_seconds", result.waited, stage="queue")
            self._metrics.observe("penstock_stage_seconds", result.took, stage="embed")
        timings.queue += max((result.waited for result in results), default=0.0)
        timings.embed += max((result.took for result in results), default=0.0)
        return [result.vector for result in results]

    async def _fetch(self, query: Query, url: str) -> Query:
        return replace(query, image=await self.timed("fetch", "fetch", lambda: self._fetcher(url)))

    async def _check_image(self, image: bytes) -> None:
        """Refuse by its header what is not an image, or too large a one."""
        from penstock.support.images import measure

        pixels = self._settings.pixels
        await asyncio.wrap_future(self._served.work("files", lambda: measure(image, pixels=pixels)))

    async def timed(self, pool: str, stage: str, task: Callable[[], R]) -> R:
        with self._metrics.timed(stage):
            return (await asyncio.wrap_future(self._served.work(pool, task)))[0]

    async def _search(self, generation: ServedGeneration, query: Query) -> dict[str, Any]:
        request = SearchRequest(generation, generation.vector(query.using), query, Timings())
        page, more = await self._page(request, await self._query_vector(request))
        words = words_of(query.text[:MAX_SNIPPET_QUERY]) if query.text else None
        end = query.offset + query.k

        def hits() -> list[dict[str, Any]]:
            return [
                self.to_json(hit.chunk)
                | {"score": hit.score, "snippet": snippet(hit.chunk.text, words), "stands_for": count}
                for hit, count in page
            ]

        return {
            "hits": hits()
            if len(page) <= MAX_INLINE
            else (await asyncio.wrap_future(self._served.work("files", hits)))[0],
            "cursor": query.cursor(end) if more and end < query.max_depth else None,
            "took": request.timings.to_json(),
        }

    def to_json(self, chunk: Chunk) -> dict[str, Any]:
        return {
            "id": chunk.id,
            "uri": chunk.uri,
            "text": chunk.text,
            "page": chunk.page,
            "headings": list(chunk.headings),
            "span": list(chunk.span),
            "metadata": dict(chunk.metadata),
            "thumb": f"/v1/thumbs/{chunk.id}" if self._thumbnails.may_show(chunk) else None,
        }

    # ------------------------------------------------------------ the query's vector

    async def _query_vector(self, request: SearchRequest) -> Vector:
        query, target, timings = request.query, request.target, request.timings
        texts = [query.text] if query.text is not None and query.text_weight > 0 else []
        images = [query.image] if query.image is not None and query.image_weight > 0 else []
        if images and target.images is None:
            raise bad_request(f"{target.spec.model} embeds no images; search by text")
        if target.spec.kind != "Dense":
            if not texts or images or query.vector or query.like or query.unlike or query.minus:
                raise bad_request(f"{target.spec.kind} vectors can be searched by text only")
            return (await self.embed(target.texts, texts, timings))[0]
        of_texts, of_images = Timings(), Timings()
        from_texts, from_images, examples = await asyncio.gather(
            self.embed(target.texts, [*texts, *query.minus], of_texts),
            self.embed(target.images, images, of_images) if target.images else _nothing(),
            self._examples(request),
        )
        timings.embed += max(of_texts.embed, of_images.embed)
        timings.queue += max(of_texts.queue, of_images.queue)
        parts = [(_values(one), query.text_weight) for one in from_texts[: len(texts)]]
        parts += [(_values(one), query.image_weight) for one in from_images]
        if query.vector is not None:
            parts.append((_checked_vector(query.vector, target), 1.0))
        like, unlike = ([examples[id] for id in ids] for ids in (query.like, query.unlike))
        return Dense(combine(parts, like, unlike, [_values(one) for one in from_texts[len(texts) :]]))

    async def _examples(self, request: SearchRequest) -> dict[str, Values]:
        """Vectors of the points that are named as examples."""
        ids = [*request.query.like, *request.query.unlike]
        if not ids:
            return {}
        vectors = await self._stored_vectors(request, ids)
        for id in ids:
            if id not in vectors:
                raise bad_request(f"the index has no point {id!r} with a vector to search by")
        return vectors

    # ------------------------------------------------------------ the hits

    async def _page(self, request: SearchRequest, vector: Vector) -> tuple[list[tuple[Hit, int]], bool]:
        """The page's hits, with how many each stands for; and whether there are more."""
        query = request.query
        if query.distinct:
            return await self._distinct_page(request, vector)
        hits, _ = await self._hits(request, vector, query.offset + query.k + 1)
        page = hits[query.offset : query.offset + query.k]
        return [(hit, 1) for hit in page], len(hits) > query.offset + query.k

    async def _distinct_page(self, request: SearchRequest, vector: Vector) -> tuple[list[tuple[Hit, int]], bool]:
        """Fetch ever more hits until as many distinct ones are among them as the page needs, or there are no more."""
        query = request.query
        if request.target.spec.kind != "Dense":
            raise bad_request(f"distinct: {request.target.spec.kind} vectors cannot be compared with each other")
        needed = query.offset + query.k + 1
        limit = 2 * needed
        while True:
            hits, exhausted = await self._hits(request, vector, limit)
            stored = await self._stored_vectors(request, [hit.chunk.id for hit in hits])
            vectors = [stored.get(hit.chunk.id) for hit in hits]
            collapsing = self._served.work("search", partial(collapse_duplicates, vectors))
            distinct, _ = await asyncio.wrap_future(collapsing)
            if exhausted or len(distinct) >= needed or limit >= query.max_depth:
                page = distinct[query.offset : query.offset + query.k]
                return [(hits[position], count) for position, count in page], len(distinct) > query.offset + query.k
            limit = min(2 * limit, query.max_depth)

    async def _hits(self, request: SearchRequest, vector: Vector, needed: int) -> tuple[list[Hit], bool]:
        """The first hits, and whether there are no others."""
        query, name = request.query, request.target.name
        limit = min(needed, query.max_depth) + len(query.unlike)
        where = dict(query.where) if query.where else None
        hits = await self._timed_call(request, lambda index: index.search(vector, limit, where, using=name))
        kept = [
            hit
            for hit in hits
            if hit.chunk.id not in query.unlike and (query.threshold is None or hit.score >= query.threshold)
        ]
        return kept, len(hits) < limit or (query.threshold is not None and hits[-1].score < query.threshold)

    async def _stored_vectors(self, request: SearchRequest, ids: Sequence[str]) -> dict[str, Values]:
        """Of those points that have a vector of the name that is searched by."""
        points = await self._timed_call(request, lambda index: index.fetch(ids))
        name = request.target.name
        return {point.id: _values(point.vectors[name]) for point in points if name in point.vectors}

    async def _timed_call(self, request: SearchRequest, task: Callable[[Index], R]) -> R:
        generation, timings = request.generation, request.timings
        began = time.perf_counter()
        calling = self._served.work("search", lambda: generation.call(task), generation)
        result, waited = await asyncio.wrap_future(calling)
        took = time.perf_counter() - began - waited
        timings.queue += waited
        timings.search += took
        self._metrics.observe("penstock_stage_seconds", waited, stage="queue")
        self._metrics.observe("penstock_stage_seconds", took, stage="search")
        return result


async def _nothing() -> list[Vector]:
    return []


async def _all(futures: Sequence[Any]) -> list[Any]:
    return list(await asyncio.gather(*map(asyncio.wrap_future, futures)))


def _values(vector: Vector) -> Values:
    assert isinstance(vector, Dense)
    return vector.values


def _checked_vector(vector: Sequence[float], target: NamedVector) -> Values:
    import numpy as np

    if len(vector) != target.spec.dim:
        raise bad_request(f"vector: expected {target.spec.dim:,} dimensions, got {len(vector):,}")
    values = np.asarray(vector, np.float64)
    if not 1e-9 < np.linalg.norm(values) < 1e9:  # between these, squares of single precision hold
        raise bad_request("vector: it is zero, or too short or too long to be compared")
    return values.astype(np.float32)


def no_such_point(id: str) -> Problem:
    return not_found(f"the index has no point {id[:100]!r}")
