"""The parent: starts children, has them killed, changes the corpus, and compares the index of each complete run."""

from __future__ import annotations

import multiprocessing
import random
import signal
import time
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

from penstock.core.contracts import Source
from penstock.core.records import Delete
from penstock.sinks.memory import MemorySink, forget
from penstock.testing.chaos.child import Job, check_log, ingest, make_pipeline
from penstock.testing.chaos.corpus import Corpus, first_corpus, next_corpus
from penstock.testing.chaos.journal import Broken, Contents, contents
from penstock.testing.faults import LEDGER_MOMENTS, SINK_MOMENTS
from penstock.testing.sources import FeedSource, ListSource, document

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
    """Complete runs, whose index was compared with an undisturbed one."""
    moved_on: int = 0
    """Changes of the corpus between a kill and the restart."""
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
        # The fork server has everything imported, and runs no threads that a fork would lose.
        method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        self._processes: Any = multiprocessing.get_context(method)
        if method == "forkserver":
            self._processes.set_forkserver_preload(["penstock.testing.chaos.child", "penstock.parsers.text", "sqlite3"])

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
        """Run a child. True if it was killed."""
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
        """Change to a new corpus, or back to the previous one."""
        before = self._corpora[-1]
        back = len(self._corpora) > 1 and self._rng.random() < 0.35
        self._corpora.append(self._corpora[-2] if back else next_corpus(before, self._rng))
        self._script(before, self._corpora[-1])

    def _script(self, before: Corpus, after: Corpus) -> None:
        if self._feed is not None:
            upserts = [document(uri, text.encode()) for uri, text in after.items() if before.get(uri) != text]
            self._feed.script += [*upserts, *(Delete(uri) for uri in before if uri not in after)]

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
            examples = [f"{id}: {held.get(id)} instead of {want.get(id)}" for id in wrong[:3]]
            raise Broken(f"{len(wrong)} points differ from those of an undisturbed run: {'; '.join(examples)}")
        self.outcome.compared += 1
        self.outcome.points = len(held)
        for name, count in check_log(self._job().log).items():
            setattr(self.outcome, name, count)


def undisturbed(corpus: Corpus, folder: Path) -> Contents:
    """The contents of a new index of this corpus."""
    folder.mkdir()
    job = Job(str(folder), f"memory://{folder}", ListSource({uri: text.encode() for uri, text in corpus.items()}))
    pipeline = make_pipeline(job)
    pipeline.run()
    try:
        return contents(MemorySink(job.url))
    finally:
        forget(job.url)
