"""From a question to hits: embed, combine, search, collapse, cut into pages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from penstock.core.contracts import Index
from penstock.core.errors import SinkError
from penstock.core.records import VECTOR, Chunk, Dense, Hit, Point, Vector
from penstock.jobs.snippets import snippet, words_of
from penstock.server.asking import Ask
from penstock.server.batcher import Batcher, Embedded
from penstock.server.combining import collapsed, combined
from penstock.server.engine import Engine, Generation
from penstock.server.fetching import Fetcher
from penstock.server.metrics import Metrics
from penstock.server.problems import Problem, bad
from penstock.server.settings import Settings
from penstock.server.thumbs import Thumbs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Values = NDArray[np.float32]

T = TypeVar("T")
R = TypeVar("R")

TELLING = 300
"""Characters of a text whose words are looked for in the hits, so that a snippet shows them."""
FEW = 50
"""Hits that are written down on the event loop; more are in a thread."""


@dataclass(slots=True)
class Took:
    """Seconds. What is done at the same time counts once."""

    embed: float = 0.0
    search: float = 0.0
    queue: float = 0.0

    def to_json(self) -> dict[str, float]:
        return {"embed": _ms(self.embed), "search": _ms(self.search), "queue": _ms(self.queue)}


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


class Searcher:
    def __init__(self, engine: Engine, settings: Settings, metrics: Metrics, thumbs: Thumbs, fetcher: Fetcher) -> None:
        self._engine, self._settings, self._metrics = engine, settings, metrics
        self._thumbs, self._fetcher = thumbs, fetcher

    async def answer(self, ask: Ask) -> dict[str, Any]:
        """One page of hits. Where the index fails because it has moved, it is asked where it is now, from the start:
        a vector of the old model is worth nothing there."""
        if ask.image_url is not None:
            ask = await self._fetched(ask)
        if ask.image is not None:
            await self._measured(ask.image)
        question = ask
        return await self.steady(lambda generation: self._answer(generation, question))

    async def steady(self, task: Callable[[Generation], Awaitable[R]]) -> R:
        """Does it with what is served now; once more, where that fails because the index has moved."""
        with self._engine.lease() as generation:
            try:
                return await task(generation)
            except SinkError:
                recovering = self._engine.work("fetch", lambda: self._engine.recovered(generation))
                if not (await asyncio.wrap_future(recovering))[0]:
                    raise
        with self._engine.lease() as generation:
            return await task(generation)

    async def points(self, ids: Sequence[str]) -> Sequence[Point]:
        return await self.steady(lambda generation: self._on(generation, lambda index: index.fetch(ids)))

    async def count(self) -> int:
        return await self.steady(lambda generation: self._on(generation, lambda index: index.count()))

    async def _on(self, generation: Generation, task: Callable[[Index], R]) -> R:
        found, _ = await asyncio.wrap_future(self._engine.work("files", lambda: generation.ask(task), generation))
        return found

    async def embedded(self, batcher: Batcher[T], what: Sequence[T], took: Took) -> list[Vector]:
        """Vectors of some texts or images, by way of the batches that all share."""
        answers: list[Embedded] = await _all([batcher.submit(one) for one in what])
        for answer in answers:
            self._metrics.observe("penstock_stage_seconds", answer.waited, stage="queue")
            self._metrics.observe("penstock_stage_seconds", answer.took, stage="embed")
        took.queue += max((answer.waited for answer in answers), default=0.0)
        took.embed += max((answer.took for answer in answers), default=0.0)
        return [answer.vector for answer in answers]

    async def _fetched(self, ask: Ask) -> Ask:
        url = ask.image_url or ""
        image = await self.timed("fetch", "fetch", lambda: self._fetcher(url))
        return replace(ask, image=image)

    async def _measured(self, image: bytes) -> None:
        """Refused by its header: what is no image, or too large a one."""
        from penstock.support.images import measure

        pixels = self._settings.pixels
        await asyncio.wrap_future(self._engine.work("files", lambda: measure(image, pixels=pixels)))

    async def timed(self, pool: str, stage: str, task: Callable[[], R]) -> R:
        with self._metrics.timed(stage):
            found, _ = await asyncio.wrap_future(self._engine.work(pool, task))
        return found

    async def _answer(self, generation: Generation, ask: Ask) -> dict[str, Any]:
        took = Took()
        vector = await self._vector(generation, ask, took)
        found, more = await self._found(generation, ask, vector, took)
        words = words_of(ask.text[:TELLING]) if ask.text else None

        def hits() -> list[dict[str, Any]]:
            return [
                self.shown(hit.chunk) | {"score": hit.score, "snippet": snippet(hit.chunk.text, words), "stands_for": n}
                for hit, n in found
            ]

        return {
            "hits": hits() if len(found) <= FEW else (await asyncio.wrap_future(self._engine.work("files", hits)))[0],
            "cursor": ask.cursor(ask.offset + ask.k) if more and ask.offset + ask.k < ask.depth else None,
            "took": took.to_json(),
        }

    def shown(self, chunk: Chunk) -> dict[str, Any]:
        return {
            "id": chunk.id,
            "uri": chunk.uri,
            "text": chunk.text,
            "page": chunk.page,
            "headings": list(chunk.headings),
            "span": list(chunk.span),
            "metadata": dict(chunk.metadata),
            "thumb": f"/v1/thumbs/{chunk.id}" if self._thumbs.may_show(chunk) else None,
        }

    # ------------------------------------------------------------ what to search by

    async def _vector(self, generation: Generation, ask: Ask, took: Took) -> Vector:
        texts = [ask.text] if ask.text is not None and ask.text_weight > 0 else []
        images = [ask.image] if ask.image is not None and ask.image_weight > 0 else []
        if images and generation.images is None:
            raise bad(f"{generation.space.model} takes no images; search by text")
        if generation.space.kind != "Dense":
            if not texts or images or ask.vector or ask.like or ask.unlike or ask.minus:
                raise bad(f"an index of {generation.space.kind} vectors is searched by text alone")
            return (await self.embedded(generation.texts, texts, took))[0]
        clock = Took(), Took()
        said, seen, examples = await asyncio.gather(
            self.embedded(generation.texts, [*texts, *ask.minus], clock[0]),
            self.embedded(generation.images, images, clock[1]) if generation.images else _nothing(),
            self._examples(generation, [*ask.like, *ask.unlike], took),
        )
        took.embed += max(clock[0].embed, clock[1].embed)
        took.queue += max(clock[0].queue, clock[1].queue)
        parts = [(_values(one), ask.text_weight) for one in said[: len(texts)]]
        parts += [(_values(one), ask.image_weight) for one in seen]
        if ask.vector is not None:
            parts.append((_given(ask.vector, generation), 1.0))
        like, unlike = ([examples[id] for id in ids] for ids in (ask.like, ask.unlike))
        return Dense(combined(parts, like, unlike, [_values(one) for one in said[len(texts) :]]))

    async def _examples(self, generation: Generation, ids: Sequence[str], took: Took) -> dict[str, Values]:
        if not ids:
            return {}
        vectors = await self._stored(generation, ids, took)
        for id in ids:
            if id not in vectors:
                raise bad(f"the index has no point {id!r} to go by")
        return vectors

    # ------------------------------------------------------------ what is found

    async def _found(
        self, generation: Generation, ask: Ask, vector: Vector, took: Took
    ) -> tuple[list[tuple[Hit, int]], bool]:
        """The page's hits, with how many each stands for; and whether there are more."""
        if ask.distinct:
            return await self._distinct(generation, ask, vector, took)
        hits, _ = await self._hits(generation, ask, vector, ask.offset + ask.k + 1, took)
        page = hits[ask.offset : ask.offset + ask.k]
        return [(hit, 1) for hit in page], len(hits) > ask.offset + ask.k

    async def _distinct(
        self, generation: Generation, ask: Ask, vector: Vector, took: Took
    ) -> tuple[list[tuple[Hit, int]], bool]:
        """Looks at more and more hits until as many unlike ones are among them as the page wants, or there are none."""
        if generation.space.kind != "Dense":
            raise bad(f"distinct: {generation.space.kind} vectors cannot be compared")
        wanted = ask.offset + ask.k + 1
        most = 2 * wanted
        while True:
            hits, whole = await self._hits(generation, ask, vector, most, took)
            stored = await self._stored(generation, [hit.chunk.id for hit in hits], took)
            vectors = [stored.get(hit.chunk.id) for hit in hits]
            kept, _ = await asyncio.wrap_future(self._engine.work("search", partial(collapsed, vectors)))
            if whole or len(kept) >= wanted or most >= ask.depth:
                page = kept[ask.offset : ask.offset + ask.k]
                return [(hits[place], n) for place, n in page], len(kept) > ask.offset + ask.k
            most = min(2 * most, ask.depth)

    async def _hits(
        self, generation: Generation, ask: Ask, vector: Vector, wanted: int, took: Took
    ) -> tuple[list[Hit], bool]:
        """The first hits, and whether these are all there are."""
        most = min(wanted + len(ask.unlike), ask.depth + len(ask.unlike))
        where = dict(ask.where) if ask.where else None
        hits = await self._worked(generation, lambda index: index.search(vector, most, where), took)
        good = [
            hit
            for hit in hits
            if hit.chunk.id not in ask.unlike and (ask.threshold is None or hit.score >= ask.threshold)
        ]
        return good, len(hits) < most or (ask.threshold is not None and hits[-1].score < ask.threshold)

    async def _stored(self, generation: Generation, ids: Sequence[str], took: Took) -> dict[str, Values]:
        points = await self._worked(generation, lambda index: index.fetch(ids), took)
        return {point.id: _values(point.vectors[VECTOR]) for point in points}

    async def _worked(self, generation: Generation, task: Callable[[Index], R], took: Took) -> R:
        began = time.perf_counter()
        working = self._engine.work("search", lambda: generation.ask(task), generation)
        found, waited = await asyncio.wrap_future(working)
        spent = time.perf_counter() - began - waited
        took.queue += waited
        took.search += spent
        self._metrics.observe("penstock_stage_seconds", waited, stage="queue")
        self._metrics.observe("penstock_stage_seconds", spent, stage="search")
        return found


async def _nothing() -> list[Vector]:
    return []


async def _all(futures: Sequence[Any]) -> list[Any]:
    return list(await asyncio.gather(*map(asyncio.wrap_future, futures)))


def _values(vector: Vector) -> Values:
    assert isinstance(vector, Dense)
    return vector.values


def _given(vector: Sequence[float], generation: Generation) -> Values:
    import numpy as np

    if len(vector) != generation.space.dim:
        raise bad(f"vector: it has {len(vector):,} numbers; the index has {generation.space.dim:,} dimensions")
    values = np.asarray(vector, np.float64)
    if not 1e-9 < np.linalg.norm(values) < 1e9:  # between these, squares of single precision hold
        raise bad("vector: it is zero, or too long or too short to be compared")
    return values.astype(np.float32)


def missing(id: str) -> Problem:
    return Problem(404, "not_found", f"the index has no point {id[:100]!r}")
