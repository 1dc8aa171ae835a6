"""Images in Parquet files, found by the names that `parquet://` has for their rows."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import unquote_to_bytes

from penstock.core.errors import SourceError
from penstock.sources.cells import BYTES, ParquetTable, opened
from penstock.sources.columns import IMAGES, among, key_of
from penstock.sources.rows import Rows, quoted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    KeyIndex = tuple[NDArray[np.int64], NDArray[np.int64]]
    """Sorted hashes of the rows' keys, and the rows' numbers."""

_ENDINGS = tuple(f".{ending}" for ending in Rows.endings)
MAX_KEYS = 4 << 20
"""Rows whose keys are kept in memory, 16 bytes each. In a file with more rows none is found by its key."""
MAX_GROUP = 2 << 30
"""Bytes of images in a row group: it is read up to the row."""


def row_of(path: str) -> tuple[str, str] | None:
    """The Parquet file that a uri's path leads into, and the row's name, quoted as it is there."""
    at = 0
    while (at := path.find("/", at + 1)) >= 0:
        file = os.fsdecode(unquote_to_bytes(path[:at]))
        if file.lower().endswith(_ENDINGS) and os.path.isfile(file):
            return file, path[at + 1 :]
    return None


class ParquetImages:
    """Thread-safe; remembers the keys of the most recent files."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._keys: OrderedDict[str, KeyIndex] = OrderedDict()

    def image(self, version: str, file: Callable[[], BinaryIO], name: str, accept: Callable[[bytes], bool]) -> bytes:
        """Return the first accepted image in the row of that name, whichever column `parquet://` reads.

        `version` names the file and its version. Raises SourceError where there is no such row or image.
        """
        with opened(file) as stream:
            table = ParquetTable(stream)
            columns = [*among(IMAGES, table.fields, BYTES), *(c for c, kind in table.fields.items() if kind == BYTES)]
            for row in self._rows(version, table, name):
                for column in dict.fromkeys(columns):
                    with suppress(Exception):  # pyarrow raises what it likes; another column may be readable
                        if (image := table.image(column, row, MAX_GROUP)) is not None and accept(image):
                            return image
            raise SourceError("no such row, or no such image in it")

    def _rows(self, version: str, table: ParquetTable, name: str) -> Iterator[int]:
        """Rows that may have this name: by key, and by number (as where the source is given `?key=`)."""
        if (key := key_of(table.fields)) is not None and (row := self._row(version, table, key, name)) is not None:
            yield row
        if (number := _number(name)) is not None:
            yield number

    def _row(self, version: str, table: ParquetTable, key: str, name: str) -> int | None:
        import numpy as np

        if table.count > MAX_KEYS:
            raise SourceError(f"the file has more than {MAX_KEYS:,} rows")
        with self._lock:  # held while keys are read: others who want the same file's need not read them, too
            index = self._keys.pop(version, None) or _read_keys(table, key)
            self._keys[version] = index
            while sum(len(hashes) for hashes, _ in self._keys.values()) > MAX_KEYS:
                self._keys.popitem(last=False)
        hashes, rows = index
        name_hash = hash(name)
        at = int(np.searchsorted(hashes, name_hash))
        return int(rows[at]) if at < len(hashes) and hashes[at] == name_hash else None


def _number(name: str) -> int | None:
    return int(name) if name.isascii() and name.isdecimal() and len(name) < 16 and name == str(int(name)) else None


def _read_keys(table: ParquetTable, key: str) -> KeyIndex:
    import numpy as np

    hashed = (
        (hash(quoted(str(value))), row.number)
        for row in table.rows([key])
        if row.values is not None and (value := row.values[key]) not in (None, "")
    )
    pairs = np.fromiter(hashed, dtype=np.dtype((np.int64, 2)))
    order = np.argsort(pairs[:, 0], kind="stable")  # where a key occurs twice, its first row counts
    return pairs[order, 0], pairs[order, 1]
