"""From a query to a page of hits: its vectors, embedded in batches shared with other requests, and searches by them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from penstock.core.contracts import Index
from penstock.core.records import Dense, Hit, Vector
from penstock.jobs.hybrid import Fusion, Leg, leg_names, weights_of
from penstock.jobs.own_vectors import checked_vector
from penstock.jobs.pages import Page, find_page, stored_vectors
from penstock.jobs.queries import Query
from penstock.jobs.rerank import candidates, ordered, passages, scored
from penstock.jobs.vector_math import combine
from penstock.server.batcher import Embedded
from penstock.server.generations import NamedVector, ServedGeneration, ServedIndex
from penstock.server.metrics import Metrics
from penstock.server.problems import bad_request

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Values = NDArray[np.float32]

R = TypeVar("R")
TOGETHER = 16
"""Passages that are reranked in one turn of a client."""


@dataclass(slots=True)
class Timings:
    """Seconds. What runs at the same time counts once."""

    embed: float = 0.0
    search: float = 0.0
    rerank: float = 0.0
    queue: float = 0.0

    def add(self, beside: Sequence[Timings]) -> None:
        """Add what was done at the same time: the longest of each."""
        self.embed += max((one.embed for one in beside), default=0.0)
        self.search += max((one.search for one in beside), default=0.0)
        self.queue += max((one.queue for one in beside), default=0.0)

    def to_json(self) -> dict[str, float]:
        """In milliseconds."""
        return {name: round(getattr(self, name) * 1000, 3) for name in ("embed", "search", "rerank", "queue")}


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """One search of one generation."""

    generation: ServedGeneration
    query: Query
    pixels: int
    """Of the query's image."""
    client: str
    timings: Timings


class Retrieval:
    def __init__(self, served: ServedIndex, metrics: Metrics) -> None:
        self._served, self._metrics = served, metrics
        self.succeeded: dict[str, float] = {}
        """By vector, when a search succeeded last, on the monotonic clock."""

    async def page(self, request: SearchRequest) -> Page:
        query, model = request.query, self._served.reranker
        if not query.rerank:
            return await self._page(request)
        if model is None:
            raise bad_request("rerank: the server has no reranker; it is started with --rerank MODEL")
        page = await self._page(replace(request, query=candidates(query)))
        texts, scores = passages(page), list[float]()
        for start in range(0, len(texts), TOGETHER):  # between two of these others have their turn
            some = texts[start : start + TOGETHER]
            scores += await self._timed(request, "rerank", partial(scored, model, query, some))
        return ordered(query, page, scores)

    async def _page(self, request: SearchRequest) -> Page:
        if request.query.hybrid:
            return await self._fused_page(request)
        target, query = request.generation.vector(request.query.using), request.query
        vector = await self._query_vector(request, target)
        page = await self.timed_call(request, lambda index: find_page(index, query, vector, target.name, target.spec))
        self.succeeded[target.name] = time.monotonic()
        return page

    # ------------------------------------------------------------ several legs

    async def _fused_page(self, request: SearchRequest) -> Page:
        """Each leg is embedded and searched beside the others, for as many hits as the page takes."""
        generation, query = request.generation, request.query
        finds_words = generation.has_words or await self.timed_call(request, lambda _: generation.finds_words())
        weights = weights_of(query, leg_names(generation.schema, finds_words))
        parts = _parts(query, [generation.vectors[name] for name in weights if name in generation.vectors])
        fusion = Fusion(query, weights, generation.index, generation.schema)
        legs: dict[str, Leg] = {}

        async def search(name: str, own: SearchRequest, k: int) -> list[Hit]:
            if name not in legs:
                vector = await self._query_vector(own, generation.vectors[name]) if name in parts else None
                legs[name] = Leg(name, vector)
            return await self.timed_call(own, lambda index: legs[name].search(index, query, k))

        async def search_all() -> Page | None:
            own = {name: replace(request, query=parts.get(name, query), timings=Timings()) for name in fusion.open}
            answers = await _results([search(name, one, fusion.window) for name, one in own.items()])
            request.timings.add([one.timings for one in own.values()])
            asked = [legs[name] for name in own]
            return await self.timed_call(request, lambda index: fusion.add(asked, answers))

        while (page := await search_all()) is None:
            pass
        self.succeeded.update(dict.fromkeys(parts, time.monotonic()))
        return page

    # ------------------------------------------------------------ a vector

    async def embed(self, submitted: Sequence[Future[Embedded]], timings: Timings) -> list[Vector]:
        """The vectors of inputs that were submitted to a batcher, in batches shared with other requests."""
        results = await _all(submitted)
        for result in results:
            self._metrics.observe("penstock_stage_seconds", result.waited, stage="queue")
            self._metrics.observe("penstock_stage_seconds", result.took, stage="embed")
        timings.queue += max((result.waited for result in results), default=0.0)
        timings.embed += max((result.took for result in results), default=0.0)
        return [result.vector for result in results]

    async def _query_vector(self, request: SearchRequest, target: NamedVector) -> Vector:
        query, timings, client = request.query, request.timings, request.client
        texts = [query.text] if query.text is not None and query.text_weight > 0 else []
        images = [query.image] if query.image is not None and query.image_weight > 0 else []
        if images and target.images is None:
            raise bad_request(f"{target.spec.model} embeds no images; search by text")
        if target.spec.kind != "Dense":
            if images or query.like or query.unlike or query.minus or bool(texts) == (query.vector is not None):
                raise bad_request(f"{target.spec.kind} vectors can be searched by a text, or by such a vector, alone")
            if query.vector is not None:
                return checked_vector(query.vector, target.spec)
            return (await self.embed([target.submit_text(text, client) for text in texts], timings))[0]
        of_texts, of_images = Timings(), Timings()
        from_texts, from_images, examples = await asyncio.gather(
            self.embed([target.submit_text(text, client) for text in (*texts, *query.minus)], of_texts),
            self.embed([target.submit_image(one, client, request.pixels) for one in images], of_images),
            self._examples(request, target.name),
        )
        timings.add([of_texts, of_images])
        parts = [(_values(one), query.text_weight) for one in from_texts[: len(texts)]]
        parts += [(_values(one), query.image_weight) for one in from_images]
        if query.vector is not None:
            parts.append((_values(checked_vector(query.vector, target.spec)), 1.0))
        like, unlike = ([examples[id] for id in ids] for ids in (query.like, query.unlike))
        return Dense(combine(parts, like, unlike, [_values(one) for one in from_texts[len(texts) :]]))

    async def _examples(self, request: SearchRequest, name: str) -> dict[str, Values]:
        """Vectors of the points that are named as examples."""
        ids = [*request.query.like, *request.query.unlike]
        if not ids:
            return {}
        vectors = await self.timed_call(request, lambda index: stored_vectors(index, ids, name))
        for id in ids:
            if id not in vectors:
                raise bad_request(f"the index has no point {id!r} with a vector to search by")
        return vectors

    async def timed_call(self, request: SearchRequest, task: Callable[[Index], R]) -> R:
        """Call the index in a thread, in the client's turn."""
        return await self._timed(request, "search", lambda: request.generation.call(task))

    async def _timed(self, request: SearchRequest, stage: str, task: Callable[[], R]) -> R:
        timings = request.timings
        began = time.perf_counter()
        result, waited = await asyncio.wrap_future(self._served.work(stage, request.client, task, request.generation))
        took = time.perf_counter() - began - waited
        timings.queue += waited
        setattr(timings, stage, getattr(timings, stage) + took)
        self._metrics.observe("penstock_stage_seconds", waited, stage="queue")
        self._metrics.observe("penstock_stage_seconds", took, stage=stage)
        return result


def _parts(query: Query, vectors: Sequence[NamedVector]) -> dict[str, Query]:
    """What each vector takes of a hybrid query: all of it, without an image where its model embeds none, and the text
    alone where it is not dense."""
    if not query.image_weight > 0:
        query = replace(query, image=None)
    text = replace(query, image=None, like=(), unlike=(), minus=())
    parts: dict[str, Query] = {}
    for one in vectors:
        if one.spec.kind != "Dense":
            parts[one.name] = text
        else:
            parts[one.name] = query if one.images is not None else replace(query, image=None)
    if query.image is not None and all(part.image is None for part in parts.values()):
        raise bad_request("no vector of the hybrid search is of a model that embeds images; search by text")
    if (query.like or query.unlike or query.minus) and all(one.spec.kind != "Dense" for one in vectors):
        raise bad_request("like, unlike and minus: no vector of the hybrid search is dense; search by text")
    return parts


async def gathered(searches: Sequence[Coroutine[Any, Any, R]]) -> list[R | BaseException]:
    """The results or errors of all, in order. One that fails ends the others, which nobody waits for any more."""
    tasks = [asyncio.ensure_future(search) for search in searches]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
    return await asyncio.gather(*tasks, return_exceptions=True)


async def _results(tasks: Sequence[Coroutine[Any, Any, R]]) -> list[R]:
    """The results of all. Where one fails its error is raised, and the others end."""
    results = await gathered(tasks)
    for failed in (True, False):  # a task that was ended is not the one that failed
        for one in results:
            if isinstance(one, BaseException) and not (failed and isinstance(one, asyncio.CancelledError)):
                raise one
    return [one for one in results if not isinstance(one, BaseException)]


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
