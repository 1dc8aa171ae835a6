"""Kills an ingest with SIGKILL, again and again, and looks whether the index ends up as if nothing had happened.

    python -m penstock.testing.chaos --kills 200 --sink lance --seed 7

A child process ingests a corpus that is edited, renamed and deleted between runs, and sometimes between a kill and the
restart. It is killed at every moment of a commit in turn, at random moments, and by the clock. Whenever a run comes to
its end, the index is compared with that of an undisturbed run, and a log that survives the kills shows whether a
chunk was embedded again after it had been acknowledged.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import pickle
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from penstock.core.contracts import Sink, Source
from penstock.core.errors import UsageError
from penstock.core.records import Block, Chunk, Delete, Piece, Point
from penstock.core.schema import Manifest
from penstock.engine.journal import ChunkEntry
from penstock.jobs import run as runs
from penstock.pipeline import Pipeline
from penstock.registry import SINKS, find
from penstock.sinks import address, manifests
from penstock.sinks.memory import MemorySink, forget
from penstock.testing.embedders import HashingEmbedder
from penstock.testing.faults import LEDGER_MOMENTS, SINK_MOMENTS, Fuse, wire
from penstock.testing.sources import FeedSource, ListSource, document

Corpus = dict[str, str]
Contents = dict[str, tuple[Any, ...]]


class Broken(AssertionError):
    """A promise of the engine did not hold."""


# ---------------------------------------------------------------- what is ingested


class Lines:
    """A chunker: a line is a chunk, and its page and heading change with its place in the document."""

    spec = "lines"

    def __call__(self, blocks: Iterable[Block]) -> Iterator[Piece]:
        at = number = 0
        for block in blocks:
            for line in block.text.splitlines(keepends=True):
                text = line.rstrip("\n")
                if text.strip():
                    yield Piece(text, (at, at + len(text)), number // 4, (f"part {number // 3}",), {"line": number})
                    number += 1
                at += len(line)


def first_corpus(rng: random.Random, documents: int) -> Corpus:
    return {f"doc:{n}": _text(rng, n) for n in range(documents)}


def next_corpus(corpus: Corpus, rng: random.Random) -> Corpus:
    """Edited, with lines that repeat; some documents added, removed, emptied, renamed or with their names swapped."""
    changed = dict(corpus)
    for uri in rng.sample(sorted(changed), k=len(changed) // 3):
        lines = changed[uri].splitlines()
        for _ in range(rng.randint(1, 4)):
            at = rng.randint(0, len(lines))
            match rng.randrange(4):
                case 0:
                    lines.insert(at, f"inserted {rng.randrange(10**6)}")
                case 1 if lines:
                    lines[at - 1] = f"replaced {rng.randrange(10**6)}"
                case 2 if lines:
                    del lines[at - 1]
                case _:
                    lines.insert(at, rng.choice(lines) if lines else "the only line")
        changed[uri] = "\n".join(lines)
    uris = sorted(changed)
    new, gone, empty, old, left, right = rng.sample(uris, 6)
    changed[left], changed[right] = changed[right], changed[left]
    changed[f"{old}-renamed"] = changed.pop(old)
    changed[f"{new}-{rng.randrange(10**4)}"] = _text(rng, rng.randrange(10**6))
    changed[empty] = ""
    del changed[gone]
    return changed


def _text(rng: random.Random, number: int) -> str:
    return "\n".join(f"document {number} says {rng.choice('abcdef')} in line {rng.randrange(9)}" for _ in range(12))


# ---------------------------------------------------------------- where it goes


class JournalSink(Sink):
    """`journal:///path`: a file to which every point and every deletion is appended, one after the other.

    Needs no driver, so a child process starts in no time; and a batch is not atomic: a kill leaves a part of it.
    """

    max_rows = 16

    def __init__(self, url: str) -> None:
        self._url = url
        self._path, _ = address.local(url, "journal", "journal:///tmp/index")
        self._file: int | None = None
        self._points: dict[str, Point] = {}

    @property
    def url(self) -> str:
        return self._url

    def manifest(self) -> Manifest | None:
        return manifests.read(self._path / "manifest.json", self._url)

    def open(self, manifest: Manifest) -> None:
        kept = self.manifest()
        if kept is None:
            self._path.mkdir(parents=True, exist_ok=True)
            self.replace_manifest(manifest)
        else:
            manifests.agree(kept, manifest, self._url)
        if self._file is None:
            self._load()
            self._file = os.open(self._path / "journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def replace_manifest(self, manifest: Manifest) -> None:
        manifests.keep(self._path / "manifest.json", manifest)

    def write(self, points: Sequence[Point]) -> None:
        for point in points:
            self._append(point.id, point)

    def delete(self, ids: Sequence[str]) -> None:
        for id in ids:
            self._append(id, None)

    def flush(self) -> None:
        """What a process has written survives its end."""

    def count(self) -> int:
        return len(self._points)

    def ids(self) -> Iterator[Sequence[str]]:
        yield list(self._points)

    def fetch(self, ids: Sequence[str]) -> Sequence[Point]:
        return [point for id in ids if (point := self._points.get(id)) is not None]

    def _append(self, id: str, point: Point | None) -> None:
        if self._file is None:
            raise UsageError(f"{self._url} is not open")
        data = pickle.dumps((id, point))
        os.write(self._file, len(data).to_bytes(4, "big") + crc32(data).to_bytes(4, "big") + data)
        self._apply(id, point)

    def _apply(self, id: str, point: Point | None) -> None:
        if point is None:
            self._points.pop(id, None)
        else:
            self._points[id] = point

    def _load(self) -> None:
        path = self._path / "journal"
        raw = path.read_bytes() if path.exists() else b""
        self._points.clear()
        at = 0
        while at + 8 <= len(raw):
            end = at + 8 + int.from_bytes(raw[at : at + 4], "big")
            data = raw[at + 8 : end]
            if end > len(raw) or crc32(data) != int.from_bytes(raw[at + 4 : at + 8], "big"):
                break
            self._apply(*pickle.loads(data))  # our own file, of this test
            at = end
        if at < len(raw):
            os.truncate(path, at)  # a record that a kill has torn would swallow the next one


LINGER = {"journal": 0.002}
"""What a store can take; one with a version a write would be asked for too many."""


def make_sink(url: str) -> Sink:
    scheme = url.partition("://")[0]
    sink: Sink = JournalSink(url) if scheme == "journal" else find(SINKS, scheme)(url)
    sink.max_rows = min(sink.max_rows, 64)  # small writes, so that there is something to come between
    return sink


def contents(sink: Sink) -> Contents:
    """Everything an index says of its points."""
    found: Contents = {}
    for page in sink.ids():
        for point in sink.fetch(page):
            if point.id in found:
                raise Broken(f"{point.id} is in the index twice")
            c = point.chunk
            vector: Any = point.vectors["vector"]
            values = np.asarray(vector.values, np.float32).tobytes()
            found[point.id] = (
                c.uri, c.ordinal, c.text, tuple(c.span), c.page, tuple(c.headings), dict(c.metadata), values
            )  # fmt: skip
    return found


# ---------------------------------------------------------------- the child


@dataclass(frozen=True)
class Job:
    """What a child does, and when it dies."""

    folder: str
    url: str
    source: Source
    moment: str | None = None
    """Kill yourself at this moment (see `faults.wire`), or at any if None."""
    nth: int = 0
    """The how manieth; 0 for never."""

    @property
    def log(self) -> Path:
        return Path(self.folder) / "log"


class LoggingEmbedder(HashingEmbedder):
    """Writes every chunk's id down before it gives it a vector."""

    batch_tokens = 64

    def __init__(self, log: Path) -> None:
        super().__init__(8, workers=2)
        self.log = log

    def embed(self, chunks: Sequence[Chunk]) -> list[Any]:
        note(self.log, "embedded", [chunk.id for chunk in chunks])
        return super().embed(chunks)


def note(log: Path, what: str, ids: Sequence[str]) -> None:
    """One write to a file opened for appending: whole, and in order, whoever is killed when."""
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
    """One run, which logs what it embeds, acknowledges and takes back."""
    # A run as short as these would commit once, at its end: with hardly any linger there are commits to come between.
    setattr(runs, "LINGER", LINGER.get(job.url.partition("://")[0], 0.05))  # noqa: B010
    pipeline = make_pipeline(job)
    ledger = pipeline.ledger
    acknowledge, retract = ledger.acknowledge, ledger.retract

    def acknowledged(entries: Sequence[ChunkEntry], run: int) -> None:
        acknowledge(entries, run)
        note(job.log, "acknowledged", [entry.id.hex() for entry in entries])

    def retracted(document: int, ids: Sequence[bytes]) -> None:
        note(job.log, "retracted", [id.hex() for id in ids])
        retract(document, ids)

    ledger.acknowledge, ledger.retract = acknowledged, retracted  # type: ignore[method-assign]
    fuse = Fuse(job.moment, job.nth, blow=lambda _: os.kill(os.getpid(), signal.SIGKILL))
    wire(pipeline.sink, fuse, SINK_MOMENTS, "sink")
    wire(ledger, fuse, LEDGER_MOMENTS, "ledger")
    report = pipeline.run(allow_mass_delete=True)
    if not report.ok:
        raise Broken(f"the run ended as {report}")


def check_log(log: Path) -> dict[str, int]:
    """Raise if a chunk was embedded after it had been acknowledged, and not taken back since."""
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


# ---------------------------------------------------------------- the parent

MOMENTS = [
    f"{when} {label}.{name}"
    for label, names in (("sink", SINK_MOMENTS), ("ledger", LEDGER_MOMENTS))
    for name in names
    for when in (("before", "half", "after") if name in ("write", "delete") else ("before", "after"))
    if name not in ("record", "reset")  # nothing fails here, and no index is lost
]


@dataclass
class Outcome:
    kills: int = 0
    runs: int = 0
    compared: int = 0
    """How often a run came to its end, and the index was held against an undisturbed one."""
    moved_on: int = 0
    """How often the corpus changed between a kill and the restart."""
    by_clock: int = 0
    points: int = 0
    embedded: int = 0
    again: int = 0
    """Chunks embedded more than once: in flight at a kill, or taken out of the index and put back."""
    seconds: float = 0.0
    moments: dict[str, int] = field(default_factory=dict)


class Chaos:
    def __init__(self, folder: Path, *, sink: str, seed: int, documents: int = 24, feed: bool = False) -> None:
        self._folder = folder
        self._url = f"{sink}://{folder / 'index'}"
        self._rng = random.Random(seed)
        self._corpora = [first_corpus(self._rng, documents)]
        self._feed = FeedSource([], marks=5) if feed else None
        self._script(Corpus(), self._corpora[0])
        self._moments = cycle(self._rng.sample(MOMENTS, len(MOMENTS)))
        self._usual = 1.0
        self.outcome = Outcome()
        # Children come from a server that has everything imported, and runs no threads that a fork would lose.
        method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        self._processes: Any = multiprocessing.get_context(method)
        if method == "forkserver":
            self._processes.set_forkserver_preload(["penstock.testing.chaos", "penstock.parsers.text", "sqlite3"])

    def run(self, kills: int) -> Outcome:
        began = time.monotonic()
        while self.outcome.kills < kills:
            self._change()
            last = min(kills, self.outcome.kills + self._rng.randint(1, 8))
            while self._attempt(deadly=self.outcome.kills < last):
                if self._rng.random() < 0.4:
                    self.outcome.moved_on += 1
                    self._change()
            self._compare()
        self.outcome.seconds = round(time.monotonic() - began, 1)
        return self.outcome

    def _attempt(self, deadly: bool) -> bool:
        """Whether it was killed."""
        turn = self.outcome.runs
        self.outcome.runs += 1
        how: dict[str, Any] = {}
        clock = None
        if deadly:
            match turn % 4:
                case 0 | 1:
                    how = {"moment": next(self._moments), "nth": self._rng.choice((1, 1, 2, 5))}
                case 2:
                    how = {"nth": self._rng.randint(1, 150)}
                case _:
                    clock = self._rng.uniform(0.0, self._usual)
        process = self._processes.Process(target=ingest, args=(self._job(**how),))
        began = time.monotonic()
        process.start()
        process.join(clock or 120)
        if process.is_alive():
            process.kill()
            process.join()
            if clock is None:
                raise Broken(f"a run of {how} hung")
        if process.exitcode == 0:
            self._usual = 0.5 * self._usual + 0.5 * (time.monotonic() - began)
            return False
        if process.exitcode != -signal.SIGKILL:
            raise Broken(f"the child ended with {process.exitcode}")
        self.outcome.kills += 1
        self.outcome.by_clock += clock is not None
        if clock is None:
            moment = how.get("moment", "any")
            self.outcome.moments[moment] = self.outcome.moments.get(moment, 0) + 1
        return True

    def _job(self, moment: str | None = None, nth: int = 0) -> Job:
        source: Source = self._feed or ListSource({u: text.encode() for u, text in self._corpora[-1].items()})
        return Job(str(self._folder), self._url, source, moment, nth)

    def _change(self) -> None:
        """On to a new corpus, or back to the one before."""
        before = self._corpora[-1]
        back = len(self._corpora) > 1 and self._rng.random() < 0.35
        self._corpora.append(self._corpora[-2] if back else next_corpus(before, self._rng))
        self._script(before, self._corpora[-1])

    def _script(self, before: Corpus, after: Corpus) -> None:
        if self._feed is not None:
            told = [document(uri, text.encode()) for uri, text in after.items() if before.get(uri) != text]
            self._feed.script += [*told, *(Delete(uri) for uri in before if uri not in after)]

    def _compare(self) -> None:
        want = undisturbed(self._corpora[-1], self._folder / f"undisturbed-{self.outcome.compared}")
        pipeline = make_pipeline(self._job())
        found = pipeline.verify()
        if not found.ok:
            raise Broken(f"verify says {found}")
        pipeline = make_pipeline(self._job())
        with pipeline.sink as sink:
            manifest = sink.manifest()
            assert manifest is not None
            sink.open(manifest)
            held = contents(sink)
        if held != want:
            wrong = [id for id in held.keys() | want.keys() if held.get(id) != want.get(id)]
            told = [f"{id}: {held.get(id)} instead of {want.get(id)}" for id in wrong[:3]]
            raise Broken(f"{len(wrong)} points differ from those of an undisturbed run: {'; '.join(told)}")
        self.outcome.compared += 1
        self.outcome.points = len(held)
        for name, count in check_log(self._job().log).items():
            setattr(self.outcome, name, count)


def undisturbed(corpus: Corpus, folder: Path) -> Contents:
    """What an index holds that never saw anything but this corpus."""
    folder.mkdir()
    job = Job(str(folder), f"memory://{folder}", ListSource({uri: text.encode() for uri, text in corpus.items()}))
    pipeline = make_pipeline(job)
    pipeline.run()
    try:
        return contents(MemorySink(job.url))
    finally:
        forget(job.url)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m penstock.testing.chaos", description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50, help="how often (50)")
    parser.add_argument("--sink", default="journal", help="journal, lance or sqlite (journal)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed tells the same corpora and moments (0)")
    parser.add_argument("--documents", type=int, default=24, help="in the first corpus (24)")
    parser.add_argument("--feed", action="store_true", help="told as a feed with cursors, not as a listing")
    parser.add_argument("--json", action="store_true", help="the outcome for machines")
    told = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="penstock-chaos-") as folder:
        chaos = Chaos(Path(folder), sink=told.sink, seed=told.seed, documents=told.documents, feed=told.feed)
        try:
            outcome = chaos.run(told.kills)
        except Broken as error:
            print(f"after {chaos.outcome.kills} kills, seed {told.seed}: {error}", file=sys.stderr)
            return 1
    if told.json:
        print(json.dumps(asdict(outcome)))
        return 0
    print(
        f"{outcome.kills} kills in {outcome.runs} runs ({outcome.by_clock} by the clock), {outcome.seconds} s:"
        f" {outcome.compared} indexes equal to undisturbed ones (the last of {outcome.points} points),"
        f" {outcome.embedded} chunks embedded, {outcome.again} of them again, none after its acknowledgement"
    )
    return 0


if __name__ == "__main__":
    from penstock.testing import chaos  # the module that a child process will find under its name

    here: Any = sys.modules["__main__"]
    here.__spec__ = here.__file__ = None  # and no child shall run this one again
    sys.exit(chaos.main())
