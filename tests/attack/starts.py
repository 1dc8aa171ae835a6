"""Processes that start runs into one index at the same moment, round after round, and say how each ended."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import BrokenBarrierError
from typing import Any

from penstock.core.errors import PenstockError, StageError
from penstock.core.records import Chunk
from penstock.pipeline import Pipeline
from penstock.registry import SINKS, find, scheme
from penstock.testing.embedders import HashingEmbedder
from penstock.testing.sources import ListSource

DOCUMENTS = 40
PATIENCE = 60
"""Seconds in which all have to meet, and a run has to end."""
START, MODEL = "start", "model"
"""Where a run waits for the others: before it looks at the index, or once it has looked and is about to create it."""


@dataclass(frozen=True)
class Start:
    """A run to start."""

    urls: tuple[str, ...]
    state: str
    name: str
    """Of its documents."""
    namespace: str = ""
    meet: str = START
    adopt: bool = False
    dim: int = 8


@dataclass(frozen=True)
class End:
    """How it ended."""

    ok: bool
    error: str
    """The class of the error; nothing where there was none."""
    message: str
    embedded: int
    points: int = 0


def documents(name: str) -> dict[str, bytes]:
    return {f"doc:{name}/{n}": f"{name} {n} of {DOCUMENTS}\n\nand more".encode() for n in range(DOCUMENTS)}


class MeetingEmbedder(HashingEmbedder):
    """Waits for the others when it is opened, and counts what it embeds."""

    batch_tokens = 64
    barrier: Any = None
    embedded = 0

    def open(self) -> None:
        barrier, self.barrier = self.barrier, None
        if barrier is not None:
            meet(barrier)

    def embed(self, chunks: Sequence[Chunk]) -> list[Any]:
        self.embedded += len(chunks)
        return super().embed(chunks)


def meet(barrier: Any) -> None:
    try:
        barrier.wait(2)
    except BrokenBarrierError:
        """Another one was refused before: nobody is left to wait for."""


def pipeline(start: Start, model: MeetingEmbedder | None = None) -> Pipeline:
    sinks = [find(SINKS, scheme(url))(url) for url in start.urls]
    into = sinks if len(sinks) > 1 else sinks[0]
    model = model or MeetingEmbedder(start.dim)
    return Pipeline(
        ListSource(documents(start.name)), into=into, model=model, state=Path(start.state), namespace=start.namespace
    )


def run(start: Start, barrier: Any) -> End:
    model = MeetingEmbedder(start.dim)
    if start.meet == START:
        meet(barrier)
    else:
        model.barrier = barrier
    try:
        report = pipeline(start, model).run(adopt=start.adopt, max_wait=PATIENCE)
    except StageError as error:
        cause = error.__cause__ or error
        return End(False, type(cause).__name__, str(cause), model.embedded)
    except PenstockError as error:
        return End(False, type(error).__name__, str(error), model.embedded)
    except Exception as error:
        return End(False, f"unexpected {type(error).__name__}", repr(error), model.embedded)
    return End(report.ok, "", "" if report.ok else str(report), model.embedded, report.written)


def work(pipe: Any, barrier: Any) -> None:
    while (start := pipe.recv()) is not None:
        pipe.send(run(start, barrier))


class Processes:
    """So many processes, kept from round to round as their imports take long."""

    def __init__(self, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.barrier = context.Barrier(count)
        pipes = [context.Pipe() for _ in range(count)]
        self.pipes = [mine for mine, _ in pipes]
        self.processes = [context.Process(target=work, args=(its, self.barrier), daemon=True) for _, its in pipes]
        for process in self.processes:
            process.start()

    def start(self, starts: Sequence[Start]) -> list[End]:
        """Start these at once, each in a process; how they ended."""
        self.barrier.reset()
        for pipe, start in zip(self.pipes, starts, strict=True):
            pipe.send(start)
        ends = []
        for pipe, start in zip(self.pipes, starts, strict=True):
            assert pipe.poll(PATIENCE), f"{start} did not end"
            ends.append(pipe.recv())
        return ends

    def close(self) -> None:
        for pipe, process in zip(self.pipes, self.processes, strict=True):
            pipe.send(None)
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()


@contextmanager
def processes(count: int) -> Iterator[Processes]:
    started = Processes(count)
    try:
        yield started
    finally:
        started.close()
