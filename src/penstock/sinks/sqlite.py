"""`sqlite://`: one SQLite file, searched exactly by sqlite-vec, with 46 MB of memory at its peak, whatever its size.

`chunks` has the columns of `rows.COLUMNS`, `vectors` the embeddings under the same rowid, or `title_vectors` those that
have a name; `meta` has the manifest. The driver is apsw, since not every Python can load extensions.
"""

from __future__ import annotations

import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Self

from penstock.core import filters
from penstock.core.contracts import Index, Sink
from penstock.core.errors import MissingExtra, SinkError, SinkUnavailable, UsageError
from penstock.core.filter_parser import parse_filter
from penstock.core.records import VECTOR, Dense, Hit, Point, Vector
from penstock.core.schema import IndexSchema, Manifest
from penstock.sinks import address, manifests, rows
from penstock.sinks.base import Opened
from penstock.support.vacuum import vacuum

EXAMPLE = "sqlite://./notes.db or sqlite:///srv/notes.db"
PAGE = 500
METRICS = {"Dense": ("cosine", "l2")}
"""Those of sqlite-vec."""
BLOCK = 1024
"""Vectors that sqlite-vec keeps together."""
FEW_BLOCKS = 4
"""So few of them may be half empty."""
LARGEST_K = 4096
"""The most results that sqlite-vec gives."""

_COLUMNS = ", ".join(f'"{name}"' for name in rows.COLUMNS)
_SCHEMA = """
CREATE TABLE chunks ("key" INTEGER PRIMARY KEY, "id" TEXT NOT NULL UNIQUE, "uri" TEXT NOT NULL,
    "ordinal" INTEGER NOT NULL, "text" TEXT NOT NULL, "start" INTEGER NOT NULL, "end" INTEGER NOT NULL,
    "page" INTEGER, "headings" TEXT NOT NULL, "metadata" TEXT NOT NULL, "image" BLOB);
CREATE INDEX chunks_uri ON chunks(uri);
CREATE TABLE meta (manifest TEXT NOT NULL);
"""


class _File:
    """A connection, and the lock by which threads take turns with it."""

    def __init__(self, path: Path, url: str, *, readonly: bool) -> None:
        try:
            import apsw
            import sqlite_vec
        except ImportError as error:
            raise MissingExtra(f"{url} ({error.name})", "sqlite") from None
        self.url, self._error, self._busy = url, apsw.Error, (apsw.BusyError, apsw.LockedError)
        self._lock = threading.RLock()
        flags = apsw.SQLITE_OPEN_READONLY if readonly else apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
        with self.turn():
            self.connection = apsw.Connection(str(path), flags=flags)
            self.connection.set_busy_timeout(10_000)
            self.connection.enable_load_extension(True)
            self.connection.load_extension(sqlite_vec.loadable_path())
            self.connection.enable_load_extension(False)

    @contextmanager
    def turn(self) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except self._busy as error:
                raise SinkUnavailable(f"{self.url}: {error}") from error
            except self._error as error:
                raise SinkError(f"{self.url}: {error}") from error

    def all(self, sql: str, bindings: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self.turn():
            return list(self.connection.execute(sql, bindings))

    def count(self) -> int:
        return int(self.all("SELECT count(*) FROM chunks")[0][0])

    def fetch(self, ids: Sequence[str], schema: IndexSchema) -> list[Point]:
        points: list[Point] = []
        wanted = list(dict.fromkeys(ids))
        names, width = tuple(schema.vectors), len(rows.COLUMNS)
        embeddings = ", ".join(f"{_table(name)}.embedding" for name in names)
        joins = " ".join(f'JOIN {_table(name)} ON {_table(name)}.rowid = chunks."key"' for name in names)
        for start in range(0, len(wanted), PAGE):
            page = wanted[start : start + PAGE]
            sql = f"SELECT {_COLUMNS}, {embeddings} FROM chunks {joins} WHERE id IN ({_marks(page)})"
            for cells in self.all(sql, page):
                vectors = dict(zip(names, map(_dense, cells[width:]), strict=True))
                points.append(Point(rows.chunk(cells[:width]), vectors))
        return points

    def close(self) -> None:
        with self.turn():
            self.connection.close()


def _table(name: str) -> str:
    """The table of the vectors of that name. sqlite-vec has others whose names begin with it: `vectors_info`."""
    return "vectors" if name == VECTOR else f"{name}_vectors"


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))


def _keys(file: _File, ids: Sequence[str]) -> Iterator[tuple[str, int]]:
    for start in range(0, len(ids), PAGE):
        page = ids[start : start + PAGE]
        yield from file.all(f'SELECT id, "key" FROM chunks WHERE id IN ({_marks(page)})', page)


def _dense(blob: bytes) -> Dense:
    import numpy as np

    return Dense(np.frombuffer(blob, dtype=np.float32))


def _reader() -> tuple[Callable[[str], Any], type[Exception]]:
    """What opens a url of a file for reading, and its errors: the standard library, unless the driver is loaded. Of two
    copies of SQLite in one process each lets go of the locks that the other one holds, whenever it closes a file."""
    if (apsw := sys.modules.get("apsw")) is None:
        return partial(sqlite3.connect, uri=True, timeout=10), sqlite3.Error

    def connect(url: str) -> Any:
        connection = apsw.Connection(url, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
        connection.set_busy_timeout(10_000)
        return connection

    return connect, apsw.Error


class _Store(Opened[_File]):
    """What the sink and the index share: the file, its manifest, reading by id."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._path, _ = address.local(url, "sqlite", EXAMPLE)

    def generation(self, number: int) -> Self:
        """`notes_1.db` beside `notes.db`."""
        path = self._path
        return type(self)(f"sqlite://{path.with_name(f'{path.stem}_{number}{path.suffix}')}")

    def _kept(self) -> Manifest | None:
        """The manifest. A file that is locked or being made is waited for."""
        if not self._path.is_file():
            return None
        connect, errors = _reader()
        try:
            with closing(connect(f"{self._path.absolute().as_uri()}?mode=ro")) as file:
                if not list(file.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'")):
                    return None
                kept = list(file.execute("SELECT manifest FROM meta"))
        except errors as error:
            raise SinkError(f"{self._url} cannot be read: {error}") from error
        return manifests.from_json(kept[0][0], self._url) if kept else None

    def count(self) -> int:
        return self._opened()[0].count()

    def fetch(self, ids: Sequence[str]) -> Sequence[Point]:
        file, schema = self._opened()
        return file.fetch(ids, schema)

    def close(self) -> None:
        if self._handle is not None:
            self._handle.close()
        super().close()


class SqliteSink(_Store, Sink):
    """One file: `sqlite://./notes.db`. Any number of processes read while one writes."""

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
        file = _File(self._path, self._url, readonly=False)
        try:
            with file.turn():
                file.all("PRAGMA journal_mode = WAL")
                file.all("PRAGMA synchronous = FULL")
                if kept is None:
                    self._create(file, manifest)
        except BaseException:
            file.close()
            raise
        self._hold(file, (kept or manifest).schema)

    def _create(self, file: _File, manifest: Manifest) -> None:
        if file.all("SELECT 1 FROM sqlite_master LIMIT 1"):
            raise SinkError(f"{self._url} is a database that is not Penstock's; use another file")
        with file.connection:
            file.connection.execute(_SCHEMA)
            for name, space in manifest.schema.vectors.items():
                embedding = f"embedding float[{space.dim}] distance_metric={space.metric}"
                file.connection.execute(f"CREATE VIRTUAL TABLE {_table(name)} USING vec0({embedding})")
            file.connection.execute("INSERT INTO meta VALUES (?)", (manifests.to_json(manifest),))

    def replace_manifest(self, manifest: Manifest) -> None:
        file, _ = self._opened()
        file.all("UPDATE meta SET manifest = ?", (manifests.to_json(manifest),))

    def write(self, points: Sequence[Point]) -> None:
        file, schema = self._opened()
        batch = rows.Batch(points, schema, self._url)
        with file.turn(), file.connection:
            keys = dict(_keys(file, [cells[0] for cells in batch.rows]))
            ((last,),) = file.all('SELECT coalesce(max("key"), 0) FROM chunks')
            fresh = count(last + 1)
            numbered = [(*cells, keys.get(cells[0]) or next(fresh)) for cells in batch.rows]
            sql = f'INSERT OR REPLACE INTO chunks ({_COLUMNS}, "key") VALUES ({_marks(rows.COLUMNS)}, ?)'
            file.connection.executemany(sql, numbered)
            for name, column in batch.columns.items():
                table = _table(name)
                vectors = [(v.tobytes(), cells[-1]) for v, cells in zip(column.rows, numbered, strict=True)]
                # sqlite-vec updates a vector in its place; taking it out and in again costs tenfold.
                old = [pair for pair in vectors if pair[1] <= last]
                file.connection.executemany(f"UPDATE {table} SET embedding = ? WHERE rowid = ?", old)
                new = [pair for pair in vectors if pair[1] > last]
                file.connection.executemany(f"INSERT INTO {table}(embedding, rowid) VALUES (?, ?)", new)
        batch.finish()

    def delete(self, ids: Sequence[str]) -> None:
        file, schema = self._opened()
        with file.turn(), file.connection:
            keys = [(key,) for _, key in _keys(file, ids)]
            for name in schema.vectors:
                file.connection.executemany(f"DELETE FROM {_table(name)} WHERE rowid = ?", keys)
            file.connection.executemany('DELETE FROM chunks WHERE "key" = ?', keys)

    def flush(self) -> None:
        """Each write is a transaction, synced when it commits."""
        self._opened()

    def maintain(self) -> None:
        """Give back the room of what was deleted, where it is much."""
        file, schema = self._opened()
        for name in schema.vectors:
            self._fill_gaps(file, _table(name))
        with suppress(SinkError):  # as where the disk has no room for a copy: free pages are used again later
            vacuum(file.all)

    def _fill_gaps(self, file: _File, table: str) -> None:
        """sqlite-vec keeps vectors in blocks, and writes to the newest alone. Move those of half-empty blocks there: a
        block that is empty goes by itself."""
        half_empty = f"SELECT chunk_id FROM {table}_rowids GROUP BY chunk_id HAVING count(*) <= {BLOCK // 2}"
        blocks = file.all(half_empty)
        for block in blocks if len(blocks) >= FEW_BLOCKS else ():
            with file.turn(), file.connection:
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


class SqliteIndex(_Store, Index):
    """Compares with every vector, or with those of the rows that `where` leaves."""

    max_k = LARGEST_K

    def open(self) -> None:
        schema = self.manifest().schema
        self._hold(_File(self._path, self._url, readonly=True), schema)

    def manifest(self) -> Manifest:
        if (kept := self._kept()) is None:
            raise SinkError(f"there is no index at {self._url}")
        return kept

    def search(
        self, vector: Vector, k: int = 10, where: Mapping[str, Any] | None = None, *, using: str | None = None
    ) -> list[Hit]:
        file, schema = self._opened()
        name, space = rows.target(vector, schema, using, self._url)
        if k < 1:
            return []
        if k > LARGEST_K:
            raise UsageError(f"{self._url} finds at most {LARGEST_K:,} results, not {k:,}")
        values: list[Any] = []
        within = ""
        if wanted := parse_filter(where):
            condition = filters.sql(wanted, filters.Parameters("?", values))
            within = f'AND rowid IN (SELECT "key" FROM chunks WHERE {condition})'
        sql = f"""WITH nearest AS (
                SELECT rowid AS "key", distance FROM {_table(name)} WHERE embedding MATCH ? AND k = ? {within})
            SELECT {_COLUMNS}, distance FROM nearest JOIN chunks USING ("key") ORDER BY distance"""
        assert isinstance(vector, Dense)
        query = vector.values.astype("float32").tobytes()
        found = file.all(sql, [query, k, *values])
        best = 1.0 if space.metric == "cosine" else 0.0
        return [Hit(best - cells[-1], rows.chunk(cells[:-1])) for cells in found]
