"""Compacts a LanceDB table and indexes its vectors: `python -m penstock.sinks.lance_compact lance://./index`.

A process of its own, since compaction in the one that writes took a gigabyte there. Versions of the last minutes
stay, for those who read them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from penstock.errors import SinkError
from penstock.records import VECTOR, Space
from penstock.sinks.lance import FRAGMENTS, _Place

INDEX_ROWS = 100_000
"""Below, comparing with every vector is quick enough and exact."""
KEEP = timedelta(minutes=5)


def compact(url: str) -> None:
    place = _Place(url)
    if (manifest := place.manifest()) is None:
        raise SinkError(f"there is no index at {url}")
    with _alone(place) as alone:
        if not alone:
            return
        table = place.connect().open_table(place.table)
        fragments = table.stats()["fragment_stats"]["num_fragments"]
        if fragments > FRAGMENTS or _stale(table):
            table.optimize(cleanup_older_than=KEEP)
        _index(table, manifest.space)


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


def _stale(table: Any) -> bool:
    """Whether rows came after the vectors were indexed in such numbers that a search feels them."""
    for index in table.list_indices():
        stats = table.index_stats(index.name)
        if stats and stats.num_unindexed_rows > INDEX_ROWS // 4:
            return True
    return False


def _index(table: Any, space: Space) -> None:
    if space.kind != "Dense" or table.list_indices() or table.count_rows() < INDEX_ROWS:
        return
    from lancedb.index import IvfSq

    table.create_index(vector_column_name=VECTOR, config=IvfSq(distance_type=space.metric))


if __name__ == "__main__":
    if hasattr(os, "nice"):
        os.nice(10)
    compact(sys.argv[1])
