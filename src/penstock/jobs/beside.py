"""Commands beside a run that follows its source and holds the ledger: what they ask of it, and what comes of that."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from penstock.core.errors import LockedError
from penstock.engine.progress import COUNTERS, Report
from penstock.jobs import progress_file
from penstock.ledger import Ledger
from penstock.support import scratch

T = TypeVar("T")
SETTLE = 30.0
"""Seconds for which a second look waits for what is worked on, at most."""
BEGINNING = 5.0
"""Seconds until a run that begins has said whether it follows its source, at most."""
ENDING = 60.0
"""Seconds that a run which ends may go on to hold the ledger."""
POLL = 0.1
"""Seconds between two looks whether what was asked for is done."""


class Ended(Exception):
    """The run that was asked has ended."""


def beside(path: Path, alone: Callable[[], T], ask: Callable[[], T]) -> T:
    """Do a job alone; or ask the run for it that follows its source and holds the ledger at that path. LockedError
    where another run holds it."""
    until = time.monotonic() + BEGINNING
    while True:
        try:
            return alone()
        except LockedError:
            note = progress_file.read(path)
            live = note is not None and note.get("live") is not None
            if not live and (note is not None or time.monotonic() >= until):
                raise
        try:
            if live:
                return ask()
            time.sleep(POLL)
        except Ended:
            until = time.monotonic() + ENDING


def is_live(path: Path) -> bool:
    """Whether a run that follows its source holds the ledger."""
    return (progress_file.read(path) or {}).get("live") is not None


def wait(path: Path, done: Callable[[], bool], max_wait: float) -> bool:
    """Wait until it is done; False where that takes too long. Raises Ended where the run ends before."""
    end = time.monotonic() + max_wait
    while not done():
        if not is_live(path):
            if done():
                break
            raise Ended
        if time.monotonic() >= end:
            return False
        time.sleep(POLL)
    return True


def settled(path: Path) -> None:
    """Wait until what was heard of until now is in the index, for a while at most."""
    began, since = time.time(), time.monotonic()

    def through() -> bool:
        note = progress_file.read(path)
        if note is None or not note.get("live") or note["at"] < began:
            return False
        live, oldest = note["live"], note["oldest"]
        if live["watching"] and not live["trouble"] and not live["held"]:
            return bool((live["in_sync"] or 0.0) >= began)
        return oldest is None or oldest < time.monotonic() - since

    wait(path, through, SETTLE)


def report(ledger: Ledger, notice: str, **counts: int) -> Report:
    """The report of what the run has done that was asked for it."""
    counted = ledger.counts()
    return Report(
        run=next((run.id for run in ledger.runs(1)), 0),
        status="done",
        seconds=0.0,
        counts=dict.fromkeys(COUNTERS, 0) | counts,
        failing=counted.failed + counted.open,
        complete=True,
        peak_bytes=0,
        budget=0,
        notices=(notice,),
        accepted=ledger.accepted_documents("open", "failed"),
    )


class Recurring:
    """Differences by what they are about: of those of a second look only such count that the first one has seen too.
    On disk, in bounded memory."""

    def __init__(self) -> None:
        self._seen = scratch.database("CREATE TABLE seen (key TEXT PRIMARY KEY) WITHOUT ROWID")
        self.again = False

    def count(self, kind: str, keys: Iterable[str]) -> int:
        number = 0
        for key in keys:
            key = f"{kind} {key}".encode("utf-8", "surrogateescape").hex()
            if self.again:
                number += bool(self._seen.execute("SELECT 1 FROM seen WHERE key = ?", (key,)).fetchone())
            else:
                self._seen.execute("INSERT OR IGNORE INTO seen VALUES (?)", (key,))
                number += 1
        return number

    def close(self) -> None:
        self._seen.close()


def twice(path: Path, look: Callable[[Callable[[str, Iterable[str]], int]], T], ok: Callable[[T], bool]) -> T:
    """What a look finds, or where that is not all well, what a second one finds again once all that was worked on then
    is through."""
    with closing(Recurring()) as seen:
        found = look(seen.count)
        if ok(found):
            return found
        settled(path)
        seen.again = True
        return look(seen.count)
