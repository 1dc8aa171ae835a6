"""Queries that wait for the model are given to it together, by one thread."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, NamedTuple, TypeVar

from penstock.core.records import Vector
from penstock.server.metrics import Metrics

T = TypeVar("T")


class Embedded(NamedTuple):
    vector: Vector
    waited: float
    took: float


class _Job(NamedTuple, Generic[T]):
    what: T
    future: Future[Embedded]
    since: float


class Batcher(Generic[T]):
    """Takes what waits, up to `most`, and waits for nothing: alone, a query is embedded at once; in a crowd, the next
    batch gathers while the model works on the one before."""

    def __init__(self, kind: str, embed: Callable[[list[T]], Sequence[Vector]], most: int, metrics: Metrics) -> None:
        self._kind, self._embed, self._most, self._metrics = kind, embed, most, metrics
        self._waiting: queue.SimpleQueue[_Job[T] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"penstock-embed-{kind}", daemon=True)
        self._thread.start()

    def submit(self, what: T) -> Future[Embedded]:
        future: Future[Embedded] = Future()
        self._waiting.put(_Job(what, future, time.perf_counter()))
        return future

    @property
    def depth(self) -> int:
        return self._waiting.qsize()

    def close(self) -> None:
        """What was submitted is still embedded."""
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        ended = False
        while not ended:
            jobs: list[_Job[T]] = []
            job = self._waiting.get()
            while job is not None:
                if job.future.set_running_or_notify_cancel():
                    jobs.append(job)
                if len(jobs) == self._most or self._waiting.empty():
                    break
                job = self._waiting.get()
            ended = job is None
            if jobs:
                self._together(jobs)

    def _together(self, jobs: Sequence[_Job[T]]) -> None:
        began = time.perf_counter()
        try:
            vectors = self._embed([job.what for job in jobs])
            took = time.perf_counter() - began
            answers = [Embedded(v, began - j.since, took) for v, j in zip(vectors, jobs, strict=True)]
        # Whatever it is, it belongs to whoever asked, and the thread goes on for the others.
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].future.set_exception(error)
            else:  # one of them is at fault: the others shall not suffer for it
                for job in jobs:
                    self._together([job])
            return
        self._metrics.observe("penstock_batch_size", len(jobs), kind=self._kind)
        for job, answer in zip(jobs, answers, strict=True):
            job.future.set_result(answer)
