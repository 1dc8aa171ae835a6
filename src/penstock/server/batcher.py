"""Batches of concurrent queries: those that wait for the model are embedded together, clients in turns."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from penstock.core.errors import Transient
from penstock.core.records import Vector
from penstock.server.metrics import Metrics
from penstock.support.fair import Entry, FairQueue, Neighbours

T = TypeVar("T")
ALIKE = 4
"""Times the cost of the least input that others of its batch may cost: all of a batch wait for the longest."""


class Embedded(NamedTuple):
    vector: Vector
    waited: float
    took: float


class BatchLimit(NamedTuple):
    """The bounds of a batch. As a call of the model cannot be interrupted, they are what others wait for at most."""

    inputs: int
    cost: float
    """With padding; an input that costs more comes alone."""
    cost_beside: float
    """The same while several clients are active."""


@dataclass(frozen=True, slots=True)
class _Job(Generic[T]):
    batcher: Batcher[T]
    input: T
    future: Future[Embedded]
    since: float


class ModelThreads:
    """The threads that call a model, no more than it allows; clients get them in turns.

    Of several threads one client has all but one: beside its backlog the queries of others are embedded at once.
    """

    def __init__(self, threads: int = 1, neighbours: Neighbours | None = None) -> None:
        self._waiting: FairQueue[_Job[Any]] = FairQueue(most=max(1, threads - 1), neighbours=neighbours)
        self.progressed = float("-inf")
        """When the model answered last, on the monotonic clock."""
        self._threads = [
            threading.Thread(target=self._work, name=f"penstock-embed-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def depth(self) -> int:
        """Inputs that wait."""
        return len(self._waiting)

    def put(self, client: str, job: _Job[Any], cost: float) -> Callable[[], None]:
        return self._waiting.put(client, job, cost)

    def close(self) -> None:
        """Embed what was submitted, and end the threads."""
        self._waiting.close()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while batch := self._waiting.take(self._joins):
            jobs = [one.item for one in batch if one.item.future.set_running_or_notify_cancel()]
            if jobs:
                jobs[0].batcher.run(jobs)
            self._waiting.finish(batch)

    def _joins(self, batch: Sequence[Entry[_Job[Any]]], entry: Entry[_Job[Any]]) -> bool:
        if not batch:
            return True
        batcher = entry.item.batcher
        limit = batcher.limit.cost_beside if self._waiting.neighbours.several else batcher.limit.cost
        costs = [entry.cost, *(one.cost for one in batch)]
        return (
            batch[0].item.batcher is batcher
            and len(costs) <= batcher.limit.inputs
            and len(costs) * max(costs) <= limit
            and max(costs) <= max(ALIKE * min(costs), limit / batcher.limit.inputs)
        )


class Batcher(Generic[T]):
    """Embeds what has gathered, within the limit, and waits for no more: a lone query is embedded at once; under load
    the next batch gathers while the model works on the ones before."""

    def __init__(
        self,
        kind: str,
        embed: Callable[[list[T]], Sequence[Vector]],
        limit: BatchLimit,
        model: ModelThreads,
        metrics: Metrics,
    ) -> None:
        self._kind, self._embed, self.limit, self._model, self._metrics = kind, embed, limit, model, metrics

    def submit(self, input: T, client: str, cost: float = 1.0) -> Future[Embedded]:
        """One that is cancelled before it is embedded leaves the queue."""
        future: Future[Embedded] = Future()
        discard = self._model.put(client, _Job(self, input, future, time.perf_counter()), cost)
        future.add_done_callback(lambda done: discard() if done.cancelled() else None)
        return future

    def run(self, jobs: Sequence[_Job[T]]) -> None:
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
                    self.run([job])
            return
        self._model.progressed = time.monotonic()
        self._metrics.observe("penstock_batch_size", len(jobs), kind=self._kind)
        for job, answer in zip(jobs, answers, strict=True):
            job.future.set_result(answer)
