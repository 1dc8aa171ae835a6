"""From a query to a page of hits: embed, combine, search, collapse."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from penstock.core.contracts import Index
from penstock.core.errors import SinkError, Transient
from penstock.core.records import Chunk, Dense, Point, Vector
from penstock.jobs.pages import Page, checked_vector, find_page, stored_vectors
from penstock.jobs.queries import Query
from penstock.jobs.search import facets_json
from penstock.jobs.searchable import Facets
from penstock.jobs.snippets import highlights, snippet, words_of
from penstock.jobs.vector_math import combine
from penstock.server import rates
from penstock.server.batcher import Embedded
from penstock.server.generations import NamedVector, ServedGeneration, ServedIndex
from penstock.server.image_fetcher import ImageFetcher
from penstock.server.metrics import Metrics
from penstock.server.problems import Problem, bad_request, not_found
from penstock.server.queries import FacetQuery
from penstock.server.rates import RateLimiter
from penstock.server.schemas import FACET_VALUES
from penstock.server.settings import Settings
from penstock.server.thumbnails import Thumbnails

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Values = NDArray[np.float32]

R = TypeVar("R")

LARGE = 1 << 15
"""Bytes of a request from which parsing it would hold up the event loop."""
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
    pixels: int
    """Of the query's image."""
    client: str
    timings: Timings


class Searcher:
    """All that it does for a client waits in that client's turn; SERVER comes first."""

    def __init__(
        self,
        served: ServedIndex,
        settings: Settings,
        metrics: Metrics,
        thumbnails: Thumbnails,
        fetcher: ImageFetcher,
        limiter: RateLimiter,
    ) -> None:
        self._served, self._settings, self._metrics = served, settings, metrics
        self._thumbnails, self._fetcher, self._rates = thumbnails, fetcher, limiter
        self.succeeded: dict[str, float] = {}
        """By vector, when a search succeeded last, on the monotonic clock."""

    async def search(self, query: Query, client: str, timings: Timings | None = None) -> dict[str, Any]:
        """One page of hits. Where the index fails because it has moved, all of it is done again where it is now: a
        vector of the old model means nothing there. `timings` show how far it has come."""
        if query.image_url is not None:
            query = await self._fetch(query, query.image_url, client)
        pixels = 0 if query.image is None else await self._measure(query.image, client)
        self._rates.charge(client, rates.of_pixels(pixels))

        def task(generation: ServedGeneration) -> Awaitable[dict[str, Any]]:
            target = generation.vector(query.using)
            return self._search(SearchRequest(generation, target, query, pixels, client, timings or Timings()))

        return await self.with_index(task, client)

    async def with_index(self, task: Callable[[ServedGeneration], Awaitable[R]], client: str) -> R:
        """Run the task with the served generation; once more with another one, where the index fails and has moved."""
        with self._served.lease() as generation:
            try:
                return await task(generation)
            except SinkError as error:  # of the index; a model that fails is no reason to reopen it
                following = self._served.work("fetch", client, lambda: self._served.follow(generation))
                if not (await asyncio.wrap_future(following))[0]:
                    if not await self._answers(generation, error, client):
                        raise
                    return await self._again(generation, task, error, client)
        with self._served.lease() as generation:
            return await task(generation)

    async def _again(
        self,
        generation: ServedGeneration,
        task: Callable[[ServedGeneration], Awaitable[R]],
        before: SinkError,
        client: str,
    ) -> R:
        """Run the task once more. The same error of an index that answers other queries is a matter of this one."""
        try:
            return await task(generation)
        except SinkError as error:
            if str(error) != str(before) or not await self._answers(generation, error, client):
                raise
            raise bad_request("the index cannot answer such a query; a simpler filter may do") from error

    async def _answers(self, generation: ServedGeneration, error: SinkError, client: str) -> bool:
        """Whether the index answers other queries than the one that this error is of."""
        if isinstance(error, Transient):
            return False
        answering = self._served.work("fetch", client, generation.answers, generation)
        return (await asyncio.wrap_future(answering))[0]

    async def points(self, ids: Sequence[str], client: str) -> Sequence[Point]:
        return await self._call(lambda index: index.fetch(ids), client)

    async def count(self, client: str) -> int:
        return await self._call(lambda index: index.count(), client)

    async def _call(self, task: Callable[[Index], R], client: str) -> R:
        async def call(generation: ServedGeneration) -> R:
            calling = self._served.work("files", client, lambda: generation.call(task), generation)
            return (await asyncio.wrap_future(calling))[0]

        return await self.with_index(call, client)

    async def embed(self, submitted: Sequence[Future[Embedded]], timings: Timings) -> list[Vector]:
        """The vectors of inputs that were submitted to a batcher, in batches shared with other requests."""
        results = await _all(submitted)
        for result in results:
            self._metrics.observe("penstock_stage_seconds", result.waited, stage="queue")
            self._metrics.observe("penstock_stage_seconds", result.took, stage="embed")
        timings.queue += max((result.waited for result in results), default=0.0)
        timings.embed += max((result.took for result in results), default=0.0)
        return [result.vector for result in results]

    async def _fetch(self, query: Query, url: str, client: str) -> Query:
        return replace(query, image=await self.timed("fetch", "fetch", lambda: self._fetcher(url), client))

    async def _measure(self, image: bytes, client: str) -> int:
        """The image's pixels, by its header. Refuses what is not an image, or too large a one."""
        from penstock.support.images import measure

        _, width, height = await self.in_thread(lambda: measure(image, pixels=self._settings.pixels), client)
        return width * height

    async def parse(self, task: Callable[[], R], size: int, client: str) -> R:
        """Parse a request of so many bytes: in a thread, where it is large."""
        return task() if size < LARGE else await self.in_thread(task, client, "parse")

    async def timed(self, pool: str, stage: str, task: Callable[[], R], client: str) -> R:
        with self._metrics.timed(stage):
            return await self.in_thread(task, client, pool)

    async def in_thread(self, task: Callable[[], R], client: str, pool: str = "files") -> R:
        return (await asyncio.wrap_future(self._served.work(pool, client, task)))[0]

    async def _search(self, request: SearchRequest) -> dict[str, Any]:
        generation, target, query = request.generation, request.target, request.query
        vector = await self._query_vector(request)

        def answer(index: Index) -> tuple[Page, Facets]:
            page = find_page(index, query, vector, target.name, target.spec)
            return page, index.facets(query.facets, query.narrowed, limit=FACET_VALUES) if query.facets else {}

        page, facets = await self._timed_call(request, answer)
        if not page.hits and not query.offset and await self._has_moved(request.generation, request.client):
            raise _emptied(generation)
        words = words_of(query.text) if query.text else None

        def hits() -> list[dict[str, Any]]:
            return [
                self.to_json(hit.chunk)
                | {
                    "score": hit.score,
                    "snippet": snippet(hit.chunk.text, words),
                    "highlights": highlights(hit.chunk.text, words),
                    "stands_for": count,
                }
                for hit, count in zip(page.hits, page.stands_for, strict=True)
            ]

        self.succeeded[target.name] = time.monotonic()
        return {
            "hits": hits() if len(page.hits) <= MAX_INLINE else await self.in_thread(hits, request.client),
            "cursor": page.cursor,
            "facets": facets_json(facets),
            "hint": page.hint,
            "took": request.timings.to_json(),
        }

    async def facets(self, query: FacetQuery, client: str) -> dict[str, Any]:
        """The values of fields, and how many chunks have each."""

        def count(index: Index) -> Facets:
            return index.facets(query.names, query.where, limit=query.limit)

        async def answer(generation: ServedGeneration) -> Facets:
            calling = self._served.work("search", client, lambda: generation.call(count), generation)
            with self._metrics.timed("facets"):
                facets = (await asyncio.wrap_future(calling))[0]
            if not any(facets.values()) and await self._has_moved(generation, client):
                raise _emptied(generation)
            return facets

        return {"facets": facets_json(await self.with_index(answer, client))}

    async def _has_moved(self, generation: ServedGeneration, client: str) -> bool:
        """Whether another generation is served by now: one that is dropped finds nothing, and need not fail."""
        await self.in_thread(self._served.follow, client, "fetch")
        return not self._served.serves(generation)

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
        query, target, timings, client = request.query, request.target, request.timings, request.client
        texts = [query.text] if query.text is not None and query.text_weight > 0 else []
        images = [query.image] if query.image is not None and query.image_weight > 0 else []
        if images and target.images is None:
            raise bad_request(f"{target.spec.model} embeds no images; search by text")
        if target.spec.kind != "Dense":
            if not texts or images or query.vector or query.like or query.unlike or query.minus:
                raise bad_request(f"{target.spec.kind} vectors can be searched by text only")
            return (await self.embed([target.submit_text(text, client) for text in texts], timings))[0]
        of_texts, of_images = Timings(), Timings()
        from_texts, from_images, examples = await asyncio.gather(
            self.embed([target.submit_text(text, client) for text in (*texts, *query.minus)], of_texts),
            self.embed([target.submit_image(one, client, request.pixels) for one in images], of_images),
            self._examples(request),
        )
        timings.embed += max(of_texts.embed, of_images.embed)
        timings.queue += max(of_texts.queue, of_images.queue)
        parts = [(_values(one), query.text_weight) for one in from_texts[: len(texts)]]
        parts += [(_values(one), query.image_weight) for one in from_images]
        if query.vector is not None:
            parts.append((checked_vector(query.vector, target.spec), 1.0))
        like, unlike = ([examples[id] for id in ids] for ids in (query.like, query.unlike))
        return Dense(combine(parts, like, unlike, [_values(one) for one in from_texts[len(texts) :]]))

    async def _examples(self, request: SearchRequest) -> dict[str, Values]:
        """Vectors of the points that are named as examples."""
        ids = [*request.query.like, *request.query.unlike]
        if not ids:
            return {}
        vectors = await self._timed_call(request, lambda index: stored_vectors(index, ids, request.target.name))
        for id in ids:
            if id not in vectors:
                raise bad_request(f"the index has no point {id!r} with a vector to search by")
        return vectors

    async def _timed_call(self, request: SearchRequest, task: Callable[[Index], R]) -> R:
        generation, timings = request.generation, request.timings
        began = time.perf_counter()
        calling = self._served.work("search", request.client, lambda: generation.call(task), generation)
        result, waited = await asyncio.wrap_future(calling)
        took = time.perf_counter() - began - waited
        timings.queue += waited
        timings.search += took
        self._metrics.observe("penstock_stage_seconds", waited, stage="queue")
        self._metrics.observe("penstock_stage_seconds", took, stage="search")
        return result


def _emptied(generation: ServedGeneration) -> SinkError:
    return SinkError(f"{generation.index.url} was emptied: another generation is current")


async def gathered(searches: Sequence[Coroutine[Any, Any, R]]) -> list[R | BaseException]:
    """The results or errors of all, in order. One that fails ends the others, which nobody waits for any more."""
    tasks = [asyncio.ensure_future(search) for search in searches]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
    return await asyncio.gather(*tasks, return_exceptions=True)


async def _all(futures: Sequence[Future[R]]) -> list[R]:
    """All results. Where one fails, the others leave their queues: nobody waits for them any more."""
    try:
        return list(await asyncio.gather(*map(asyncio.wrap_future, futures)))
    except BaseException:
        for future in futures:
            future.cancel()
        raise


def _values(vector: Vector) -> Values:
    assert isinstance(vector, Dense)
    return vector.values


def no_such_point(id: str) -> Problem:
    return not_found(f"the index has no point {id[:100]!r}")
