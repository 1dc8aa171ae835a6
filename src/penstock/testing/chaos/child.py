"""The child: one ingest that logs what it embeds, and kills itself at a given moment."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.core.contracts import Source
from penstock.core.records import Chunk
from penstock.engine.journal import ChunkEntry, Match, Stale
from penstock.jobs import run as runs
from penstock.pipeline import Pipeline
from penstock.testing.chaos.corpus import Lines
from penstock.testing.chaos.journal import LINGER, Broken, make_sink
from penstock.testing.embedders import HashingEmbedder
from penstock.testing.faults import LEDGER_MOMENTS, SINK_MOMENTS, Fuse, wire


@dataclass(frozen=True)
class Job:
    """What a child ingests, and when it kills itself."""

    folder: str
    url: str
    source: Source
    moment: str | None = None
    """The moment of the kill (see `faults.wire`); any if None."""
    nth: int = 0
    """Which occurrence of that moment, from 1 on; 0 for no kill."""

    @property
    def log(self) -> Path:
        return Path(self.folder) / "log"


class LoggingEmbedder(HashingEmbedder):
    """Logs the id of every chunk before it embeds it."""

    batch_tokens = 64

    def __init__(self, log: Path) -> None:
        super().__init__(8, workers=2)
        self.log = log

    def embed(self, chunks: Sequence[Chunk]) -> list[Any]:
        note(self.log, "embedded", [chunk.id for chunk in chunks])
        return super().embed(chunks)


def note(log: Path, what: str, ids: Sequence[str]) -> None:
    """Append a line to the log in one write: whole and in order, whatever is killed."""
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, f"{what} {' '.join(ids)}\n".encode())
    finally:
        os.close(file)


def make_pipeline(job: Job) -> Pipeline:
    return Pipeline(
        job.source,
        into=make_sink(job.url),
        model=LoggingEmbedder(job.log),
        chunk=Lines(),
        memory="8MiB",
        state=Path(job.folder) / "ledger.db",
        workers=2,
    )


def ingest(job: Job) -> None:
    """Run once, with a log of what is embedded, acknowledged and retracted."""
    # With the usual linger, a run this short would commit once, at its end.
    setattr(runs, "LINGER", LINGER.get(job.url.partition("://")[0], 0.05))  # noqa: B010
    pipeline = make_pipeline(job)
    wire_all(pipeline, job.log, job.moment, job.nth)
    report = pipeline.run(allow_mass_delete=True)
    if not report.ok:
        raise Broken(f"the run ended as {report}")


def wire_all(pipeline: Pipeline, log: Path, moment: str | None, nth: int) -> None:
    """Have the pipeline log what is acknowledged and retracted, and kill this process at the moment: see `Job`."""
    ledger = pipeline.ledger
    acknowledge, retract = ledger.acknowledge, ledger.retract

    def acknowledged(entries: Sequence[ChunkEntry], run: int, matches: Sequence[Match] = ()) -> None:
        acknowledge(entries, run, matches)
        note(log, "acknowledged", [entry.id.hex() for entry in entries])

    def retracted(chunks: Sequence[Stale]) -> None:
        note(log, "retracted", [chunk.id.hex() for chunk in chunks])
        retract(chunks)

    ledger.acknowledge, ledger.retract = acknowledged, retracted  # type: ignore[method-assign]
    fuse = Fuse(moment, nth, blow=lambda _: os.kill(os.getpid(), signal.SIGKILL))
    wire(pipeline.sink, fuse, SINK_MOMENTS, "sink")
    wire(ledger, fuse, LEDGER_MOMENTS, "ledger")


def check_log(log: Path) -> dict[str, int]:
    """Raise Broken if a chunk was embedded after its acknowledgement, and not retracted in between."""
    acknowledged: set[str] = set()
    embedded: Counter[str] = Counter()
    for line in log.read_text().splitlines() if log.exists() else ():
        what, *ids = line.split(" ")
        if what == "embedded":
            if again := acknowledged.intersection(ids):
                raise Broken(f"embedded again after its acknowledgement: {sorted(again)[:3]}")
            embedded.update(ids)
        elif what == "acknowledged":
            acknowledged.update(ids)
        else:
            acknowledged.difference_update(ids)
    return {"embedded": embedded.total(), "again": embedded.total() - len(embedded)}
