"""Threads that are fair between clients: none waits for the backlog of another."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from penstock.support.cores import usable_cores
from penstock.support.fair import AHEAD, FairQueue, Neighbours

R = TypeVar("R")

SERVER = AHEAD
"""The server itself as a client, for its probes: they come before all others."""


@dataclass(frozen=True, slots=True)
class _Task:
    run: Callable[[], Any]
    future: Future[Any]


class FairPool:
    """Threads that clients get in turns, by the time that their tasks take. One client never has all of them; beside
    others it has a quarter at most, and no more than half of the cores.

    `rest` is how many seconds a thread rests for each second of work, for work that holds Python's lock.
    """

    def __init__(self, name: str, threads: int, rest: float = 0.0, neighbours: Neighbours | None = None) -> None:
        quarter = max(1, threads // 4)
        self._queue: FairQueue[_Task] = FairQueue(
            max(1, threads - quarter), min(quarter, max(1, usable_cores() // 2)), neighbours
        )
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=f"penstock-{name}")
        self._rest = rest

    def submit(self, client: str, run: Callable[[], R]) -> Future[R]:
        """One that is cancelled before it has begun leaves the queue."""
        future: Future[R] = Future()
        discard = self._queue.put(client, _Task(run, future), cost=0.0)
        future.add_done_callback(lambda done: discard() if done.cancelled() else None)
        try:
            self._threads.submit(self._work)
        except BaseException:
            discard()
            raise
        return future

    def close(self) -> None:
        """Cancel what waits, and end the threads when they have finished."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for entry in self._queue.drain():
            entry.item.future.cancel()

    @property
    def depth(self) -> int:
        return len(self._queue)

    def _work(self) -> None:
        # A task that was kept back, because its client was in enough threads, is done by one of these.
        while batch := self._queue.take(wait=False):
            began = time.perf_counter()
            _run(batch[0].item)
            took = time.perf_counter() - began
            self._queue.finish(batch, took)
            if self._rest:
                time.sleep(took * self._rest)


def _run(task: _Task) -> None:
    if not task.future.set_running_or_notify_cancel():
        return
    try:
        result = task.run()
    except BaseException as error:
        task.future.set_exception(error)
    else:
        task.future.set_result(result)
