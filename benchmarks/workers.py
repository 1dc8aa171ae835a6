"""Runs whose documents are worked on elsewhere: workers and the coordinator are killed, and what many workers bring.

    python benchmarks/workers.py                                  # 20,000 documents, 4 workers, one killed every 3 s
    python benchmarks/workers.py --documents 2000 --kills 1
    python benchmarks/workers.py --only speed

`kills`: the index has to be that of a run in one process, point for point; then a hundredth of the documents is edited,
deleted and moved; then nothing changes. `speed`: two workers against a run in one process that reads as many documents
at once, and four workers whose model sleeps against one. Start-up does not count: it begins with the first chunk that
is embedded. The model does nothing but note what it embeds; each process is one of its own, on this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from figures import record

from penstock.compose import compose, make_sink, worker_setup
from penstock.core.contracts import Embedder
from penstock.core.records import Chunk, Dense
from penstock.core.schema import VectorSpec
from penstock.engine.progress import Progress
from penstock.jobs.run import Options, run
from penstock.settings import Settings
from penstock.workers.place import Place, Work
from penstock.workers.produce import Setup
from penstock.workers.worker import Terms, Worker
from penstock.workers.writer import ROWS

PARAGRAPHS = 4


class Noting(Embedder):
    """Adds a byte to a file for each chunk, and sleeps."""

    batch_rows = 32

    def __init__(self, log: Path, seconds: float) -> None:
        self._log, self._seconds = log, seconds

    def describe(self) -> VectorSpec:
        return VectorSpec("noting", 64, "noting")

    def embed(self, chunks: Sequence[Chunk]) -> list[Dense]:
        time.sleep(self._seconds * len(chunks))
        with open(self._log, "ab", buffering=0) as file:
            file.write(b"." * len(chunks))
        return [Dense(_vector(chunk.text)) for chunk in chunks]

    def query(self, texts: Sequence[str]) -> list[Dense]:
        return [Dense(_vector(text)) for text in texts]


def _vector(text: str) -> Any:
    return np.frombuffer(blake2b(text.encode()).digest(), np.uint8).astype(np.float32)


class World:
    def __init__(self, folder: Path) -> None:
        self.folder, self.docs, self.log = folder, folder / "docs", folder / "log"
        self.place = f"shards://{folder}/place"

    def fill(self, documents: int) -> None:
        for number in range(documents):
            path = self.docs / f"{number % 100:02}" / f"{number}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n\n".join(f"document {number} paragraph {n} {'word ' * 30}" for n in range(PARAGRAPHS)))

    def run(self, index: str, place: Place | None, progress: Any = None, seconds: float = 0.0) -> Any:
        words = {"source": str(self.docs), "into": self.url(index), "chunk": "200 characters", "workers": 2}
        components = compose(**words, model=Noting(self.log, seconds), state=str(self.folder / f"{index}.ledger"))
        components.settings = json.dumps(words)
        return run(components, progress, options=Options(allow_mass_delete=True, place=place))

    def coordinate(self) -> None:
        """Prints the report, and how much the index held when a tenth was embedded."""
        early = [0.0]

        def watch(now: Progress) -> None:
            if not early[0] and now.counts["embedded"] >= now.counts["listed"] * PARAGRAPHS * 0.1 and not now.listing:
                early[0] = now.counts["written"] / max(1, now.counts["listed"] * PARAGRAPHS)

        report = self.run("index", Place.at(self.place), watch)
        print(json.dumps({"early": early[0], **report.to_json()}))

    def work(self, seconds: float) -> None:
        def setup(work: Work, stack: ExitStack) -> Setup:
            return worker_setup(Settings.from_mapping(work.settings, "place"), Noting(self.log, seconds), stack)

        worked = Worker(Place.at(self.place), setup, Terms(idle=20.0, ttl=3.0)).work()
        print(json.dumps(worked.to_json()))

    def url(self, index: str) -> str:
        return f"sqlite://{self.folder}/{index}.db/x"

    def embedded(self) -> int:
        return self.log.stat().st_size if self.log.exists() else 0

    def held(self, index: str) -> dict[str, bytes]:
        with make_sink(self.url(index)) as sink:
            manifest = sink.manifest()
            assert manifest is not None
            sink.open(manifest)
            points = (point for ids in sink.ids() for point in sink.fetch(list(ids)))
            return {point.id: point.text.encode() + point.vector.tobytes() for point in points}

    def start(self, role: str, seconds: float = 0.0) -> subprocess.Popen[str]:
        command = [sys.executable, __file__, "--role", role, "--folder", str(self.folder), "--seconds", str(seconds)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


# ---------------------------------------------------------------- kills


def killed(world: World, workers: int, kills: float, coordinators: int) -> tuple[dict[str, Any], int, float]:
    """A run whose workers are killed, one every so many seconds, and its coordinator so many times: its report, the
    kills of workers, and the seconds it took."""
    began = time.monotonic()
    coordinator = world.start("coordinate")
    running = [world.start("work", 0.002) for _ in range(workers)]
    dead, next_kill, next_coordinator = 0, began + kills, began + random.uniform(3, 8)
    while coordinator.poll() is None:
        time.sleep(0.05)
        running = [world.start("work", 0.002) if one.poll() not in (None, 0) else one for one in running]
        if time.monotonic() > next_kill:
            random.choice(running).kill()
            dead += 1
            next_kill = time.monotonic() + kills
        if coordinators and time.monotonic() > next_coordinator:
            coordinator.kill()
            coordinator.wait()
            coordinators -= 1
            coordinator, next_coordinator = world.start("coordinate"), time.monotonic() + random.uniform(3, 8)
    out, _ = coordinator.communicate()
    seconds = time.monotonic() - began
    for one in running:
        one.kill()
        one.communicate()
    assert coordinator.returncode == 0, out
    report: dict[str, Any] = json.loads(out)
    return report, dead, seconds


def same(world: World) -> bool:
    world.run("alone", None)
    return world.held("index") == world.held("alone")


def measure_kills(world: World, documents: int, workers: int, kills: float, coordinators: int) -> None:
    chunks = documents * PARAGRAPHS
    report, dead, seconds = killed(world, workers, kills, coordinators)
    embedded = world.embedded()
    most = chunks + (dead + coordinators) * ROWS
    equal = same(world)
    print(
        f"{documents:,} documents, {workers} workers, {dead} killed, the coordinator {coordinators} times:"
        f" {seconds:.0f} s, index {'equal' if equal else 'NOT EQUAL'} to that of one process,"
        f" {embedded:,} embedded of at most {most:,}; with a tenth embedded it held {report['early']:.1%}"
    )
    of = f"{documents:,} documents"
    record(f"equal after kills, {of}", equal, bar=1)
    record(f"embedded / most, with kills, {of}", embedded / most, "x", bar=1, better="lower")
    record(f"held with a tenth embedded, {of}", report["early"], bar=0.05)

    names = sorted(world.docs.rglob("*.txt"))
    random.shuffle(names)
    some = max(1, documents // 100)
    for path in names[:some]:
        path.write_text(path.read_text() + f"\n\nanother paragraph {'x ' * 60}")
    for path in names[some : 2 * some]:
        path.unlink()
    for path in names[2 * some : 3 * some]:
        path.rename(path.with_name(f"moved-{path.name}"))
    before = world.embedded()
    report, _, seconds = killed(world, workers, 1e9, 0)
    again, equal = world.embedded() - before, same(world)
    print(
        f"{some} edited, deleted, moved: {seconds:.1f} s, {again} chunks embedded,"
        f" {report['counts']['moved']} moved, index {'equal' if equal else 'NOT EQUAL'}"
    )
    record(f"chunks embedded for an edited document, {of}", again / some, bar=1, better="lower")
    record(f"equal after edits, {of}", equal, bar=1)
    began = time.monotonic()
    done = world.start("coordinate")
    done.communicate()
    seconds = time.monotonic() - began
    print(f"nothing changed, no worker: {seconds:.2f} s")
    record(f"nothing changed, {of}", seconds, "s", bar=5, better="lower")


# ---------------------------------------------------------------- speed


def with_workers(documents: int, workers: int, seconds: float) -> float:
    """Documents a second, from when the first worker has embedded something."""
    with tempfile.TemporaryDirectory(prefix="penstock-workers-") as folder:
        world = World(Path(folder))
        world.fill(documents)
        running = [world.start("work", seconds) for _ in range(workers)]
        while sum(1 for _ in world.folder.glob("place/_workers/*.json")) < workers:
            time.sleep(0.05)
        coordinator = world.start("coordinate")
        began = first_embedded(world, coordinator)
        coordinator.communicate()
        rate = documents / (time.monotonic() - began)
        for one in running:
            one.kill()
            one.communicate()
        return rate


def by_one(documents: int) -> float:
    with tempfile.TemporaryDirectory(prefix="penstock-workers-") as folder:
        world = World(Path(folder))
        world.fill(documents)
        process = world.start("alone")
        began = first_embedded(world, process)
        process.communicate()
        return documents / (time.monotonic() - began)


def first_embedded(world: World, process: subprocess.Popen[str]) -> float:
    while not world.embedded() and process.poll() is None:
        time.sleep(0.005)
    return time.monotonic()


def measure_speed(documents: int, rounds: int) -> None:
    ratios = []
    for _ in range(rounds):
        two, one = with_workers(documents, 2, 0.0), by_one(documents)
        ratios.append(two / one)
        print(f"two workers {two:,.0f} documents/s, one process {one:,.0f}: {two / one:.2f}")
    of = f"{documents:,} documents"
    record(f"two workers / one process, {of}", sorted(ratios)[len(ratios) // 2], "x", bar=0.95)
    few = max(8, documents // 4)
    four, one = with_workers(few, 4, 0.01), with_workers(few, 1, 0.01)
    print(f"a model that sleeps 10 ms a chunk: four workers {four:,.1f} documents/s, one {one:,.1f}: {four / one:.2f}")
    record(f"four workers / one, sleeping, {of}", four / one, "x", bar=3.6)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--kills", type=float, default=3.0, help="seconds between two")
    parser.add_argument("--coordinators", type=int, default=5, help="kills of the coordinator")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=["kills", "speed"])
    parser.add_argument("--role", choices=["coordinate", "work", "alone"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=0.0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.role == "coordinate":
        World(args.folder).coordinate()
    elif args.role == "work":
        World(args.folder).work(args.seconds)
    elif args.role == "alone":
        World(args.folder).run("alone", None)
    else:
        random.seed(args.seed)
        if args.only != "speed":
            folder = Path(tempfile.mkdtemp(prefix="penstock-workers-", dir=os.environ.get("TMPDIR")))
            try:
                world = World(folder)
                world.fill(args.documents)
                measure_kills(world, args.documents, args.workers, args.kills, args.coordinators)
            finally:
                shutil.rmtree(folder)
        if args.only != "kills":
            measure_speed(args.documents, args.rounds)


if __name__ == "__main__":
    main()
