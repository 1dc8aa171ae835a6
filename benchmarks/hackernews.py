"""An index that follows Hacker News: a day by tape, a hundred times as fast, with faults; and a backfill.

    python benchmarks/hackernews.py                              # 24 hours at 100 x: a quarter of an hour
    python benchmarks/hackernews.py --hours 1 --backfill 2000

The server is a process of its own; the model takes no time. Bars: the index equals the oracle's; from an item's coming
to its being in the index p95 one poll and 2 s; no more pages fetched than stories, their new titles and the tries after
a fault; scores fetch and embed nothing; 200 new and 500 unchanged items/s.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
from figures import record

import penstock as ps
from penstock.core.records import Point
from penstock.engine.progress import Progress, Report
from penstock.testing.embedders import HashingEmbedder
from penstock.testing.hackernews import HackerNewsServer
from penstock.testing.hackernews_tape import differences, documents, tape

POLL = 1.0
SEED = 11
FIRST = 1000
HOSTS = 300
"""Of the pages: in a recorded half day 468 pages were on 334 hosts."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--speed", type=float, default=100.0)
    parser.add_argument("--faults", type=float, default=0.05)
    parser.add_argument("--backfill", type=int, default=10_000)
    parser.add_argument("--only", choices=("day", "backfill"))
    parser.add_argument("--serve", nargs=4, type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(*options.serve)
        return
    with tempfile.TemporaryDirectory() as name:
        if options.only in (None, "backfill"):
            backfill(Path(name) / "backfill", options.backfill)
        if options.only in (None, "day"):
            day(Path(name) / "day", options)


# ---------------------------------------------------------------- the server


def serve(hours: float, speed: float, faults: float, skip: float) -> None:
    """Until stdin ends; each line of it is answered with the state."""
    with HackerNewsServer(tape(hours=hours, seed=SEED), speed=speed, faults=faults, seed=SEED, hosts=HOSTS) as hn:
        hn.world.top = FIRST - 1
        hn.skip(skip)
        print(json.dumps({"api": hn.api, "began": time.monotonic(), "wall": hn.wall(0)}), flush=True)
        for line in sys.stdin:
            if line.startswith("heal"):
                hn.heal()
            state = {"at_end": hn.at_end, "items": list(hn.world.items.items()), "asked": hn.asked}
            print(json.dumps(state if line.startswith("state") else {"at_end": hn.at_end}), flush=True)


class Server:
    def __init__(self, *arguments: float) -> None:
        command = [sys.executable, __file__, "--serve", *map(str, arguments)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        begun = json.loads(self._process.stdout.readline())
        self.api, self.wall = begun["api"], begun["wall"]

    def ask(self, word: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(word, file=self._process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


@contextmanager
def serving(*arguments: float) -> Iterator[Server]:
    server = Server(*arguments)
    try:
        yield server
    finally:
        server.close()


def pipeline(folder: Path, api: str, **options: Any) -> ps.Pipeline:
    folder.mkdir(exist_ok=True)
    return ps.Pipeline(
        "hn://",
        into=f"lance://{folder}/index",
        model=HashingEmbedder(64),
        state=folder / "ledger.db",
        api=api,
        poll=POLL,
        private=True,
        **options,
    )


# ---------------------------------------------------------------- what is measured


def backfill(folder: Path, items: int) -> None:
    """New items, and then the same ones as they are. Their pages are left alone."""
    with serving(24 * items / 12_600 / 0.89, 1.0, 0.0, 10**9) as server:
        one = pipeline(folder, server.api, start=FIRST, pages=False)
        for what, bar in (("new", 200.0), ("unchanged", 500.0)):
            with urlopen(f"{server.api}/maxitem.json") as answer:
                count = int(answer.read()) + 1 - FIRST
            began = time.perf_counter()
            report = one.run()
            rate = count / (time.perf_counter() - began)
            assert report.status == "done"
            with closing(sqlite3.connect(folder / "ledger.db", isolation_level=None)) as ledger:
                ledger.execute("DELETE FROM cursors")  # so that the next run reads all of it again
            record(f"backfill of {count:,} items, {what}", rate, "items/s", bar=bar)
            print(f"backfill of {count:,} items, {what}: {rate:,.0f} items/s (bar {bar:g})", flush=True)


def day(folder: Path, options: argparse.Namespace) -> None:
    with serving(options.hours, options.speed, options.faults, 0.0) as server:
        one = pipeline(folder, server.api, start=FIRST)
        arrivals = Arrivals(folder)
        stop = threading.Event()

        def progress(now: Progress) -> None:
            if stop.is_set():
                stop.clear()
                raise KeyboardInterrupt

        reports: list[Report] = []
        run = threading.Thread(target=lambda: reports.append(one.watch(progress)))
        watch = threading.Thread(target=arrivals.watch)
        run.start()
        watch.start()
        while not server.ask("end")["at_end"]:
            time.sleep(1)
        server.ask("heal")
        left = settle(folder, server, one)
        arrivals.stop.set()
        stop.set()
        watch.join()
        run.join(60)
        state = server.ask("state")
        (report,) = reports
        show(
            options,
            state,
            report,
            left,
            arrivals.delays(server.wall, options.speed, tape(hours=options.hours, seed=SEED)),
        )


def settle(folder: Path, server: Server, one: ps.Pipeline, seconds: float = 120.0) -> list[str]:
    """Wait until the index is as it should be; what is not so in the end."""
    end = time.monotonic() + seconds
    while True:
        items = dict(server.ask("state")["items"])
        left = differences(points(one), documents(items, first=FIRST))
        if not left or time.monotonic() > end:
            return left
        time.sleep(2)


def points(one: ps.Pipeline) -> list[Point]:
    if one.sink.manifest() is None:
        return []  # not yet
    with ps.open_index(one.sink.url, one.embedder) as index:
        return [Point(hit.chunk, {}) for hit in index.search("text", k=1_000_000)]


class Arrivals:
    """When items are in the index for the first time, by the ledger."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "ledger.db"
        self.stop = threading.Event()
        self.seen: dict[str, float] = {}

    def watch(self) -> None:
        after = 0
        open_ones: set[int] = set()
        while not self.stop.wait(0.25):
            if not self._path.exists():
                continue
            with closing(sqlite3.connect(f"file:{self._path}?mode=ro", uri=True)) as ledger, suppress(sqlite3.Error):
                now = time.monotonic()
                marks = ",".join(map(str, open_ones))
                rows = ledger.execute(
                    f"SELECT id, uri, state FROM documents WHERE id > ? OR id IN ({marks})", (after,)
                ).fetchall()
                for number, uri, state in rows:
                    after = max(after, number)
                    if state == "done":
                        self.seen.setdefault(uri, now)
                        open_ones.discard(number)
                    else:
                        open_ones.add(number)

    def delays(self, began: float, speed: float, events: list[Any]) -> list[float]:
        there = {event.number: event.at for event in events if event.kind == "put"}
        came = {uri: began + there[int(uri.rpartition("=")[2])] / speed for uri in self.seen}
        opened = min(self.seen.values())
        early = {uri for uri, at in came.items() if at < opened}
        if len(early) < len(came):
            print(f"{len(early)} items are left out that came while model and store were opened", flush=True)
            came = {uri: at for uri, at in came.items() if uri not in early}
        return [self.seen[uri] - at for uri, at in came.items()]


def show(
    options: argparse.Namespace, state: dict[str, Any], report: Report, left: list[str], delays: list[float]
) -> None:
    about = f"{options.hours:g} h at {options.speed:g} x"
    pages = {path: count for path, count in state["asked"].items() if path.startswith("/page/")}
    fetched = sum(pages.values())
    stories = sum(1 for _, item in state["items"] if item and "/page/" in item.get("url", ""))
    tries = sum(count - 1 for count in pages.values())
    record(f"differences from the oracle, {about}", len(left), bar=0, better="lower")
    p95 = float(np.percentile(delays, 95))
    record(f"item to index, {about}, p95", p95, "s", bar=POLL + 2, better="lower")
    record(f"pages fetched, {about}", fetched)
    record(f"pages of stories, {about}", stories)
    print(f"{about}: {len(left)} differences {left[:5]}")
    print(f"{about}: item to index p50 {np.percentile(delays, 50):.2f} s, p95 {p95:.2f} s (bar {POLL + 2:g})")
    print(f"{about}: {len(pages)} pages fetched, {tries} again, of {stories} stories that are there")
    print(f"{about}: {report.embedded:,} chunks embedded, counts {dict(report.counts)}")


if __name__ == "__main__":
    main()
