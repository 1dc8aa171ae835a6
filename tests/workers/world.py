"""A folder of documents, a model that keeps a log, and workers: in threads, or in processes that can be killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from penstock.compose import compose, worker_setup
from penstock.core.contracts import Embedder
from penstock.core.metadata import VOLATILE
from penstock.core.records import Chunk, Dense
from penstock.core.schema import VectorSpec
from penstock.engine.progress import Progress, Report
from penstock.jobs.run import Options, run
from penstock.settings import Settings
from penstock.sinks.sqlite import SqliteSink
from penstock.workers.place import Place, Work
from penstock.workers.produce import Setup
from penstock.workers.worker import Terms, Worked, Worker

Contents = dict[str, tuple[Any, bytes]]
SOON = Terms(idle=30.0, ttl=2.0, max_wait=10.0)


class LoggingEmbedder(Embedder):
    """Writes a line for each chunk that it embeds, at once. A text with `DEADLY` in it ends its process."""

    batch_rows = 16

    def __init__(self, log: str | None = None, *, seconds: float = 0.0, model: str = "logging") -> None:
        self.log, self.seconds, self.model = log, seconds, model

    def describe(self) -> VectorSpec:
        return VectorSpec(self.model, 8, f"{self.model}-1")

    def embed(self, chunks: Sequence[Chunk]) -> list[Dense]:
        time.sleep(self.seconds * len(chunks))
        if any("DEADLY" in chunk.text for chunk in chunks):
            os._exit(9)
        if self.log is not None:
            with open(self.log, "ab", buffering=0) as file:
                file.write("".join(f"{chunk.uri}\n" for chunk in chunks).encode())
        return [Dense(_vector(chunk.text)) for chunk in chunks]

    def query(self, texts: Sequence[str]) -> list[Dense]:
        return [Dense(_vector(text)) for text in texts]


def _stable(chunk: Chunk) -> Chunk:
    """Without what an unchanged chunk may have of an earlier run."""
    return replace(chunk, metadata={name: value for name, value in chunk.metadata.items() if name not in VOLATILE})


def _vector(text: str) -> Any:
    return np.frombuffer(blake2b(text.encode(), digest_size=8).digest(), np.uint8).astype(np.float32) + 1


class World:
    def __init__(self, folder: Path) -> None:
        self.folder, self.docs = folder, folder / "docs"
        self.docs.mkdir(exist_ok=True)
        self.place = f"shards://{folder}/place"
        self.log = folder / "log"
        self._workers: list[Future[Worked]] = []
        self._pool = ThreadPoolExecutor(8)

    def tell(self, name: str, *paragraphs: str) -> None:
        path = self.docs / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n\n".join(paragraphs))

    def uri(self, name: str) -> str:
        return (self.docs / name).as_uri()

    def coordinate(self, progress: Callable[[Progress], None] | None = None, **options: Any) -> Report:
        """A run whose documents are worked on by workers."""
        options = {"place": Place.at(self.place), "allow_mass_delete": True, **options}
        return run(self._components("index"), progress, options=Options(**options))

    def run(self, *, workers: int = 2, **options: Any) -> tuple[Report, list[Worked]]:
        """Such a run, with workers in threads."""
        working = [self._pool.submit(self.work, **options) for _ in range(workers)]
        report = self.coordinate()
        return report, [one.result(60) for one in working]

    def work(self, **options: Any) -> Worked:
        terms = options.pop("terms", SOON)
        return Worker(Place.at(self.place), self._setup(options), terms).work()

    def _setup(self, options: Any) -> Callable[[Work, ExitStack], Setup]:
        def setup(work: Work, stack: ExitStack) -> Setup:
            model = LoggingEmbedder(str(self.log), **options)
            return worker_setup(Settings.from_mapping(work.settings, "place"), model, stack)

        return setup

    def _components(self, name: str) -> Any:
        into = f"sqlite://{self.folder}/{name}.db/x"
        words = {"source": str(self.docs), "into": into, "chunk": "200 characters", "memory": "32MiB", "workers": 2}
        components = compose(**words, model=LoggingEmbedder(), state=str(self.folder / f"{name}.ledger"))
        components.settings = json.dumps(words)
        return components

    def alone(self) -> Report:
        """The same in one process."""
        return run(self._components("alone"), options=Options(allow_mass_delete=True))

    def held(self, name: str = "index") -> Contents:
        with SqliteSink(f"sqlite://{self.folder}/{name}.db/x") as sink:
            manifest = sink.manifest()
            assert manifest is not None
            sink.open(manifest)
            points = [point for ids in sink.ids() for point in sink.fetch(list(ids))]
        return {point.id: (_stable(point.chunk), point.vector.tobytes()) for point in points}

    def agrees(self) -> bool:
        """Whether the index is that of a run in one process, point for point."""
        self.alone()
        return self.held() == self.held("alone")

    def embedded(self) -> list[str]:
        """Take the uris of chunks embedded since the last call."""
        lines = self.log.read_text().split() if self.log.exists() else []
        self.log.write_text("")
        return lines

    def start(self, *options: str) -> subprocess.Popen[str]:
        """A coordinator or a worker as a process."""
        return subprocess.Popen(
            [sys.executable, "-m", "tests.workers.world", str(self.folder), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=Path(__file__).parents[2],
        )

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


def main(folder: str, role: str, seconds: str = "0") -> None:
    world = World(Path(folder))
    if role == "coordinate":
        print(json.dumps(world.coordinate().to_json()))
    else:
        print(json.dumps(world.work(seconds=float(seconds)).to_json()))


if __name__ == "__main__":
    main(*sys.argv[1:])
