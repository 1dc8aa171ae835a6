"""From a query to a page of hits: embed, combine, search, collapse."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from penstock.core.contracts import Index
from penstock.core.errors import SinkError, Transient
from penstock.core.records import Chunk, Point
from penstock.jobs.queries import Query
from penstock.jobs.search import facets_json
from penstock.jobs.searchable import Facets
from penstock.jobs.snippets import highlights, snippet, words_of
from penstock.server import rates
from penstock.server.generations import ServedGeneration, ServedIndex
from penstock.server.image_fetcher import ImageFetcher
from penstock.server.metrics import Metrics
from penstock.server.problems import Problem, bad_request, not_found
from penstock.server.queries import FacetQuery
from penstock.server.rates import RateLimiter
from penstock.server.retrieval import Retrieval, SearchRequest, Timings
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
        self._retrieval = Retrieval(served, metrics)
        self.embed = self._retrieval.embed
        self.succeeded = self._retrieval.succeeded

    async def search(self, query: Query, client: str, timings: Timings | None = None) -> dict[str, Any]:
        """One page of hits. Where the index fails because it has moved, all of it is done again where it is now: a
        vector of the old model means nothing there. `timings` show how far it has come."""
        if query.image_url is not None:
            query = await self._fetch(query, query.image_url, client)
        pixels = 0 if query.image is None else await self._measure(query.image, client)
        self._rates.charge(client, rates.of_pixels(pixels))

        def task(generation: ServedGeneration) -> Awaitable[dict[str, Any]]:
            return self._search(SearchRequest(generation, query, pixels, client, timings or Timings()))

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

    async def finds_words(self, client: str) -> bool:
        async def ask(generation: ServedGeneration) -> bool:
            return await self.in_thread(generation.finds_words, client)

        return await self.with_index(ask, client)

    async def count(self, client: str) -> int:
        return await self._call(lambda index: index.count(), client)

    async def _call(self, task: Callable[[Index], R], client: str) -> R:
        async def call(generation: ServedGeneration) -> R:
            calling = self._served.work("files", client, lambda: generation.call(task), generation)
            return (await asyncio.wrap_future(calling))[0]

        return await self.with_index(call, client)

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
        generation, query = request.generation, request.query

        def count(index: Index) -> Facets:
            return index.facets(query.facets, query.narrowed, limit=FACET_VALUES)

        page = await self._retrieval.page(request)
        facets = await self._retrieval.timed_call(request, count) if query.facets else {}
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
                    "stands_for": stands_for,
                    "legs": dict(hit.legs),
                    "rank_before": hit.rank_before,
                }
                for hit, stands_for in zip(page.hits, page.stands_for, strict=True)
            ]

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


def _emptied(generation: ServedGeneration) -> SinkError:
    return SinkError(f"{generation.index.url} was emptied: another generation is current")


def no_such_point(id: str) -> Problem:
    return not_found(f"the index has no point {id[:100]!r}")
