"""Memory of an ingest, whatever the size of the corpus: 16 MB, 160 MB, 1.6 GB, and single files of 2 GB.

    python benchmarks/memory.py                                   # about fifteen minutes, 2 GB of disk at a time
    python benchmarks/memory.py --quick                           # small sizes, a minute: tells that it runs, no more
    python benchmarks/memory.py --peers-python PEERS/bin/python --plot docs/memory.svg

Each ingest is a process of its own, with a do-nothing embedder that makes vectors of 384 dimensions, chunks of 1,000
characters, and a sink that slows to a crawl twice, at the start and half-way, so that all that can fill up does.
The bars: peaks differ by less than 10 % between sizes, and no peak is above base + budget. The base is the peak of the
same process with one small document: the interpreter, the libraries, a ledger and an open sink.

EmbedAnything (--peers-python) embeds a little of the same text, to a do-nothing adapter, with a BERT of one layer and
random weights, so that memory is its pipeline's and the run is short.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from figures import MISSED, record

if TYPE_CHECKING:
    from penstock.engine.progress import Progress

DIM = 384
CHUNK = "1000 characters"
MIB = 1 << 20
SPREAD = 0.10
CRAWL = 300
"""Points a second that the sink takes while it crawls."""


@dataclass(frozen=True, slots=True)
class Corpus:
    name: str
    size: int
    one_file: bool = False
    one_line: bool = False


@dataclass(frozen=True, slots=True)
class Measured:
    corpus: Corpus
    peak: int
    """Bytes of the process that ingests."""
    workers: int
    """The most its worker processes took together."""
    seconds: float
    figures: dict[str, Any]
    series: list[tuple[int, int]]
    """Bytes done, RSS."""


# ---------------------------------------------------------------- one ingest, in a process of its own


def status(field: str, pid: int | str = "self") -> int:
    """A field of /proc/PID/status in bytes; 0 for a process that has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith(field)), 0)


def children() -> Iterator[int]:
    for task in Path("/proc/self/task").iterdir():
        try:
            yield from map(int, (task / "children").read_text().split())
        except FileNotFoundError:
            continue  # that thread has just ended


def ingest(folder: Path, size: int, budget: int, crawl: float) -> dict[str, Any]:
    import numpy as np

    from penstock.core.records import Chunk, Dense, Point
    from penstock.pipeline import Pipeline
    from penstock.testing.embedders import NothingEmbedder
    from penstock.testing.sinks import NothingSink

    class FreshVectors(NothingEmbedder):
        """As a model does, it gives every batch an array of its own: vectors in flight take memory here."""

        def embed(self, chunks: Sequence[Chunk]) -> list[Dense]:
            return [Dense(row) for row in np.ones((len(chunks), self.dim), np.float32)]

    class CrawlingSink(NothingSink):
        """Slow from its first write on for `crawl` seconds, and again from the middle of the corpus."""

        until: float | None = None
        again = size // 1500
        "About half of the chunks."

        def write(self, points: Sequence[Point]) -> None:
            now = time.monotonic()
            if self.until is None or (self.again and self.written > self.again):
                self.until, self.again = now + crawl, self.again if self.until is None else 0
            time.sleep(max(0.0, min(self.until - now, len(points) / CRAWL)))
            super().write(points)

    series: list[tuple[int, int]] = []
    workers = 0
    last: Progress | None = None

    def sample(progress: Progress) -> None:
        nonlocal workers, last
        last = progress
        workers = max(workers, sum(status("VmRSS", pid) for pid in children()))
        series.append((progress.counts["bytes"], status("VmRSS")))

    with tempfile.TemporaryDirectory() as state:
        pipeline = Pipeline(
            folder,
            into=CrawlingSink(),
            model=FreshVectors(DIM),
            chunk=CHUNK,
            memory=budget,
            state=Path(state) / "ledger.db",
            workers=2,
        )
        report = pipeline.run(sample)
    assert report.ok, report
    assert last is not None
    return {
        "peak": status("VmHWM"),
        "workers": workers,
        "seconds": report.seconds,
        "series": series,
        "written": report.counts["written"],
        "bytes": report.counts["bytes"],
        "in flight": report.peak_bytes,
        "fill": {channel.name: round(channel.peak / channel.capacity, 2) for channel in last.channels},
    }


# ---------------------------------------------------------------- around it


@contextmanager
def written(corpus: Corpus, root: Path) -> Iterator[Path]:
    """Write the corpus to a folder; remove it afterwards."""
    from corpus import make

    folder = root / "corpus"
    make(folder, corpus.size, file_size=64_000, one_file=corpus.one_file, one_line=corpus.one_line)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def measure(corpus: Corpus, root: Path, budget: int, crawl: float) -> Measured:
    with written(corpus, root) as folder:
        command = [sys.executable, str(Path(__file__).resolve()), "--ingest", str(folder)]
        command += [str(corpus.size), str(budget), str(crawl)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    series = [(done, rss) for done, rss in figures.pop("series")]
    return Measured(corpus, figures.pop("peak"), figures.pop("workers"), figures.pop("seconds"), figures, series)


def base(root: Path, budget: int) -> int:
    return measure(Corpus("one small document", 2_000, one_file=True), root, budget, 0.0).peak


def peer(python: str, model: Path, sizes: Sequence[int], root: Path) -> list[tuple[int, int]]:
    """Measure EmbedAnything: bytes of text, peak RSS of its process."""
    from peers import export_model

    script, hub = str(Path(__file__).with_name("peers.py").resolve()), str(root / "hub")
    quiet = os.environ | {"HF_HOME": hub, "HF_HUB_OFFLINE": "1"}
    export_model(python, model, Path(hub), tiny=True)
    peaks = []
    for size in sizes:
        with written(Corpus("peer", size), root) as folder:
            command = [python, script, "--embed-once", str(folder)]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=quiet)
        figures = json.loads(done.stdout.splitlines()[-1])
        peaks.append((size, figures["peak"]))
        record(f"EmbedAnything, {size / 1e6:.0f} MB: peak", figures["peak"] / MIB, "MiB", better="lower")
        print(
            f"EmbedAnything, {size / 1e6:.0f} MB: {figures['peak'] / MIB:.0f} MiB, {figures['seconds']:.0f} s",
            flush=True,
        )
    return peaks


# ---------------------------------------------------------------- tables and picture


def show(one: Measured, limit: int) -> None:
    fill = one.figures["fill"]
    print(
        f"{one.corpus.name:24} {one.peak / MIB:8.0f} {one.workers / MIB:8.0f}"
        f" {one.figures['in flight'] / MIB:10.0f} {fill['chunks']:7.0%} {fill['points']:7.0%}"
        f" {one.figures['written']:10,} {one.seconds:8.0f}",
        flush=True,
    )
    record(f"{one.corpus.name}: peak", one.peak / MIB, "MiB", bar=limit / MIB, better="lower")


def judge(runs: Sequence[Measured], ground: int, budget: int) -> bool:
    """Print which bars are reached."""
    folders = [one for one in runs if not one.corpus.one_file]
    peaks = [one.peak for one in folders] or [ground]
    spread = (max(peaks) - min(peaks)) / min(peaks)
    if len(folders) > 1:
        names = ", ".join(one.corpus.name for one in folders)
        record(f"spread over {names}", 100 * spread, "%", bar=100 * SPREAD, better="lower")
    highest = max((one.peak for one in runs), default=ground)
    fits, flat = highest <= ground + budget, spread < SPREAD
    print(f"spread over corpus sizes: {spread:.1%} ({'ok' if flat else 'MISSED'}: below {SPREAD:.0%})")
    print(
        f"highest peak: {highest / MIB:.0f} MiB ({'ok' if fits else 'MISSED'}: at most base {ground / MIB:.0f}"
        f" + budget {budget / MIB:.0f} = {(ground + budget) / MIB:.0f} MiB)"
    )
    return fits and flat


def draw(target: Path, runs: Sequence[Measured], peers: Sequence[tuple[int, int]], ground: int, budget: int) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "penstock", "font.size": 10})
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter

    ink = "#808080"  # legible on light and on dark pages
    figure, axes = pyplot.subplots(figsize=(8, 4))
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    for one in runs:
        steps = thinned([(done / 1e6, rss / MIB) for done, rss in one.series if done >= 1e5])
        line = "--" if one.corpus.one_file else "-"
        axes.plot(*zip(*steps, strict=True), line, linewidth=1.6, label=f"Penstock, {one.corpus.name}")
    if peers:
        label = "EmbedAnything, peak by corpus size"
        axes.plot([n / 1e6 for n, _ in peers], [p / MIB for _, p in peers], "o:", color="#d62728", label=label)
    axes.axhline((ground + budget) / MIB, color=ink, linewidth=1, linestyle=(0, (1, 2)))
    where, words = (0.01, (ground + budget) / MIB), f"base + budget of {budget >> 20} MiB"
    axes.annotate(words, where, (0, 4), xycoords=axes.get_yaxis_transform(), color=ink, textcoords="offset points")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("MB of Markdown done", color=ink)
    axes.set_ylabel("resident memory, MiB", color=ink)
    axes.tick_params(which="both", colors=ink)
    for spine in axes.spines.values():
        spine.set_color(ink)
    axes.legend(frameon=False, labelcolor=ink, fontsize=9)
    figure.tight_layout()
    figure.savefig(target, metadata={"Date": None})


def thinned(steps: Sequence[tuple[float, float]], count: int = 150) -> list[tuple[float, float]]:
    """Keep about `count` points at most, the highest of its neighbours each, at equal steps of the logarithm."""
    kept: dict[int, tuple[float, float]] = {}
    for done, rss in steps:
        step = int(count * math.log10(done / 0.1) / 4.5)
        if step not in kept or rss > kept[step][1]:
            kept[step] = (done, rss)
    return [kept[step] for step in sorted(kept)]


FULL = [
    Corpus("16 MB", 16_000_000),
    Corpus("160 MB", 160_000_000),
    Corpus("1.6 GB", 1_600_000_000),
    Corpus("one file of 2 GB", 2_000_000_000, one_file=True),
    Corpus("one line of 2 GB", 2_000_000_000, one_file=True, one_line=True),
]
QUICK = [
    Corpus("2 MB", 2_000_000),
    Corpus("8 MB", 8_000_000),
    Corpus("one file of 8 MB", 8_000_000, one_file=True),
    Corpus("one line of 8 MB", 8_000_000, one_file=True, one_line=True),
]


def main() -> None:
    if sys.argv[1:2] == ["--ingest"]:
        from penstock.support.heap import tighten

        tighten()  # as the command line does
        folder, size, budget, crawl = sys.argv[2:]
        print(json.dumps(ingest(Path(folder), int(size), int(budget), float(crawl))))
        return
    from penstock.embedders.models import resolve
    from penstock.support.sizes import parse_size

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", type=parse_size, help="the budget (64MiB; with --quick 16MiB)")
    parser.add_argument("--crawl", type=float, help="seconds that the sink crawls, each of two times (15; 3)")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", help="names of corpora, such as '160 MB'")
    parser.add_argument("--plot", type=Path, help="draw an SVG")
    parser.add_argument("--peers-python", help="an interpreter that has embed-anything, torch and onnx")
    parser.add_argument("--save", type=Path, help="keep all figures as JSON")
    parser.add_argument("--load", type=Path, help="take what is in such a file, measure the rest")
    parser.add_argument("--temp", type=Path, help="where the corpora are made")
    options = parser.parse_args()
    budget = options.memory or (16 if options.quick else 64) * MIB
    crawl = options.crawl if options.crawl is not None else (3.0 if options.quick else 15.0)
    corpora = [c for c in (QUICK if options.quick else FULL) if not options.only or c.name in options.only]
    kept = (
        json.loads(options.load.read_text()) if options.load else {"base": 0, "budget": budget, "runs": [], "peers": []}
    )
    if kept["budget"] != budget:
        parser.error(f"{options.load} was measured with --memory {kept['budget']}")
    known = {run["corpus"]["name"]: Measured(**run | {"corpus": Corpus(**run["corpus"])}) for run in kept["runs"]}
    with tempfile.TemporaryDirectory(dir=options.temp) as folder:
        root = Path(folder)
        ground = kept["base"] or base(root, budget)
        print(f"base {ground / MIB:.0f} MiB, budget {budget / MIB:.0f} MiB, chunks of {CHUNK}")
        record(f"base with a budget of {budget / MIB:.0f} MiB", ground / MIB, "MiB", better="lower")
        titles = (
            ("peak MiB", 8),
            ("workers", 8),
            ("in flight", 10),
            ("chunks", 7),
            ("points", 7),
            ("written", 10),
            ("s", 8),
        )
        print(" " * 24, *(f"{title:>{width}}" for title, width in titles))
        runs = []
        for corpus in corpora:
            runs.append(known.get(corpus.name) or measure(corpus, root, budget, crawl))
            show(runs[-1], ground + budget)
        well = judge(runs, ground, budget)
        peers = kept["peers"]
        if options.peers_python and not peers:
            sizes = [1, 2] if options.quick else [2, 8, 16]
            peers = peer(options.peers_python, resolve(), [n * 1_000_000 for n in sizes], root)
    if options.save:
        figures = {"base": ground, "budget": budget, "runs": [asdict(one) for one in runs], "peers": peers}
        options.save.write_text(json.dumps(figures))
    if options.plot:
        draw(options.plot, runs, peers, ground, budget)
    sys.exit(0 if well or options.quick else MISSED)


if __name__ == "__main__":
    main()
