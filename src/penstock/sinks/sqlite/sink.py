"""Fills a SQLite file."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import count

from penstock.core.contracts import Sink
from penstock.core.errors import SinkError, SinkUnavailable
from penstock.core.precision import PRECISIONS
from penstock.core.records import Dense, MultiVector, Point
from penstock.core.retry import out_of_space
from penstock.core.schema import Manifest
from penstock.sinks import manifests, rows
from penstock.sinks.sqlite import full_text, tokens
from penstock.sinks.sqlite.file import (
    BUSY,
    COLUMNS,
    PAGE,
    File,
    SqliteStore,
    keys_of,
    marks,
    tokens_table,
    vectors_table,
)
from penstock.support.vacuum import vacuum

METRICS = {"Dense": ("cosine", "l2"), "MultiVector": ("cosine", "dot")}
"""Those of sqlite-vec, and of MaxSim."""
BLOCK = 1024
"""Vectors that sqlite-vec keeps together."""
CHECKPOINT = 1000
"""Milliseconds for which readers are waited for at the end."""
TEXT = rows.COLUMNS.index("text")
FEW_BLOCKS = 4
"""So few of them may be half empty."""

_SCHEMA = """
CREATE TABLE chunks ("key" INTEGER PRIMARY KEY, "id" TEXT NOT NULL UNIQUE, "uri" TEXT NOT NULL,
    "ordinal" INTEGER NOT NULL, "text" TEXT NOT NULL, "start" INTEGER NOT NULL, "end" INTEGER NOT NULL,
    "page" INTEGER, "headings" TEXT NOT NULL, "metadata" TEXT NOT NULL, "image" BLOB);
CREATE INDEX chunks_uri ON chunks(uri);
CREATE TABLE meta (manifest TEXT NOT NULL);
"""


class SqliteSink(SqliteStore, Sink):
    """One file: `sqlite://./notes.db`. Any number of processes read while one writes."""

    accepts = frozenset({Dense, MultiVector})
    precisions = frozenset(PRECISIONS)
    named = True
    max_rows = 1024

    def manifest(self) -> Manifest | None:
        return self._kept()

    def drop(self) -> None:
        self.close()
        if self._path.exists() and self.manifest() is None:
            raise SinkError(f"{self._url} is a database that is not Penstock's, so it is not removed")
        for path in (self._path, *(self._path.with_name(f"{self._path.name}-{end}") for end in ("wal", "shm"))):
            path.unlink(missing_ok=True)

    def open(self, manifest: Manifest) -> None:
        kept = self.manifest()
        manifests.admit(self, kept, manifest, METRICS)
        manifests.make_folder(self._path.parent, self._url)
        file = File(self._path, self._url, readonly=False)
        try:
            if kept is None:
                kept = self._create(file, manifest)
            self._log_ahead(file)
            file.all("PRAGMA synchronous = FULL")
        except BaseException:
            file.close()
            raise
        self._hold(file, kept.schema)

    def _create(self, file: File, manifest: Manifest) -> Manifest:
        """Create the tables, unless another run was first; return the manifest that was kept."""
        with file.transaction():
            if file.all("SELECT 1 FROM sqlite_master WHERE name = 'meta'"):
                kept = self._manifest_in(file)
                manifests.check_schema(kept.schema, manifest.schema, self._url)
                return kept
            if file.all("SELECT 1 FROM sqlite_master LIMIT 1"):
                raise SinkError(f"{self._url} is a database that is not Penstock's; use another file")
            file.connection.execute(_SCHEMA)
            for name, space in manifest.schema.vectors.items():
                late = space.kind == "MultiVector"
                if late:
                    tokens.create(file, name)
                embedding = f"embedding float[{space.dim}] distance_metric={'cosine' if late else space.metric}"
                file.connection.execute(f"CREATE VIRTUAL TABLE {vectors_table(name)} USING vec0({embedding})")
            file.connection.execute(full_text.TABLE)
            file.connection.execute("INSERT INTO meta VALUES (?)", (manifests.to_json(manifest),))
        return manifest

    def _log_ahead(self, file: File) -> None:
        """Have the file in WAL mode, for which nobody else may have it open just then: SQLite does not wait."""
        deadline = time.monotonic() + BUSY
        while file.all("PRAGMA journal_mode") != [("wal",)]:
            try:
                file.all("PRAGMA journal_mode = WAL")
            except SinkUnavailable:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.01)

    def _manifest_in(self, file: File) -> Manifest:
        if not (found := file.all("SELECT manifest FROM meta")):
            raise SinkError(f"{self._url} is a database that is not Penstock's; use another file")
        return manifests.from_json(found[0][0], self._url)

    def replace_manifest(self, manifest: Manifest) -> None:
        file, _ = self._opened()
        with file.transaction():
            file.all("UPDATE meta SET manifest = ?", (manifests.to_json(manifest),))

    def exchange_manifest(self, old: Manifest, new: Manifest) -> bool:
        file, _ = self._opened()
        with file.transaction():
            if self._manifest_in(file) != old:
                return False
            file.all("UPDATE meta SET manifest = ?", (manifests.to_json(new),))
            return True

    def write(self, points: Sequence[Point]) -> None:
        file, schema = self._opened()
        batch = rows.Batch(points, schema, self._url)
        with file.transaction():
            keys = dict(keys_of(file, [cells[0] for cells in batch.rows]))
            ((last,),) = file.all('SELECT coalesce(max("key"), 0) FROM chunks')
            fresh = count(last + 1)
            numbered = [(*cells, keys.get(cells[0]) or next(fresh)) for cells in batch.rows]
            sql = f'INSERT OR REPLACE INTO chunks ({COLUMNS}, "key") VALUES ({marks(rows.COLUMNS)}, ?)'
            file.connection.executemany(sql, numbered)
            full_text.write(file, ((cells[-1], cells[TEXT]) for cells in numbered))
            for name, column in batch.columns.items():
                table, values = vectors_table(name), column.rows
                if column.space.kind == "MultiVector":
                    values = tokens.write(file, name, values, [cells[-1] for cells in numbered])
                vectors = [(v.tobytes(), cells[-1]) for v, cells in zip(values, numbered, strict=True)]
                # sqlite-vec updates a vector in its place; taking it out and in again costs tenfold.
                old = [pair for pair in vectors if pair[1] <= last]
                file.connection.executemany(f"UPDATE {table} SET embedding = ? WHERE rowid = ?", old)
                new = [pair for pair in vectors if pair[1] > last]
                file.connection.executemany(f"INSERT INTO {table}(embedding, rowid) VALUES (?, ?)", new)
        batch.finish()

    def delete(self, ids: Sequence[str]) -> None:
        file, schema = self._opened()
        with file.transaction():
            keys = [(key,) for _, key in keys_of(file, ids)]
            for name, space in schema.vectors.items():
                file.connection.executemany(f"DELETE FROM {vectors_table(name)} WHERE rowid = ?", keys)
                if space.kind == "MultiVector":
                    file.connection.executemany(f'DELETE FROM {tokens_table(name)} WHERE "key" = ?', keys)
            file.connection.executemany('DELETE FROM chunks WHERE "key" = ?', keys)
            full_text.delete(file, keys)

    def close(self) -> None:
        """Leave nothing in the log, where no reader needs it: a file that is put in the place of this one would be read
        together with it."""
        if self._handle is not None:
            with suppress(SinkError):
                self._handle.connection.set_busy_timeout(CHECKPOINT)
                self._handle.all("PRAGMA wal_checkpoint(TRUNCATE)")
        super().close()

    def flush(self) -> None:
        """Each write is a transaction, synced when it commits."""
        self._opened()

    def maintain(self) -> None:
        """Give back the room of what was deleted, where it is much. Full text is made where the file has none yet."""
        file, schema = self._opened()
        try:
            full_text.maintain(file)
        except SinkError as error:
            if not out_of_space(error):  # else there is none until there is room
                raise
        for name in schema.vectors:
            self._fill_gaps(file, vectors_table(name))
        with suppress(SinkError):  # as where the disk has no room for a copy: free pages are used again later
            vacuum(file.all)

    def _fill_gaps(self, file: File, table: str) -> None:
        """sqlite-vec keeps vectors in blocks, and writes to the newest alone. Move those of half-empty blocks there: a
        block that is empty goes by itself."""
        half_empty = f"SELECT chunk_id FROM {table}_rowids GROUP BY chunk_id HAVING count(*) <= {BLOCK // 2}"
        blocks = file.all(half_empty)
        for block in blocks if len(blocks) >= FEW_BLOCKS else ():
            with file.transaction():
                keys = f"SELECT rowid FROM {table}_rowids WHERE chunk_id = ?"
                moved = file.all(f"SELECT rowid, embedding FROM {table} WHERE rowid IN ({keys})", block)
                file.connection.executemany(f"DELETE FROM {table} WHERE rowid = ?", [(key,) for key, _ in moved])
                file.connection.executemany(f"INSERT INTO {table}(rowid, embedding) VALUES (?, ?)", moved)

    def ids(self) -> Iterator[Sequence[str]]:
        file, _ = self._opened()
        last = ""
        while page := file.all("SELECT id FROM chunks WHERE id > ? ORDER BY id LIMIT ?", (last, PAGE)):
            yield [id for (id,) in page]
            last = page[-1][0]
