"""An index that follows its source for weeks: what grows, and what gets slower.

    python benchmarks/weeks.py                              # 30 days, 400,000 writes and 40,000 deletions, 200,000 rows
    python benchmarks/weeks.py --rows 20000 --days 6        # a tenth as many rows, and writes a day
    python benchmarks/weeks.py --store sqlite

A process follows a feed, with a model that takes no time. Days go by as quickly as the engine works, in 200 commits
each, one after the other; half of the writes are new documents, half are edits. Another process searches meanwhile. In
the end the index is compared with one that was filled in one run with the same content. Bars: 200 fragments, 500
versions, disk 1.5 and ledger 1.2 times as large, search (p50) and flush (p99) of the last day 1.3 times as slow as on
the first, 1 MiB of memory per 100,000 events.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from figures import MISSED, record

import penstock as ps
from penstock.core.contracts import Source
from penstock.core.records import Change, Checkpoint, Delete, Item, Upsert
from penstock.engine.progress import Progress
from penstock.ledger import Ledger
from penstock.support.heap import tighten
from penstock.testing.embedders import HashingEmbedder
from penstock.testing.sources import document

WRITES, DELETIONS, DAYS = 400_000, 40_000, 30
"""Of the whole, from ROWS rows."""
ROWS = 200_000
COMMITS = 200
"""Commits a day."""
DIM = 64
FILL = 1000
"""Documents between two checkpoints of the first content."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=ROWS, help="of the first content; the writes of a day go with it")
    parser.add_argument("--days", type=int, default=DAYS)
    parser.add_argument("--commits", type=int, default=COMMITS, help="commits a day")
    parser.add_argument("--store", choices=("lance", "sqlite"), default="lance")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        tighten()  # as `penstock` does
        follow(options.child, options)
        return
    with tempfile.TemporaryDirectory() as name:
        sys.exit(weeks(Path(name), options))


# ---------------------------------------------------------------- the process that follows


class Weeks(Source):
    """A feed of days: it tells the next few changes when those before are committed."""

    feed = True
    name = "weeks:"

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self._folder, self._options = folder, options
        share = options.rows / ROWS
        self.writes = max(1, round(WRITES * share / DAYS / options.commits))
        """A commit."""
        self.deletions = max(1, round(DELETIONS * share / DAYS / options.commits))
        most = options.rows + self.writes * options.commits * options.days
        self.versions = np.ones(most, np.uint16)  # all of it is in memory from the beginning
        """Of each document, and 0 of those that are gone."""
        self.versions[:] = 0
        self.done, self.stopped = threading.Event(), threading.Event()
        self.flushes: list[float] = []
        self.pauses: list[float] = []
        """Seconds of each flush and of each maintenance, of one day."""
        self._made = 0
        self._choose = np.random.default_rng(13)

    def stop(self) -> None:
        self.stopped.set()

    def changes(self, cursor: str | None = None) -> Iterator[Change]:
        if cursor is not None:  # it has all been told
            self.stopped.wait()
            return
        options = self._options
        with Ledger.reader(self._folder / "ledger.db") as ledger:
            self._ledger = ledger
            for n in range(options.rows):
                yield self._new()
                if (n + 1) % FILL == 0:
                    yield Checkpoint(f"0 {n}")
            yield Checkpoint("0 filled")
            self._wait("0 filled")
            self._tell(0)
            for day in range(1, options.days + 1):
                for commit in range(options.commits):
                    for n in range(self.writes):
                        yield self._new() if (n + commit) % 2 else self._edit()
                    for _ in range(self.deletions):
                        yield self._delete()
                    yield Checkpoint(mark := f"{day} {commit}")
                    self._wait(mark)
                self._tell(day)
        self.done.set()
        self.stopped.wait()

    def _wait(self, mark: str) -> None:
        while self._ledger.cursor(self.name) != mark and not self.stopped.wait(0.002):
            pass

    def _new(self) -> Upsert:
        self._made += 1
        self.versions[self._made - 1] = 1
        return text_of(self._made - 1, 1)

    def _known(self) -> int:
        while not self.versions[number := int(self._choose.integers(self._made))]:
            pass
        return number

    def _edit(self) -> Upsert:
        number = self._known()
        self.versions[number] += 1
        return text_of(number, int(self.versions[number]))

    def _delete(self) -> Delete:
        number = self._known()
        self.versions[number] = 0
        return Delete(f"weeks:{number}")

    def _tell(self, day: int) -> None:
        report = {
            "day": day,
            "rss": psutil.Process().memory_info().rss,
            "flush": float(np.percentile(self.flushes or [0.0], 99)),
            "pauses": len(self.pauses),
            "pause": max(self.pauses, default=0.0),
        }
        self.flushes.clear()
        self.pauses.clear()
        print(json.dumps(report), flush=True)

    def lookup(self, uri: str) -> Item | None:
        number = int(uri.partition(":")[2])
        version = int(self.versions[number])
        return text_of(number, version).item if version else None

    def content(self) -> Iterator[Upsert]:
        for number in np.flatnonzero(self.versions).tolist():
            yield text_of(number, int(self.versions[number]))


class Content(Source):
    """The content of a feed, as it is in the end."""

    feed = True
    name = "content:"

    def __init__(self, weeks: Weeks) -> None:
        self._weeks = weeks

    def changes(self, cursor: str | None = None) -> Iterator[Change]:
        yield from self._weeks.content()
        yield Checkpoint("end")

    def lookup(self, uri: str) -> Item | None:
        return self._weeks.lookup(uri)


def text_of(number: int, version: int) -> Upsert:
    words = " ".join(f"word{(number * 31 + version * 7 + n * n) % 9973}" for n in range(40))
    text = f"Report {number}, version {version}. {words}."
    return document(f"weeks:{number}", text.encode(), media_type="text/plain")


def pipeline(folder: Path, source: Source, options: argparse.Namespace) -> ps.Pipeline:
    return ps.Pipeline(source, into=url(folder, options.store), model=HashingEmbedder(DIM), state=folder / "ledger.db")


def url(folder: Path, store: str) -> str:
    return f"lance://{folder}/index" if store == "lance" else f"sqlite://{folder}/index.db"


def follow(folder: Path, options: argparse.Namespace) -> None:
    source = Weeks(folder, options)
    live = pipeline(folder, source, options)
    clocked(type(live.sink), "flush", source.flushes)
    clocked(type(live.sink), "maintain", source.pauses)

    def progress(now: Progress) -> None:
        if source.done.is_set():
            source.done.clear()
            raise KeyboardInterrupt

    live.watch(progress)
    fresh = folder / "fresh"
    fresh.mkdir()
    other = pipeline(fresh, Content(source), options)
    other.run()
    equal = ids(live, folder) == ids(other, fresh)
    print(json.dumps({"equal": equal, "verified": live.verify().ok}), flush=True)


def clocked(sink: Any, name: str, seconds: list[float]) -> None:
    """Note how long each call of the method takes."""
    method = getattr(sink, name)

    def timed(self: Any) -> None:
        began = time.perf_counter()
        method(self)
        seconds.append(time.perf_counter() - began)

    setattr(sink, name, timed)


def ids(one: ps.Pipeline, folder: Path) -> set[str]:
    """Of the index; where one is in it twice, something that equals no other index."""
    sink = one.sink
    sink.open(sink.manifest())
    try:
        found = [id for page in sink.ids() for id in page]
    finally:
        sink.close()
    unique = set(found)
    return unique if len(unique) == len(found) else {f"{len(found) - len(unique)} twice in {folder}"}


# ---------------------------------------------------------------- the process that searches and measures


class Day:
    """What was seen in one day."""

    def __init__(self) -> None:
        self.searches: list[float] = []
        self.fragments: list[int] = []
        self.versions: list[int] = []
        self.disk: list[int] = []
        self.ledger: list[int] = []
        self.began = time.perf_counter()

    def describe(self, told: dict[str, Any]) -> str:
        return (
            f"day {told['day']:2}: {time.perf_counter() - self.began:6.1f} s,"
            f" search {1000 * float(np.median(self.searches)):.1f} ms, flush {1000 * told['flush']:.1f} ms,"
            f" maintained {told['pauses']} times ({told['pause']:.1f} s at most),"
            f" fragments {max(self.fragments, default=0)}, versions {max(self.versions, default=0)},"
            f" disk {self.disk[-1] / 1e6:.0f} MB (at most {max(self.disk) / 1e6:.0f}),"
            f" ledger {self.ledger[-1] / 1e6:.1f} MB, memory {told['rss'] / 2**20:.0f} MiB"
        )


def weeks(folder: Path, options: argparse.Namespace) -> int:
    days: list[tuple[Day, dict[str, Any]]] = []
    told: queue.Queue[dict[str, Any]] = queue.Queue()
    arguments = [str(folder), *(f"--{name}={getattr(options, name)}" for name in ("rows", "days", "commits", "store"))]
    command = [sys.executable, __file__, "--child", *arguments]
    watch, day = Watch(folder, options), Day()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            listen = partial(listen_to, child.stdout, told)
            threading.Thread(target=listen, daemon=True).start()
            while len(days) <= options.days:
                try:
                    report = told.get(timeout=0.05)
                except queue.Empty:
                    watch.measure(day)
                    if days:
                        watch.search(day)
                    continue
                if "day" not in report:
                    raise SystemExit(f"the process that follows ended on day {len(days)}")
                watch.measure(day, whole=True)
                watch.search(day)
                print(day.describe(report), flush=True)
                days.append((day, report))
                day = Day()
            end = told.get()
        finally:
            if sys.exc_info()[0]:
                child.kill()
    return judge(folder, options, days, end)


def listen_to(lines: Iterable[str], told: queue.Queue[dict[str, Any]]) -> None:
    for line in lines:
        told.put(json.loads(line))
    told.put({})


class Watch:
    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self._folder, self._store = folder, options.store
        self._url = url(folder, options.store)
        self._index: Any = None
        self._table: Any = None
        self._choose = np.random.default_rng(7)
        self._measured = 0.0

    def search(self, day: Day) -> None:
        if self._index is None:
            self._index = ps.open_index(self._url, HashingEmbedder(DIM)).__enter__()
        vector = self._choose.standard_normal(DIM).astype(np.float32)
        began = time.perf_counter()
        self._index.search(vector, k=10)
        day.searches.append(time.perf_counter() - began)

    def measure(self, day: Day, *, whole: bool = False) -> None:
        data = self._folder / "index" / "chunks.lance"
        if data.exists():
            day.versions.append(len(os.listdir(data / "_versions")))
        if not whole and time.monotonic() < self._measured + 2:
            return
        self._measured = time.monotonic()
        day.disk.append(self._disk(self._folder))
        day.ledger.append(self._ledger(self._folder))
        if day.versions:
            self._table = self._table or self._open()
            day.fragments.append(self._table.stats()["fragment_stats"]["num_fragments"])

    def _open(self) -> Any:
        import lancedb

        connection = lancedb.connect(str(self._folder / "index"), read_consistency_interval=timedelta(0))
        return connection.open_table("chunks")

    @staticmethod
    def _disk(folder: Path) -> int:
        total = 0
        for path in (*folder.glob("index/**/*"), *folder.glob("index.db*")):
            with suppress(FileNotFoundError):  # it was compacted meanwhile
                total += path.stat().st_size if path.is_file() else 0
        return total

    @staticmethod
    def _ledger(folder: Path) -> int:
        return sum(path.stat().st_size for path in folder.glob("ledger.db*"))


def judge(
    folder: Path, options: argparse.Namespace, days: list[tuple[Day, dict[str, Any]]], end: dict[str, Any]
) -> int:
    about = f"{options.days} days from {options.rows:,} rows, {options.store}"
    missed = []

    def hold(name: str, value: float, bar: float, unit: str = "") -> None:
        record(f"{about}: {name}", value, unit, bar=bar, better="lower")
        missed.extend([name] if value > bar else [])
        print(f"{name}: {value:.3g} {unit} (bar {bar:g}){', MISSED' if value > bar else ''}", flush=True)

    (_, _), (first, began), *_, (last, ended) = days if len(days) > 2 else [*days, days[-1]]
    if options.store == "lance":
        hold("fragments at most", max(max(day.fragments) for day, _ in days[1:]), 200)
        hold("versions at most", max(max(day.versions) for day, _ in days[1:]), 500)
    fresh = folder / "fresh"
    hold("disk, as of a fresh index", last.disk[-1] / Watch._disk(fresh), 1.5)
    hold("ledger, as of a fresh one", last.ledger[-1] / Watch._ledger(fresh), 1.2)
    hold("search p50, as on the first day", float(np.median(last.searches) / np.median(first.searches)), 1.3)
    hold("flush p99, as on the first day", ended["flush"] / began["flush"], 1.3)
    events = options.commits * sum((Weeks(folder, options).writes, Weeks(folder, options).deletions))
    settled = [told["rss"] / 2**20 for _, told in days[1 + len(days) // 4 :]]
    slope = float(np.polyfit(range(len(settled)), settled, 1)[0]) if len(settled) > 1 else 0.0
    hold("memory per 100,000 events", slope / events * 100_000, 1.0, "MiB")
    hold("documents lost or doubled", 0.0 if end.get("equal") and end.get("verified") else 1.0, 0)
    full = options.rows >= ROWS and options.days >= DAYS
    return MISSED if missed and full else 0


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
