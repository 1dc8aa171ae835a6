"""Batches of concurrent queries: those that wait for the model are embedded together, by one thread."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, NamedTuple, TypeVar

from penstock.core.errors import Transient
from penstock.core.records import Vector
from penstock.server.metrics import Metrics

T = TypeVar("T")


class Embedded(NamedTuple):
    vector: Vector
    waited: float
    took: float


class _Job(NamedTuple, Generic[T]):
    input: T
    future: Future[Embedded]
    since: float


class Batcher(Generic[T]):
    """Embeds what has gathered, up to `max_size` inputs, and waits for no more: a lone query is embedded at once; under
    load the next batch gathers while the model works on the one before."""

    def __init__(
        self, kind: str, embed: Callable[[list[T]], Sequence[Vector]], max_size: int, metrics: Metrics
    ) -> None:
        self._kind, self._embed, self._max_size, self._metrics = kind, embed, max_size, metrics
        self._waiting: queue.SimpleQueue[_Job[T] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"penstock-embed-{kind}", daemon=True)
        self._thread.start()

    def submit(self, input: T) -> Future[Embedded]:
        future: Future[Embedded] = Future()
        self._waiting.put(_Job(input, future, time.perf_counter()))
        return future

    @property
    def depth(self) -> int:
        return self._waiting.qsize()

    def close(self) -> None:
        """Embed what was submitted, and end the thread."""
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
                if len(jobs) == self._max_size or self._waiting.empty():
                    break
                job = self._waiting.get()
            ended = job is None
            if jobs:
                self._run(jobs)

    def _run(self, jobs: Sequence[_Job[T]]) -> None:
        began = time.perf_counter()
        try:
            vectors = self._embed([job.input for job in jobs])
            took = time.perf_counter() - began
            answers = [Embedded(v, began - j.since, took) for v, j in zip(vectors, jobs, strict=True)]
        except Transient as error:  # the model is busy: to ask it again for each of them would make it busier
            for job in jobs:
                job.future.set_exception(error)
            return
        # Any other error may be of one input only: each is tried alone, and the thread continues.
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].future.set_exception(error)
            else:
                for job in jobs:
                    self._run([job])
            return
        self._metrics.observe("penstock_batch_size", len(jobs), kind=self._kind)
        for job, answer in zip(jobs, answers, strict=True):
            job.future.set_result(answer)
