"""Exact search among the few rows that pass a filter.

Their vectors lie apart in the table and take a hundred milliseconds to read, so they are kept for the next search with
the same filter, as those of one department or tenant are: while the table is of the same version, up to KEPT bytes.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

from penstock.core.records import Hit
from penstock.sinks import rows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_ROWS = 20_000
KEPT = 64 << 20
LARGEST = KEPT // 2
ENTRY = 64 << 10
"""Bytes that a filter counts for at least, so that there are a thousand at most."""
BATCH = 65_536
"""Rows that are read at once: LanceDB's own 1,024 take five times as long."""


def few(passing: int, dim: int) -> bool:
    """Whether so many vectors are compared one by one rather than looked for by the ANN index."""
    return passing <= MOST_ROWS and passing * dim * 4 <= LARGEST


class _Vectors(NamedTuple):
    row_ids: NDArray[np.int64]
    ids: list[str]
    values: NDArray[np.float32]
    """Of length 1 where the metric is cosine."""


class Candidates:
    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], _Vectors] = OrderedDict()
        self._version, self._bytes = 0, 0
        self._lock = threading.Lock()

    def nearest(self, table: Any, condition: str, column: str, metric: str, query: Any, k: int) -> list[Hit]:
        """The k nearest of the rows that meet the condition. Raises RuntimeError, as LanceDB does of files that are
        gone, where the table becomes another version meanwhile."""
        import numpy as np

        found = self._vectors(table, condition, column, metric)
        if not found.ids:
            return []
        query = np.asarray(query, np.float32)
        if metric == "cosine":
            query = query / (np.linalg.norm(query) or 1)
        if metric == "l2":
            scores = -((found.values - query) ** 2).sum(axis=1)
        else:
            scores = found.values @ query
        best = np.argpartition(-scores, k - 1)[:k] if k < len(scores) else np.arange(len(scores))
        best = best[np.argsort(-scores[best], kind="stable")]
        taken = table.take_row_ids(found.row_ids[best].tolist()).select(list(rows.COLUMNS)).to_arrow()
        chunks = {chunk.id: chunk for batch in taken.to_batches() for chunk in rows.chunks(batch)}
        try:
            return [Hit(float(scores[i]), chunks[found.ids[i]]) for i in best.tolist()]
        except KeyError:
            raise RuntimeError("row not found: the table has become another version") from None

    def _vectors(self, table: Any, condition: str, column: str, metric: str) -> _Vectors:
        version, key = table.version, (condition, column)
        with self._lock:
            if version == self._version and (found := self._kept.get(key)):
                self._kept.move_to_end(key)
                return found
        found = _read(table, condition, column, metric)
        with self._lock:
            if version != self._version:
                self._kept.clear()
                self._version, self._bytes = version, 0
            if key not in self._kept:
                self._kept[key] = found
                self._bytes += _size(key, found)
            while self._bytes > KEPT:
                self._bytes -= _size(*self._kept.popitem(last=False))
        return found


def _size(key: tuple[str, str], found: _Vectors) -> int:
    return len(key[0]) + int(found.values.nbytes) + 100 * len(found.ids) + ENTRY


def _read(table: Any, condition: str, column: str, metric: str) -> _Vectors:
    import numpy as np
    import pyarrow as pa

    query = table.search().where(condition).with_row_id(True).select(["id", column])
    batches = [batch for batch in query.to_batches(BATCH) if batch.num_rows]
    if not batches:
        return _Vectors(np.empty(0, np.int64), [], np.empty((0, 1), np.float32))
    whole = pa.Table.from_batches(batches)
    ids = whole.column("id").to_pylist()
    flat = whole.column(column).combine_chunks().flatten().to_numpy(zero_copy_only=False)
    values = flat.reshape(len(ids), -1)
    if metric == "cosine":
        lengths = np.linalg.norm(values, axis=1, keepdims=True)
        values = values / np.where(lengths == 0, 1, lengths)
    return _Vectors(whole.column("_rowid").to_numpy().astype(np.int64), ids, values)
