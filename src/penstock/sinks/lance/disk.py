"""Beside a LanceDB table: which ids it may hold, and which of its files are on the disk for good."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import blake2b
from itertools import islice
from pathlib import Path

from penstock.sinks.lance.table import PAGE
from penstock.support import durable

AT_ONCE = 8
"""Files that are synced at once."""


class KnownIds:
    """Which ids may be in the table, in 8 MB (a Bloom filter): those that are not are appended and need no merge.

    A merge reads all ids of the table, which takes time and memory in proportion to it. With tens of millions of
    ids the filter says `maybe` to all, and every batch is merged.
    """

    def __init__(self, ids: Iterable[str]) -> None:
        import numpy as np

        self._bits = np.zeros(1 << 23, np.uint8)
        pages = iter(ids)
        while page := list(islice(pages, PAGE)):
            self.among(page)

    def among(self, ids: Sequence[str]) -> list[str]:
        """Which of these may be in the table already; from now on all of them are."""
        import numpy as np

        digests = b"".join(blake2b(id.encode(), digest_size=16).digest() for id in ids)
        positions = np.frombuffer(digests, np.uint32).reshape(-1, 4) & np.uint32((1 << 26) - 1)
        bits = np.left_shift(1, positions & 7).astype(np.uint8)
        known = (self._bits[positions >> 3] & bits) != 0
        np.bitwise_or.at(self._bits, positions >> 3, bits)
        return [ids[row] for row in np.flatnonzero(known.all(axis=1)).tolist()]


class Disk:
    """Syncs what LanceDB wrote since the last time. Its files are never written twice, so a name tells all."""

    def __init__(self, database: Path, data: Path) -> None:
        self._database, self._data = database, data
        self._synced: set[str] = set()
        self._lock = threading.Lock()

    def sync(self) -> None:
        with self._lock:
            present, folders = set(), [str(self._database)]
            for folder, _, names in os.walk(self._data):
                paths = {os.path.join(folder, name) for name in names}
                present |= paths
                if paths - self._synced:
                    folders.append(folder)
            # Many at once, as a file system then writes its journal once for all of them: 40 files in 3 ms and not 30.
            with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="sync") as threads:
                for some in (sorted(present - self._synced), folders):
                    for _ in threads.map(_sync, some):
                        pass
            self._synced = present


def _sync(path: str) -> None:
    with suppress(FileNotFoundError):  # compaction removed it meanwhile: no version needs it any more
        durable.sync(path)
