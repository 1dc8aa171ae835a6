"""Cache of rendered thumbnails: each is rendered once for all who ask meanwhile, and kept for a while."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from penstock.server.fair import FairPool
from penstock.server.problems import Problem, problem_of
from penstock.support.fair import Neighbours
from penstock.support.latest import Latest

MAX_BYTES = 32 << 20
"""Bytes of thumbnails kept, the most recently used."""
RETRY_AFTER = 60.0
"""Seconds before a thumbnail that failed is tried again."""
MAX_FAILURES = 4096
"""Failures remembered."""

Sizes = Mapping[int, bytes]
"""One picture, rendered in every size."""


@dataclass(slots=True)
class _Job:
    future: asyncio.Future[Sizes]
    waiting: int = 0


class ThumbnailCache:
    """It has threads of its own, so that slow pictures hold up nothing else."""

    def __init__(self, name: str, threads: int, neighbours: Neighbours | None = None) -> None:
        self._pool = FairPool(name, threads, neighbours=neighbours)
        self._jobs: dict[str, _Job] = {}
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Sizes] = OrderedDict()
        self._bytes = 0
        self._failed: Latest[str, tuple[float, Problem]] = Latest(MAX_FAILURES)

    async def get(self, key: str, render: Callable[[], Sizes], client: str) -> Sizes:
        """Return what is kept under the key, or render it in the client's turn. Raises what `render` raises, or
        raised a moment ago."""
        if (kept := self._cached(key)) is not None:
            return kept
        if (job := self._jobs.get(key)) is None:
            future = asyncio.wrap_future(self._pool.submit(client, partial(self._render, key, render)))
            job = self._jobs[key] = _Job(future)
        job.waiting += 1
        try:
            return await asyncio.shield(job.future)
        finally:
            job.waiting -= 1
            if not job.waiting:
                job.future.cancel()  # where it has not begun: no request waits for it any more
                del self._jobs[key]

    def _cached(self, key: str) -> Sizes | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            until, failure = self._failed.get(key, (0.0, None))
        if failure is not None and time.monotonic() < until:
            raise Problem(failure.status, failure.kind, failure.message)  # a new one each time: a traceback grows
        return None

    def _render(self, key: str, render: Callable[[], Sizes]) -> Sizes:
        try:
            sizes = render()
        except Exception as error:
            if (failure := problem_of(error)) is not None:
                self._fail(key, failure)
            raise
        with self._lock:
            self._bytes += _size(sizes) - _size(self._kept.pop(key, {}))
            self._kept[key] = sizes
            while self._bytes > MAX_BYTES:
                self._bytes -= _size(self._kept.popitem(last=False)[1])
        return sizes

    def _fail(self, key: str, failure: Problem) -> None:
        with self._lock:
            self._failed[key] = time.monotonic() + RETRY_AFTER, failure


def _size(sizes: Sizes) -> int:
    return sum(map(len, sizes.values()))
