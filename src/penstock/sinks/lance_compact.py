"""Compacts a LanceDB table and indexes its vectors: `python -m penstock.sinks.lance_compact lance://./index`.

A process of its own, since compaction in the one that writes took a gigabyte there. Versions of the last minutes
stay, for a writer that goes on meanwhile; with `--clean` none but the newest does.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from penstock.core.errors import SinkError
from penstock.sinks import rows
from penstock.sinks.lance import _Place, crowded, unindexed

KEEP = timedelta(minutes=5)
NOW = timedelta(milliseconds=1)
"""What keeps the newest version only: of nothing at all LanceDB warns, since others' reads fail. Ours read again."""


def compact(url: str, *, clean: bool = False) -> None:
    """`clean` removes what only older versions need, which nobody may be writing to then."""
    place = _Place(url)
    if (manifest := place.manifest()) is None:
        raise SinkError(f"there is no index at {url}")
    with _alone(place) as alone:
        if not alone:
            return
        table = place.connect().open_table(place.table)
        if clean or crowded(table):
            table.optimize(cleanup_older_than=KEEP)
        for name in unindexed(table, manifest.schema):
            from lancedb.index import IvfRq, IvfSq

            space = manifest.schema.vectors[name]
            # A bit a dimension tells well enough which few to compare exactly, and is read in no time.
            kind = IvfSq if space.dim % 8 else IvfRq
            # As many parts as each then has rows: half as many rows are looked at as in parts of LanceDB's own size.
            parts = math.isqrt(table.count_rows())
            how = kind(distance_type=space.metric, num_partitions=parts, max_iterations=10)
            table.create_index(rows.vector_column(name), config=how)
        if clean:
            table.optimize(cleanup_older_than=NOW)


@contextmanager
def _alone(place: _Place) -> Iterator[bool]:
    """Whether no other process compacts this table; the system drops the lock with the process."""
    with open(place.folder / f".{place.table}.compacting", "wb") as file:
        try:
            import fcntl
        except ImportError:  # Windows: LanceDB itself refuses the second of two that conflict
            yield True
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


if __name__ == "__main__":
    compact(sys.argv[1], clean="--clean" in sys.argv[2:])
