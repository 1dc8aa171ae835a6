"""The images in Parquet files, by the names that `parquet://` gives to their rows."""

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

    Places = tuple[NDArray[np.int64], NDArray[np.int64]]
    """Hashes of the rows' names, in order, and the rows' numbers."""

_ENDINGS = tuple(f".{ending}" for ending in Rows.endings)
KNOWN = 4 << 20
"""Rows whose places are kept at hand, 16 bytes each. A file of more shows none that have a key."""
GROUP = 2 << 30
"""Bytes of images in a row group: it is read up to the row."""


def row_of(path: str) -> tuple[str, str] | None:
    """The Parquet file that a uri's path leads into, and the row's name as it stands there, quoted."""
    at = 0
    while (at := path.find("/", at + 1)) >= 0:
        file = os.fsdecode(unquote_to_bytes(path[:at]))
        if file.lower().endswith(_ENDINGS) and os.path.isfile(file):
            return file, path[at + 1 :]
    return None


class Tables:
    """For threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[str, Places] = OrderedDict()
        """The most recent files'."""

    def image(self, stamp: str, file: Callable[[], BinaryIO], name: str, good: Callable[[bytes], bool]) -> bytes:
        """What `parquet://` finds in the row of that name, whichever columns it was told: the first image that is
        good. SourceError if none is. `stamp` says which version of which file it is."""
        with opened(file) as stream:
            table = ParquetTable(stream)
            columns = [*among(IMAGES, table.fields, BYTES), *(c for c, kind in table.fields.items() if kind == BYTES)]
            for row in self._rows(stamp, table, name):
                for column in dict.fromkeys(columns):
                    with suppress(Exception):  # pyarrow raises what it likes; another column may be read
                        if (image := table.image(column, row, GROUP)) is not None and good(image):
                            return image
            raise SourceError("there is no such row, or no such image in it")

    def _rows(self, stamp: str, table: ParquetTable, name: str) -> Iterator[int]:
        """That may have this name: by its key, and by its number, as where `?key=` said that there is none."""
        if (key := key_of(table.fields)) is not None and (row := self._place(stamp, table, key, name)) is not None:
            yield row
        if (number := _number(name)) is not None:
            yield number

    def _place(self, stamp: str, table: ParquetTable, key: str, name: str) -> int | None:
        import numpy as np

        if table.count > KNOWN:
            raise SourceError(f"it has more than {KNOWN:,} rows")
        with self._lock:  # held while it is read: who asks for the same one meanwhile need not read it, too
            found = self._known.pop(stamp, None) or _places(table, key)
            self._known[stamp] = found
            while sum(len(hashes) for hashes, _ in self._known.values()) > KNOWN:
                self._known.popitem(last=False)
        hashes, rows = found
        wanted = hash(name)
        at = int(np.searchsorted(hashes, wanted))
        return int(rows[at]) if at < len(hashes) and hashes[at] == wanted else None


def _number(name: str) -> int | None:
    return int(name) if name.isascii() and name.isdecimal() and len(name) < 16 and name == str(int(name)) else None


def _places(table: ParquetTable, key: str) -> Places:
    import numpy as np

    told = (
        (hash(quoted(str(value))), row.number)
        for row in table.rows([key])
        if row.values is not None and (value := row.values[key]) not in (None, "")
    )
    pairs = np.fromiter(told, dtype=np.dtype((np.int64, 2)))
    order = np.argsort(pairs[:, 0], kind="stable")  # of one key twice, the first row has it
    return pairs[order, 0], pairs[order, 1]
