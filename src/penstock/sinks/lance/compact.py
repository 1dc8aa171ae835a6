"""Compacts a LanceDB table and indexes its vectors: `python -m penstock.sinks.lance.compact lance://./index`.

A process of its own, since compaction in the one that writes took a gigabyte there. Versions of the last minutes
stay, for a writer that goes on meanwhile; with `--clean` none but the newest does; with `--beside`, for a writer that
goes on for weeks, those of the last seconds.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from penstock.core.errors import SinkError, SinkUnavailable
from penstock.core.pieces import PIECE, SEVERAL
from penstock.core.schema import IndexSchema
from penstock.sinks import rows
from penstock.sinks.lance import table as tables
from penstock.sinks.lance.fields import INDEXES, is_field, kind_of
from penstock.sinks.lance.table import TableFiles, piecemeal, unindexed
from penstock.support.heap import tighten

KEEP = timedelta(minutes=5)
FEW = timedelta(seconds=10)
RACES = 5
"""Tries to put fragments together that others change meanwhile."""
LONG = 2.0
"""Seconds after which a try that was lost is not repeated: the next would be lost as well."""
PACE = 50_000
"""Rows in a second that compaction gets done, about. Beside deletions and updates that come sooner it would lose its
work to them; and what it wrote would stay on the disk, as LanceDB keeps unknown files for seven days."""
PART = 1 << 14
"""Rows in a part of an ANN index. It is LanceDB's own number: an index that was given a number of parts is built anew
by the next `optimize`, with parts of this size."""
LIMITS = {"LANCE_DEFAULT_IO_BUFFER_SIZE": 64 << 20, "LANCE_DEFAULT_BATCH_SIZE": PIECE // SEVERAL}
"""LanceDB's settings for rows of many vectors: it reads ahead 2 GB by itself, and 8,192 rows at once."""
NOW = timedelta(milliseconds=1)
"""Keeps the newest version only. At 0 LanceDB warns that reads of others fail; those of Penstock are repeated."""


def compact(url: str, *, clean: bool = False, keep: timedelta = KEEP) -> None:
    """`clean` removes what only older versions need: nobody may be writing then."""
    files = TableFiles(url)
    if (manifest := files.manifest()) is None:
        raise SinkError(f"there is no index at {url}")
    with alone(files) as first:
        if not first:
            return
        table = files.connect().open_table(files.name)
        _optimize(url, table, keep)
        for column in unindexed(table, manifest.schema) + piecemeal(table):
            try:
                table.create_index(column, config=_index_of(column, table, manifest.schema))
            except (RuntimeError, ValueError) as error:  # one that cannot be is no reason to leave out the others
                print(f"{column}: {error}", file=sys.stderr)
        if clean:
            table.optimize(cleanup_older_than=NOW)


def limit_memory(url: str) -> None:
    """Set LIMITS in this process, where the index needs them; called before LanceDB is loaded."""
    manifest = TableFiles(url).manifest()
    if manifest and any(spec.kind == "MultiVector" for spec in manifest.schema.vectors.values()):
        for name, value in LIMITS.items():
            os.environ.setdefault(name, str(value))


def _optimize(url: str, table: Any, keep: timedelta) -> None:
    for left in reversed(range(RACES)):
        began = time.monotonic()
        try:
            with tables.errors(url):
                table.optimize(cleanup_older_than=keep)
            return
        except SinkUnavailable:  # a race was lost
            if not left or time.monotonic() - began > LONG:
                raise


def _index_of(column: str, table: Any, schema: IndexSchema) -> Any:
    from lancedb import index

    if column == "id":
        return index.BTree()
    if column == tables.TEXT:
        return tables.words_index()
    if is_field(column):
        return getattr(index, INDEXES[kind_of(column)])()
    space = next(space for name, space in schema.vectors.items() if rows.vector_column(name) == column)
    # A bit a dimension tells well enough which few to compare exactly, and is read in no time.
    kind = index.IvfSq if space.dim % 8 else index.IvfRq
    return kind(distance_type=space.metric, target_partition_size=PART, max_iterations=10)


@contextmanager
def alone(files: TableFiles) -> Iterator[bool]:
    """Whether no other process compacts this table; the system drops the lock with the process."""
    try:
        import fcntl

        from penstock.support.locks import open_lock
    except ImportError:  # Windows: LanceDB itself refuses the second of two that conflict
        yield True
        return
    with os.fdopen(open_lock(files.folder / f".{files.name}.compacting"), "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


class Compactor:
    """Runs this module in a process of its own, at most one at a time, when there is enough to gain."""

    def __init__(self, url: str, rows: int) -> None:
        self._url = url
        self._process: subprocess.Popen[bytes] | None = None
        self._beside = False
        self.ran = False
        """It has compacted since old versions were removed."""
        self._rows, self._fresh, self._writes = rows, 0, 0
        self._changes, self._since = 0, time.monotonic()
        """Deletions and updates, and since when they are counted."""
        self._lock = threading.Lock()

    def wrote(self, count: int, *, updated: bool = False) -> None:
        with self._lock:
            self._changes += updated
            self._writes, self._fresh = self._writes + 1, self._fresh + count
            # Compaction rewrites the table: doing it as the table grows by half keeps its cost in proportion.
            due = self._writes >= tables.FRAGMENTS and self._fresh * 2 >= self._rows
            if due and not self._running() and not self._outpaced():
                self._start()

    def deleted(self) -> None:
        """Note a deletion: to one, compaction beside it may lose its work."""
        with self._lock:
            self._changes += 1

    def wait(self) -> None:
        with self._lock:
            self._wait()

    def stop(self) -> None:
        """Wait for it; what runs beside a run that goes on, which is to stop soon, is given up. That harms nothing."""
        with self._lock:
            if self._process is not None and self._beside:
                self._process.terminate()
            self._wait()

    def begin(self, count: int) -> bool:
        """Begin to compact so many rows, and to remove what only versions need that are older than some seconds, beside
        those who write. Gives whether that is of use: the last time it may have lost one race after the other, or rows
        be changed too often."""
        with self._lock:
            if self._running():
                return True
            if self._process is not None and self._process.returncode:
                return False
            self._rows, self._fresh = count, 0
            if self._outpaced():
                return False
            self._start("--beside")
            self._beside = True
            return True

    def _outpaced(self) -> bool:
        """Rows are changed more often than the table can be compacted."""
        return self._changes * (self._rows + self._fresh) > PACE * (time.monotonic() - self._since)

    def clean(self) -> None:
        """Compact, and remove what only older versions need, while nobody writes. Readers read again."""
        with self._lock:
            self._wait()
            self._start("--clean")
            self._wait()
            self.ran = False

    def _running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _start(self, *options: str) -> None:
        self._rows, self._fresh, self._writes, self.ran = self._rows + self._fresh, 0, 0, True
        self._changes, self._since, self._beside = 0, time.monotonic(), False
        command = [sys.executable, "-m", "penstock.sinks.lance.compact", self._url, *options]
        # A session of its own: Ctrl-C is for the run, which waits for this one and is done.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _wait(self) -> None:
        # A failed compaction harms nothing: the table is as before, and the next run compacts again.
        if self._process is not None:
            self._process.wait()
            self._process = None


if __name__ == "__main__":
    beside = "--beside" in sys.argv[2:]
    if beside:
        os.nice(10)  # what is written and searched meanwhile comes first
    limit_memory(sys.argv[1])
    tighten()
    compact(sys.argv[1], clean="--clean" in sys.argv[2:], keep=FEW if beside else KEEP)
