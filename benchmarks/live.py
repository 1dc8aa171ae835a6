"""An index that follows a folder: from a change to its being searchable, idle cost, a burst, a renamed folder.

    python benchmarks/live.py                                   # 100,000 files in 2,000 folders, idle for 10 minutes
    python benchmarks/live.py --files 2000 --changes 50 --idle 20 --burst 2000 --renamed 100

The default model and store; the burst with a model that takes no time. A change is timed from its write to the first
search by another process that finds it. Bars: in a small tree p50 0.1 s and p99 0.5 s, in the large one 0.15 and 1 s;
idle less than 1 % of a core and memory within 2 %, a listing included; a burst of 50,000 files within 60 s and equal to
a fresh run; a renamed folder of 1,000 files within 5 s, nothing embedded.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from figures import record

import penstock as ps
from penstock.engine.progress import Progress
from penstock.ledger import Ledger
from penstock.testing.embedders import HashingEmbedder

SMALL = 1000
"""Files of the small tree."""
FAKE = "fake"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--changes", type=int, default=200)
    parser.add_argument("--idle", type=float, default=600.0, metavar="SECONDS")
    parser.add_argument("--burst", type=int, default=50_000)
    parser.add_argument("--renamed", type=int, default=1000)
    parser.add_argument("--only", choices=("small", "large", "burst"), help="one of the trees")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        follow(Path(options.child[0]), options.child[1])
        return
    if options.only in (None, "small"):
        with tempfile.TemporaryDirectory() as name:
            changes(Path(name), min(SMALL, options.files // 2), options.changes, (0.1, 0.5))
    if options.only in (None, "large"):
        with tempfile.TemporaryDirectory() as name:
            large(Path(name), options)
    if options.only in (None, "burst"):
        with tempfile.TemporaryDirectory() as name:
            burst(Path(name), options.burst)


# ---------------------------------------------------------------- the process that follows


def pipeline(folder: Path, model: str) -> ps.Pipeline:
    embedder: Any = HashingEmbedder(64) if model == FAKE else None
    return ps.Pipeline(folder / "docs", into=f"lance://{folder}/index", model=embedder, state=folder / "ledger.db")


def follow(folder: Path, model: str) -> None:
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))

    def progress(now: Progress) -> None:
        if stopped:
            stopped.clear()
            raise KeyboardInterrupt

    report = pipeline(folder, model).watch(progress, every=60.0)
    print(json.dumps(dict(report.counts)))


@contextmanager
def following(folder: Path, model: str = "") -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, __file__, "--child", str(folder), model]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()


def documents(folder: Path) -> dict[str, str]:
    """Path below `docs` -> state."""
    if not (folder / "ledger.db").exists():
        return {}
    with Ledger.reader(folder / "ledger.db") as ledger:
        beginning = f"file://{folder}/docs/"
        return {one.uri.removeprefix(beginning): one.state for one, _ in ledger.listed("", 10**9)}


def indexed(folder: Path) -> int:
    if not (folder / "ledger.db").exists():
        return 0
    with Ledger.reader(folder / "ledger.db") as ledger:
        return ledger.counts().done


def until(condition: Any, seconds: float, what: str, pause: float = 0.2) -> float:
    began = time.perf_counter()
    while not condition():
        if time.perf_counter() - began > seconds:
            raise SystemExit(f"{what}: not within {seconds:g} s")
        time.sleep(pause)
    return time.perf_counter() - began


def fill(folder: Path, files: int) -> None:
    for number in range(files):
        part = folder / "docs" / f"{number % max(1, files // 50):04}"
        part.mkdir(parents=True, exist_ok=True)
        (part / f"{number}.md").write_text(f"# Note {number}\n\nThe only sentence of note {number}.\n")


# ---------------------------------------------------------------- what is measured


def changes(folder: Path, files: int, number: int, bars: tuple[float, float]) -> None:
    fill(folder, files)
    with following(folder) as process:
        until(lambda: indexed(folder) == files, 3600, "the first listing", 1.0)
        time.sleep(3)
        time_changes(folder, files, number, bars)
        process.terminate()
        process.wait(30)


def time_changes(folder: Path, files: int, number: int, bars: tuple[float, float]) -> None:
    texts = [f"Change {n}: the gauge of lock {n * 7919} shows {n * 31} centimetres.\n" for n in range(number)]
    vectors = ps.embed_documents(texts)
    took = []
    with ps.open_index(f"lance://{folder}/index") as index:
        for n, text in enumerate(texts):
            path = folder / "docs" / "0000" / f"changed {n % 20}.md"
            began = time.perf_counter()
            path.write_text(text)
            vector = np.asarray(vectors[n], dtype=np.float32)
            until(lambda v=vector, t=text: found(index, v, t), 30, "a change", 0.003)
            took.append(time.perf_counter() - began)
            time.sleep(0.2)
    for share, bar in zip((50, 99), bars, strict=True):
        seconds = float(np.percentile(took, share))
        record(f"change to searchable, {files:,} files, p{share}", seconds, "s", bar=bar, better="lower")
        print(f"{files:,} files: change to searchable, p{share} {seconds:.3f} s (bar {bar:g})", flush=True)


def found(index: Any, vector: list[float], text: str) -> bool:
    hits = index.search(vector, k=1)
    return bool(hits) and hits[0].chunk.text.strip() == text.strip()


def large(folder: Path, options: argparse.Namespace) -> None:
    fill(folder, options.files)
    with following(folder) as process:
        seconds = until(lambda: indexed(folder) == options.files, 3600, "the first listing", 1.0)
        print(f"{options.files:,} files indexed in {seconds:.0f} s", flush=True)
        time.sleep(5)
        time_changes(folder, options.files, options.changes, (0.15, 1.0))
        idle(process.pid, options)
        rename(folder, options.renamed)
        process.terminate()
        counts = json.loads(process.communicate(timeout=60)[0])
    again = counts["embedded"] - options.files - options.changes - options.renamed
    record(f"embedded by renaming {options.renamed:,} files", again, bar=0, better="lower")
    print(f"embedded by renaming: {again}")


def idle(pid: int, options: argparse.Namespace) -> None:
    tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    time.sleep(5)

    def used() -> float:
        return sum(sum(one.cpu_times()[:2]) for one in tree if one.is_running())

    sizes, before, began = [], used(), time.perf_counter()
    while time.perf_counter() - began < options.idle:
        time.sleep(1)
        sizes.append(psutil.Process(pid).memory_info().rss)
    share = 100 * (used() - before) / (time.perf_counter() - began)
    spread = 100 * (max(sizes) - min(sizes)) / min(sizes)
    about = f"idle, {options.files:,} files, {options.idle:g} s"
    record(f"{about}: share of a core", share, "%", bar=1.0, better="lower")
    record(f"{about}: spread of memory", spread, "%", bar=4.0, better="lower")
    print(f"{about}: {share:.2f} % of a core, memory within {spread:.1f} %", flush=True)


def rename(folder: Path, files: int) -> None:
    old, new = folder / "docs" / "old", folder / "docs" / "new"
    scratch = folder / "scratch"
    scratch.mkdir()
    for number in range(files):
        (scratch / f"{number}.md").write_text(f"# Page {number}\n\nWhat page {number} of the folder says.\n")
    before = indexed(folder)
    scratch.rename(old)
    until(lambda: indexed(folder) == before + files, 600, "a new folder")
    time.sleep(3)
    old.rename(new)

    def moved() -> bool:
        names = documents(folder)
        return not any(name.startswith("old/") for name in names) and sum(n.startswith("new/") for n in names) == files

    seconds = until(moved, 120, "a renamed folder", 0.1)
    record(f"folder of {files:,} files renamed", seconds, "s", bar=5.0, better="lower")
    print(f"folder of {files:,} files renamed: {seconds:.1f} s", flush=True)


def burst(folder: Path, files: int) -> None:
    (folder / "docs").mkdir()
    (folder / "docs" / "first.md").write_text("The first.\n")
    with following(folder, FAKE) as process:
        until(lambda: indexed(folder) == 1, 60, "the first file")
        time.sleep(2)
        began = time.perf_counter()
        for number in range(files):
            (folder / "docs" / f"{number}.md").write_text(f"Text number {number}.\n")
        until(lambda: indexed(folder) == files + 1, 600, "the burst", 0.5)
        seconds = time.perf_counter() - began
        process.terminate()
        process.wait(60)
    one = pipeline(folder, FAKE)
    agrees = one.verify().ok and one.plan().unchanged == files + 1
    record(f"burst of {files:,} files", seconds, "s", bar=60.0, better="lower")
    record(f"index equals the folder after a burst of {files:,} files", float(agrees), bar=1.0)
    print(f"burst of {files:,} files: {seconds:.0f} s, index {'equals' if agrees else 'DIFFERS FROM'} the folder")


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
