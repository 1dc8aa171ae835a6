"""An index that follows a folder: from a change to its being searchable, idle cost, a burst, a renamed folder.

    python benchmarks/live.py                                   # 100,000 files in 2,000 folders, idle for 10 minutes
    python benchmarks/live.py --files 2000 --changes 50 --idle 20 --burst 2000 --renamed 100
    python benchmarks/live.py --only small --peer PEERS/bin/python      # beside CocoIndex 1.0 (a venv with cocoindex)

The default model and store; the burst, and with --fake the large tree as well, with a model that takes no time. A
change is timed from its write to the first search by another process that finds it; a peer takes turns with Penstock.
Beside the seconds stands the CPU of the process that follows. Bars: in a small tree p50 0.1 s and p99 0.5 s, in the
large one 0.15 and 1 s; idle less than 1 % of a core and memory within 2 %, one listing included; a burst of 50,000
files within 60 s and equal to a fresh run; a renamed folder of 1,000 files within 5 s, nothing embedded, and each of
them found at any time.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from figures import record

import penstock as ps
from penstock.core.errors import UsageError
from penstock.engine.progress import Progress
from penstock.jobs import progress_file
from penstock.ledger import Ledger
from penstock.sources.files.local import uri_of
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
    parser.add_argument("--fake", action="store_true", help="the large tree with a model that takes no time")
    parser.add_argument("--peer", metavar="PYTHON", help="an interpreter with cocoindex, to take turns with it")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        follow(Path(options.child[0]), options.child[1], float(options.child[2]))
        return
    if options.only in (None, "small"):
        with tempfile.TemporaryDirectory() as name:
            small(Path(name), min(SMALL, options.files // 2), options)
    if options.only in (None, "large"):
        with tempfile.TemporaryDirectory() as name:
            large(Path(name), options)
    if options.only in (None, "burst"):
        with tempfile.TemporaryDirectory() as name:
            burst(Path(name), options.burst)


# ---------------------------------------------------------------- the process that follows


def pipeline(folder: Path, model: str) -> ps.Pipeline:
    return ps.Pipeline(
        folder / "docs", into=f"lance://{folder}/index", model=embedder(model), state=folder / "ledger.db"
    )


def embedder(model: str) -> Any:
    return HashingEmbedder(64) if model == FAKE else None


def follow(folder: Path, model: str, every: float) -> None:
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))

    def progress(now: Progress) -> None:
        if stopped:
            stopped.clear()
            raise KeyboardInterrupt

    report = pipeline(folder, model).watch(progress, every=every)
    print(json.dumps(dict(report.counts)))


@contextmanager
def following(folder: Path, model: str = "", every: float = 600.0) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, __file__, "--child", str(folder), model, str(every)]
    with process(command) as one:
        yield one


@contextmanager
def process(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()


def indexed(folder: Path) -> int:
    try:
        with Ledger.reader(folder / "ledger.db") as ledger:
            return ledger.counts().done
    except UsageError:  # it is about to be made
        return 0


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


Finds = Callable[[Any, str], bool]
"""Whether a search by this vector finds this text: among a few, as the vectors of the fake model collide."""


def cpu(pid: int) -> float:
    one = psutil.Process(pid)
    return sum(sum(process.cpu_times()[:2]) for process in (one, *one.children(recursive=True)))


def small(folder: Path, files: int, options: argparse.Namespace) -> None:
    ours, theirs = folder / "ours", folder / "theirs"
    fill(ours, files)
    with ExitStack() as stack:
        child = stack.enter_context(following(ours))
        until(lambda: indexed(ours) == files, 3600, "the first listing", 1.0)
        peer = None
        if options.peer:
            fill(theirs, files)
            script = str(Path(__file__).with_name("live_cocoindex.py"))
            other = stack.enter_context(process([options.peer, script, str(theirs)]))
            until(lambda: rows(theirs) == files, 3600, "the peer's first listing", 1.0)
            peer = theirs, other.pid
        time.sleep(3)
        time_changes(ours, files, child.pid, options.changes, (0.1, 0.5), peer=peer)
        child.terminate()
        child.wait(30)


def time_changes(
    folder: Path,
    files: int,
    pid: int,
    number: int,
    bars: tuple[float, float],
    *,
    model: str = "",
    peer: tuple[Path, int] | None = None,
) -> None:
    texts = [f"Change {n}: the gauge of lock {n * 7919} shows {n * 31} centimetres.\n" for n in range(number)]
    vectors = ps.embed_documents(texts, embedder(model))
    with ExitStack() as stack:
        index = stack.enter_context(ps.open_index(f"lance://{folder}/index", embedder(model)))
        turns: dict[str, tuple[Path, Finds, int]] = {"": (folder, partial(found, index), pid)}
        if peer is not None:
            turns["CocoIndex: "] = peer[0], partial(found_by_peer, notes(peer[0])), peer[1]
        took: dict[str, list[float]] = {who: [] for who in turns}
        used = dict.fromkeys(turns, 0.0)
        for n, text in enumerate(texts):
            vector = np.asarray(vectors[n], dtype=np.float32)
            for who, (where, finds, process) in turns.items():
                path, before = where / "docs" / "0000" / f"changed {n % 20}.md", cpu(process)
                began = time.perf_counter()
                path.write_text(text)
                until(lambda f=finds, v=vector, t=text: f(v, t), 30, "a change", 0.003)
                took[who].append(time.perf_counter() - began)
                time.sleep(0.2)
                used[who] += cpu(process) - before
    for who, seconds_each in took.items():
        for share, bar in zip((50, 99), bars, strict=True):
            seconds = float(np.percentile(seconds_each, share))
            name = f"{who}change to searchable, {files:,} files, p{share}"
            record(name, seconds, "s", bar=None if who else bar, better="lower")
            print(f"{name} {seconds:.3f} s (bar {bar:g}), CPU {1000 * used[who] / number:.0f} ms a change", flush=True)
    if peer is not None:
        ours, theirs = (float(np.median(seconds)) for seconds in took.values())
        record("change to searchable, times CocoIndex's", ours / theirs, bar=1.0, better="lower")


def notes(folder: Path) -> Any:
    import lancedb

    return lancedb.connect(str(folder / "peer")).open_table("notes")


def rows(folder: Path) -> int:
    try:
        return int(notes(folder).count_rows())
    except ValueError:  # there is none yet
        return 0


def found_by_peer(table: Any, vector: Any, text: str) -> bool:
    table.checkout_latest()
    return any(hit["text"].strip() == text.strip() for hit in table.search(vector).limit(20).to_list())


def found(index: Any, vector: list[float], text: str) -> bool:
    return any(hit.chunk.text.strip() == text.strip() for hit in index.search(vector, k=20))


def large(folder: Path, options: argparse.Namespace) -> None:
    model = FAKE if options.fake else ""
    fill(folder, options.files)
    with following(folder, model, every=options.idle) as process:
        seconds = until(lambda: indexed(folder) == options.files, 3600, "the first listing", 1.0)
        print(f"{options.files:,} files indexed in {seconds:.0f} s", flush=True)
        time.sleep(5)
        time_changes(folder, options.files, process.pid, options.changes, (0.15, 1.0), model=model)
        idle(folder, process.pid, options)
        rename(folder, process.pid, options.renamed, model)
        process.terminate()
        counts = json.loads(process.communicate(timeout=60)[0])
    again = counts["embedded"] - options.files - options.changes - options.renamed
    record(f"embedded by renaming {options.renamed:,} files", again, bar=0, better="lower")
    print(f"embedded by renaming: {again}")


def idle(folder: Path, pid: int, options: argparse.Namespace) -> None:
    def listed() -> float:
        return float(((progress_file.read(folder / "ledger.db") or {}).get("live") or {}).get("listed") or 0.0)

    time.sleep(5)
    sizes, listings, before, began = [], {listed()}, cpu(pid), time.perf_counter()
    while time.perf_counter() - began < options.idle:
        time.sleep(1)
        sizes.append(psutil.Process(pid).memory_info().rss)
        listings.add(listed())
    used = cpu(pid) - before
    share = 100 * used / (time.perf_counter() - began)
    spread = 100 * (max(sizes) - min(sizes)) / min(sizes)
    about = f"idle, {options.files:,} files, {options.idle:g} s"
    record(f"{about}: share of a core", share, "%", bar=1.0, better="lower")
    record(f"{about}: spread of memory", spread, "%", bar=4.0, better="lower")
    print(
        f"{about}, {len(listings) - 1} listings: CPU {used:.1f} s, {share:.2f} % of a core,"
        f" memory {min(sizes) / 1e6:.0f} to {max(sizes) / 1e6:.0f} MB, within {spread:.1f} %",
        flush=True,
    )


def rename(folder: Path, pid: int, files: int, model: str) -> None:
    old, new = folder / "docs" / "old", folder / "docs" / "new"
    scratch = folder / "scratch"
    scratch.mkdir()
    texts = [f"Page {number}: {number * 104_729} is what this page of the folder says.\n" for number in range(files)]
    for number, text in enumerate(texts):
        (scratch / f"{number}.md").write_text(text)
    before = indexed(folder)
    scratch.rename(old)
    until(lambda: indexed(folder) == before + files, 600, "a new folder")
    vectors = ps.embed_documents(texts, embedder(model))
    time.sleep(3)
    absent, looks, ended = 0, 0, threading.Event()

    def look() -> None:
        nonlocal absent, looks
        with ps.open_index(f"lance://{folder}/index", embedder(model)) as index:
            while not ended.is_set():
                number = looks * 7919 % files
                absent += not found(index, np.asarray(vectors[number], dtype=np.float32), texts[number])
                looks += 1

    searcher = threading.Thread(target=look)
    searcher.start()
    until(lambda: looks, 60, "a first search")

    def moved(ledger: Ledger) -> bool:
        return not ledger.uris_under(uri_of(str(old)), 1) and len(ledger.uris_under(uri_of(str(new)), files)) == files

    try:
        used = cpu(pid)
        with Ledger.reader(folder / "ledger.db") as ledger:
            old.rename(new)
            seconds = until(lambda: moved(ledger), 120, "a renamed folder", 0.1)
        used = cpu(pid) - used
    finally:
        ended.set()
        searcher.join()
    record(f"folder of {files:,} files renamed", seconds, "s", bar=5.0, better="lower")
    record(f"absent while a folder of {files:,} files is renamed", absent, bar=0, better="lower")
    print(
        f"folder of {files:,} files renamed: {seconds:.1f} s, CPU {used:.1f} s,"
        f" absent in {absent} of {looks:,} searches",
        flush=True,
    )


def burst(folder: Path, files: int) -> None:
    (folder / "docs").mkdir()
    (folder / "docs" / "first.md").write_text("The first.\n")
    with following(folder, FAKE) as process:
        until(lambda: indexed(folder) == 1, 60, "the first file")
        time.sleep(2)
        used, began = cpu(process.pid), time.perf_counter()
        for number in range(files):
            (folder / "docs" / f"{number}.md").write_text(f"Text number {number}.\n")
        until(lambda: indexed(folder) == files + 1, 600, "the burst", 0.5)
        seconds = time.perf_counter() - began
        used = cpu(process.pid) - used
        process.terminate()
        process.wait(60)
    one = pipeline(folder, FAKE)
    agrees = one.verify().ok and one.plan().unchanged == files + 1
    record(f"burst of {files:,} files", seconds, "s", bar=60.0, better="lower")
    record(f"index equals the folder after a burst of {files:,} files", float(agrees), bar=1.0)
    same = "equals" if agrees else "DIFFERS FROM"
    print(f"burst of {files:,} files: {seconds:.0f} s, CPU {used:.0f} s, index {same} the folder")


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
