"""One SQLite file: its connection, its tables and its manifest.

`chunks` has the columns of `rows.COLUMNS`, `vectors` the embeddings under the same rowid, or `title_vectors` those that
have a name; of many vectors a point these are pooled ones, and `tokens` has all. `meta` has the manifest. The driver is
apsw, since not every Python can load extensions.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

from penstock.core.errors import MissingExtra, SinkError, SinkUnavailable
from penstock.core.records import VECTOR, Dense, MultiVector, Point, Vector
from penstock.core.schema import IndexSchema, Manifest, VectorSpec
from penstock.sinks import address, manifests, maxsim, rows
from penstock.sinks.base import Opened
from penstock.support.read_only import has_log, read_only_options

EXAMPLE = "sqlite://./notes.db or sqlite:///srv/notes.db"
PAGE = 500
ATTEMPTS = 2
"""Of a statement during which the file changes: by a writer's checkpoint, or as it is written over."""
BUSY = 10
"""Seconds for which others that write, or hold a lock, are waited for."""
COLUMNS = ", ".join(f'"{name}"' for name in rows.COLUMNS)


State = tuple[int, int, int, int]
"""Of a file: which one it is, when it was written to, and its size."""


class File:
    """A connection, and the lock by which threads take turns with it.

    One for reading is followed: where the file was replaced or written over, it is connected to anew. SQLite would read
    on from the one that it has open, or from both.
    """

    def __init__(self, path: Path, url: str, *, readonly: bool, schema: IndexSchema | None = None) -> None:
        """`schema` is that of a file for reading; of another one nothing is read."""
        try:
            import apsw
            import sqlite_vec
        except ImportError as error:
            raise MissingExtra(f"{url} ({error.name})", "sqlite") from None
        self.url, self._error, self._busy = url, apsw.Error, (apsw.BusyError, apsw.LockedError)
        self._lock = threading.RLock()
        self._path, self._schema, self._state = path, schema, _state(path)
        self._extension = sqlite_vec.loadable_path()
        with self.turn():
            self._connect(readonly)

    def _connect(self, readonly: bool) -> None:
        import apsw

        flags = apsw.SQLITE_OPEN_READONLY if readonly else apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
        name = _read_only_url(self._path, self.url) if readonly else str(self._path)
        self.connection = apsw.Connection(name, flags=flags | apsw.SQLITE_OPEN_URI if readonly else flags)
        self.connection.set_busy_timeout(BUSY * 1000)
        self.connection.enable_load_extension(True)
        self.connection.load_extension(self._extension)
        self.connection.enable_load_extension(False)

    def _follow(self) -> None:
        """Connect anew where the file is not as it was when it was connected to. Raises SinkError where there is none
        any more, or one with vectors of another model."""
        state = _state(self._path)
        if state == self._state and state is not None:
            return
        # First, so that no connection keeps the index of a log that is of another file.
        self.connection.close()
        self._state = None
        if state is None:
            raise SinkError(f"there is no index at {self.url}")
        self._connect(True)
        ((pages, size),) = self.connection.execute(
            "SELECT page_count, page_size FROM pragma_page_count, pragma_page_size"
        )
        if not has_log(self._path) and pages * size != state[-1]:
            raise SinkError(f"{self.url} is incomplete: it is being copied, or was cut short")
        ((kept,),) = self.connection.execute("SELECT manifest FROM meta")
        if manifests.from_json(kept, self.url).schema != self._schema:
            raise SinkError(f"{self.url} was replaced by an index of another model")
        self._state = state

    @contextmanager
    def turn(self) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except self._busy as error:
                raise SinkUnavailable(f"{self.url}: {error}") from error
            except self._error as error:
                raise SinkError(f"{self.url}: {error}") from error

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Write, as the only one from the start: another process is waited for, and what is read here stays true."""
        with self.turn():
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.connection.execute("COMMIT")
            except BaseException:
                if not self.connection.get_autocommit():  # a full disk has ended it
                    self.connection.execute("ROLLBACK")
                raise

    def all(self, sql: str, bindings: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self.turn():
            if self._schema is None:
                return list(self.connection.execute(sql, bindings))
            for _ in range(ATTEMPTS):
                self._follow()
                try:
                    found = list(self.connection.execute(sql, bindings))
                except self._error:
                    if self._state == _state(self._path):
                        raise
                else:
                    if self._state == _state(self._path):
                        return found
            self._follow()
            return list(self.connection.execute(sql, bindings))

    def count(self) -> int:
        return int(self.all("SELECT count(*) FROM chunks")[0][0])

    def fetch(self, ids: Sequence[str], schema: IndexSchema) -> list[Point]:
        points: list[Point] = []
        wanted = list(dict.fromkeys(ids))
        names, width = tuple(schema.vectors), len(rows.COLUMNS)
        readers = [_reader_of(space) for space in schema.vectors.values()]
        tables = {name: _table_of(name, space) for name, space in schema.vectors.items()}
        embeddings = ", ".join(f"{table}.{column}" for table, column in tables.values())
        joins = " ".join(f'JOIN {table} ON {table}.rowid = chunks."key"' for table, _ in tables.values())
        for start in range(0, len(wanted), PAGE):
            page = wanted[start : start + PAGE]
            sql = f"SELECT {COLUMNS}, {embeddings} FROM chunks {joins} WHERE id IN ({marks(page)})"
            for cells in self.all(sql, page):
                blobs = zip(readers, cells[width:], strict=True)
                vectors = dict(zip(names, (read(blob) for read, blob in blobs), strict=True))
                points.append(Point(rows.chunk(cells[:width]), vectors))
        return points

    def close(self) -> None:
        with self.turn():
            self.connection.close()


def _state(path: Path) -> State | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


def _read_only_url(path: Path, url: str) -> str:
    """What SQLite opens the file by for reading. Raises SinkError where it cannot be read."""
    try:
        return f"{path.absolute().as_uri()}?{read_only_options(path)}"
    except OSError as error:
        raise SinkError(f"{url} cannot be read: {error}") from error


def vectors_table(name: str) -> str:
    """The table of the vectors of that name. sqlite-vec has others whose names begin with it: `vectors_info`."""
    return "vectors" if name == VECTOR else f"{name}_vectors"


def tokens_table(name: str) -> str:
    """The table of all vectors of that name, where a point has many. Those of other names end in `_vectors`."""
    return "tokens" if name == VECTOR else f"{name}_tokens"


def _table_of(name: str, space: VectorSpec) -> tuple[str, str]:
    """The table and column that vectors are read back from."""
    return (tokens_table(name), "vectors") if space.kind == "MultiVector" else (vectors_table(name), "embedding")


def marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))


def keys_of(file: File, ids: Sequence[str]) -> Iterator[tuple[str, int]]:
    for start in range(0, len(ids), PAGE):
        page = ids[start : start + PAGE]
        yield from file.all(f'SELECT id, "key" FROM chunks WHERE id IN ({marks(page)})', page)


def _reader_of(space: VectorSpec) -> Callable[[bytes], Vector]:
    if space.kind == "MultiVector":
        return lambda blob: MultiVector(maxsim.unpacked(blob, space.precision, space.dim))
    return _dense


def _dense(blob: bytes) -> Dense:
    import numpy as np

    return Dense(np.frombuffer(blob, dtype=np.float32))


def _reader() -> tuple[Callable[[str], Any], type[Exception]]:
    """What opens a url of a file for reading, and its errors: the standard library, unless the driver is loaded. Of two
    copies of SQLite in one process each lets go of the locks that the other one holds, whenever it closes a file."""
    if (apsw := sys.modules.get("apsw")) is None:
        return partial(sqlite3.connect, uri=True, timeout=BUSY), sqlite3.Error

    def connect(url: str) -> Any:
        connection = apsw.Connection(url, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
        connection.set_busy_timeout(BUSY * 1000)
        return connection

    return connect, apsw.Error


class SqliteStore(Opened[File]):
    """What the sink and the index share: the file, its manifest, reading by id."""

    _known: ClassVar[frozenset[str]] = frozenset()
    """Options of the url."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._path, self._options = address.local(url, "sqlite", EXAMPLE, options=self._known)

    def generation(self, number: int) -> Self:
        """`notes_1.db` beside `notes.db`."""
        path, (_, mark, options) = self._path, self._url.partition("?")
        return type(self)(f"sqlite://{path.with_name(f'{path.stem}_{number}{path.suffix}')}{mark}{options}")

    def _kept(self) -> Manifest | None:
        """The manifest. A file that is locked or being made is waited for."""
        if not self._path.is_file():
            return None
        connect, errors = _reader()
        try:
            with closing(connect(_read_only_url(self._path, self._url))) as file:
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
