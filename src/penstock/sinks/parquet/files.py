"""The files of `parquet://`: which of their rows count, and a part being written.

part-00000007.parquet    rows, in the order they were written
part-00000007.gone       JSON: the deleted ids, each with the number of rows that part 7 had by then
_penstock.json           the manifest
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

from penstock.core.errors import SinkError
from penstock.support import durable

if TYPE_CHECKING:
    import pyarrow as pa

PART_ROWS = 50_000
PART_BYTES = 64 << 20
SMALL_PARTS = 16
"""More parts than that of less than half the size are put together."""
IDS_HELD = 2_000_000
"""Ids whose hashes and rows are held in memory, 12 bytes each, to find ids without reading all of them again."""
IDS_AT_ONCE = 100_000
"""Ids written several times, or deleted, that are compared at once to find the rows that count: a bound of memory."""


class Folder:
    """The files, and which of their rows count."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[list[str], dict[str, Any]] | None = None
        self._hashes: dict[str, tuple[Any, Any]] = {}
        """By part: the hashes of its ids, in order, and the row of each. Of the parts read last, IDS_HELD in all."""

    def names(self, ending: str) -> list[str]:
        return sorted(name for name in os.listdir(self.path) if name.startswith("part-") and name.endswith(ending))

    def next_number(self) -> int:
        return max((int(name[5:13]) for name in os.listdir(self.path) if name.startswith("part-")), default=0) + 1

    def open(self, name: str) -> Any:
        import pyarrow.parquet as pq

        return pq.ParquetFile(self.path / name)

    def gone(self, name: str) -> dict[str, int]:
        note: dict[str, int] = json.loads((self.path / name).read_bytes())
        return note

    def live(self) -> dict[str, Any]:
        """By part: a mask of the rows that count. Files never change, so their names tell whether it still holds."""
        import numpy as np

        parts, notes = self.names(".parquet"), self.names(".gone")
        if self._seen is not None and self._seen[0] == parts + notes:
            return self._seen[1]
        rows = {}
        for name in parts:
            with self.open(name) as file:
                rows[name] = file.metadata.num_rows
        unsure = self._repeated(rows, notes)
        masks = {name: ~mask for name, mask in unsure.items()}
        passes = sum(int(mask.sum()) for mask in unsure.values()) // IDS_AT_ONCE + 1
        for turn in range(passes):
            newest: dict[str, tuple[str, int]] = {}
            for stem in sorted({name[:13] for name in parts + notes}):
                if (name := f"{stem}.parquet") in unsure:
                    tables = self.tables(name, unsure[name], ["id"])
                    ids = (id for table in tables for id in table.column("id").to_pylist())
                    for position, id in zip(np.flatnonzero(unsure[name]).tolist(), ids, strict=True):
                        if passes == 1 or crc32(id.encode()) % passes == turn:
                            newest[id] = name, position
                if f"{stem}.gone" in notes:
                    for id, before in self.gone(f"{stem}.gone").items():
                        if id in newest and newest[id] < (f"{stem}.parquet", before):
                            del newest[id]
            for name, position in newest.values():
                masks[name][position] = True
        self._seen = parts + notes, masks
        self._hashes = {name: held for name, held in self._hashes.items() if name in masks}
        return masks

    def _repeated(self, rows: Mapping[str, int], notes: Sequence[str]) -> dict[str, Any]:
        """By part: a mask of the rows of which another one, or a note of deletions, may have the id, by its hash.
        All others count."""
        import numpy as np

        masks = {name: np.zeros(number, dtype=bool) for name, number in rows.items()}
        noted = np.fromiter((hash(id) for name in notes for id in self.gone(name)), np.int64)
        passes = sum(rows.values()) // IDS_HELD + 1
        for turn in range(passes):
            read = []
            for name in rows:
                hashes, positions = self._hashed(name)
                chosen = slice(None) if passes == 1 else hashes % passes == turn
                read.append((name, hashes[chosen], positions[chosen]))
            every = np.sort(np.concatenate([hashes for _, hashes, _ in read])) if read else noted[:0]
            repeated = np.union1d(every[1:][every[1:] == every[:-1]], noted)
            for name, hashes, positions in read:
                masks[name][positions[np.isin(hashes, repeated)]] = True
        return masks

    def among(self, name: str, ids: Sequence[str]) -> Any:
        """A mask of the part's rows that may have these ids: by their hashes, so the ids have to be compared."""
        import numpy as np

        hashes, positions = self._hashed(name)
        wanted = np.fromiter(map(hash, ids), np.int64, len(ids))
        starts, ends = np.searchsorted(hashes, wanted, "left"), np.searchsorted(hashes, wanted, "right")
        mask = np.zeros(len(hashes), dtype=bool)
        for n in np.flatnonzero(starts < ends):
            mask[positions[starts[n] : ends[n]]] = True
        return mask

    def _hashed(self, name: str) -> tuple[Any, Any]:
        import numpy as np

        if (held := self._hashes.pop(name, None)) is None:
            hashes = np.fromiter(map(hash, self._ids(name)), np.int64)
            positions = np.argsort(hashes, kind="stable").astype(np.int32)
            held = hashes[positions], positions
        self._hashes[name] = held
        while len(self._hashes) > 1 and sum(len(positions) for _, positions in self._hashes.values()) > IDS_HELD:
            del self._hashes[next(iter(self._hashes))]
        return held

    def _ids(self, name: str) -> Iterator[str]:
        with self.open(name) as file:
            for batch in file.iter_batches(columns=["id"]):
                yield from batch.column("id").to_pylist()

    def tables(self, name: str, mask: Any, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Read the rows of a part that the mask marks, one row group at a time; other groups are not read."""
        end = 0
        with self.open(name) as file:
            for group in range(file.num_row_groups):
                start, end = end, end + file.metadata.row_group(group).num_rows
                kept = mask[start:end]
                if kept.any():
                    table = file.read_row_group(group, columns=columns)
                    yield table if kept.all() else table.filter(kept)


class Part:
    """A part being written: row groups go to disk as they come, and it gets its name once it is whole."""

    def __init__(self, folder: Path, number: int, schema: pa.Schema) -> None:
        import pyarrow.parquet as pq

        self.path = folder / f"part-{number:08}.parquet"
        self.rows = 0
        self.gone: dict[str, int] = {}
        self.sealed = False
        """It takes no more rows: `finish` was called, and has to be called again if it failed."""
        self._broken = self._named = False
        self._temporary = folder / f".{self.path.name}.tmp"
        self._file = open(self._temporary, "wb")  # noqa: SIM115 - closed by finish or drop
        self._writer = pq.ParquetWriter(self._file, schema, compression="zstd", use_dictionary=["uri", "headings"])

    def write(self, rows: pa.Table | pa.RecordBatch) -> None:
        self._broken = True  # until the row group is whole
        self._writer.write(rows)
        self._broken = False
        self.rows += len(rows)

    @property
    def full(self) -> bool:
        return self.rows >= PART_ROWS or len(self.gone) >= PART_ROWS or self._file.tell() >= PART_BYTES

    def finish(self) -> None:
        """Make the part durable: rows first, then the note of deletions, so that nothing is missing in between.

        Where it fails, call it again: it goes on with the step that failed.
        """
        self.sealed = True
        if self._broken:
            raise SinkError(f"{self.path} could not be written to the end: its rows have to be written again")
        if not self._file.closed:
            self._broken = True
            self._writer.close()
            self._file.flush()
            os.fsync(self._file.fileno())
            self._broken = False
            self._file.close()
        if not self._named and self.rows:
            try:
                os.replace(self._temporary, self.path)
            except FileNotFoundError as error:
                raise SinkError(f"{self._temporary} was removed while it was written: its rows are lost") from error
        elif not self._named:
            self._temporary.unlink(missing_ok=True)
        self._named = True
        if self.rows:
            durable.sync(self.path.parent)
        if self.gone:
            durable.replace(self.path.with_suffix(".gone"), json.dumps(self.gone).encode())

    def drop(self) -> None:
        with suppress(OSError, ValueError):  # it may have failed before, and the file is removed
            self._writer.close()
        self._file.close()
        self._temporary.unlink(missing_ok=True)
