"""Small pictures that are dear to make: made once for all who ask meanwhile, and kept for a while."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from penstock.server.problems import Problem, problem

KEPT = 32 << 20
"""Bytes of pictures, the most recent ones."""
AGAIN = 60.0
"""Seconds before what failed is tried once more."""
FAILURES = 4096
"""That are remembered."""

Sizes = Mapping[int, bytes]
"""A picture in all its sizes."""


@dataclass(slots=True)
class _Job:
    made: asyncio.Future[Sizes]
    waiting: int = 0


class Made:
    """With threads of its own: whatever they wait for, nobody else does."""

    def __init__(self, name: str, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"penstock-{name}")
        self._jobs: dict[str, _Job] = {}
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Sizes] = OrderedDict()
        self._bytes = 0
        self._failed: OrderedDict[str, tuple[float, Problem]] = OrderedDict()

    async def of(self, name: str, make: Callable[[], Sizes]) -> Sizes:
        """What `make` gives, or gave before under this name. Raises what it raises, or raised a moment ago."""
        if (kept := self._known(name)) is not None:
            return kept
        if (job := self._jobs.get(name)) is None:
            made = asyncio.wrap_future(self._pool.submit(self._make, name, make))
            job = self._jobs[name] = _Job(made)
        job.waiting += 1
        try:
            return await asyncio.shield(job.made)
        finally:
            job.waiting -= 1
            if not job.waiting:
                job.made.cancel()  # if it has not begun: nobody waits for it any more
                del self._jobs[name]

    def _known(self, name: str) -> Sizes | None:
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
                return self._kept[name]
            until, failure = self._failed.get(name, (0.0, None))
        if failure is not None and time.monotonic() < until:
            raise Problem(failure.status, failure.kind, failure.message)  # each its own: a traceback grows
        return None

    def _make(self, name: str, make: Callable[[], Sizes]) -> Sizes:
        try:
            made = make()
        except Exception as error:
            if (failure := problem(error)) is not None:
                self._fail(name, failure)
            raise
        with self._lock:
            self._bytes += _size(made) - _size(self._kept.pop(name, {}))
            self._kept[name] = made
            while self._bytes > KEPT:
                self._bytes -= _size(self._kept.popitem(last=False)[1])
        return made

    def _fail(self, name: str, failure: Problem) -> None:
        with self._lock:
            self._failed.pop(name, None)
            self._failed[name] = time.monotonic() + AGAIN, failure
            if len(self._failed) > FAILURES:
                self._failed.popitem(last=False)


def _size(made: Sizes) -> int:
    return sum(map(len, made.values()))
