"""`lance://`: a LanceDB table in a folder, the embedded default.

LanceDB writes one version and one fragment a batch and syncs nothing to disk; what this file adds is a folder
that stays quick (compaction, in another process, so that its memory is not ours) and that survives a power cut
from one `flush` to the next.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import TYPE_CHECKING, Any, Self, TypeVar

from penstock.core import filters
from penstock.core.contracts import Index, Sink
from penstock.core.errors import SinkError, SinkUnavailable, UsageError
from penstock.core.records import Dense, Hit, MultiVector, Point, Vector
from penstock.core.schema import IndexSchema, Manifest
from penstock.sinks import manifests, rows

if TYPE_CHECKING:
    import pyarrow as pa

EXAMPLE = "lance://./index, lance:///srv/index or lance://./index?table=notes"
PAGE = 4096
FEW = 16
"""So few ids of a batch that may be there are looked up: it is mostly by chance, and a merge would read all ids."""
FRAGMENTS = 64
"""More fragments than this are compacted at the end of a run; during one, after as many writes and a growth by half."""
CACHES = {"write": (64 << 20, 16 << 20), "search": (1 << 30, 256 << 20)}
"""Bytes of indexes and of metadata that are kept: LanceDB's own limits are in gigabytes, and a writer needs neither."""
SETTLED = 1_000_000_000
"""Nanoseconds: nothing that comes so much later has the same time as what was there; and how old a look may be."""
READS = 5
"""How often a read is tried whose version is cleaned up meanwhile."""
SPOOLED = 4 << 20
"""Bytes of ids that are held in memory; more of them wait in a file."""
INDEX_ROWS = 100_000
"""Below, comparing with every vector is quick enough and exact."""
PROBES, COMPARED = 100, 200
"""How many parts of the ANN index are looked into, and how many of the vectors there compared exactly, at least."""


T = TypeVar("T")


class _Place:
    """A table and the manifest beside it: `FOLDER/TABLE.lance`, `FOLDER/TABLE.penstock.json`."""

    def __init__(self, url: str) -> None:
        folder, given = manifests.place(url, "lance", EXAMPLE)
        self.url, self.folder = url, folder
        self.table = str(manifests.options(given, {"table"}, url).get("table", "chunks"))
        if not self.table.replace("_", "").replace("-", "").isalnum():
            raise UsageError(f"{url!r}: a table's name has letters, digits, - and _ only")
        self.data = folder / f"{self.table}.lance"
        self.versions = self.data / "_versions"
        self.sidecar = folder / f"{self.table}.penstock.json"

    def generation(self, number: int) -> str:
        """The url of another table of the folder."""
        return f"{self.url.partition('?')[0]}?table={self.table}_{number}"

    @property
    def made(self) -> bool:
        """Whether the table has a version: a run may have died when there was no more than its folder."""
        return self.versions.is_dir() and any(self.versions.iterdir())

    def manifest(self) -> Manifest | None:
        """What is kept beside the table; None where either of the two is missing."""
        return manifests.read(self.sidecar, self.url) if self.made else None

    def connect(self, purpose: str = "write") -> Any:
        import lancedb

        indexes, metadata = CACHES[purpose]
        session = lancedb.Session(index_cache_size_bytes=indexes, metadata_cache_size_bytes=metadata)
        # Every read looks for the newest version: readers see what was written, and compaction never breaks them.
        # LanceDB takes 2 ms for that, which a search has no time for: see LanceIndex.
        often = timedelta(0) if purpose == "write" else None
        return lancedb.connect(str(self.folder), read_consistency_interval=often, session=session)


@contextmanager
def _errors(url: str) -> Iterator[None]:
    """LanceDB raises plain RuntimeError, OSError and ValueError; a lost race with compaction passes on a new try."""
    try:
        yield
    except (RuntimeError, OSError, ValueError) as error:
        text = " ".join(str(error).split())[:500]
        kind = SinkUnavailable if "conflict" in text.lower() else SinkError
        raise kind(f"{url}: {text}") from error


def reread(read: Callable[[], T]) -> T:
    """Read, and again where a cleanup took files of the version that was being read: the newest one has its own."""
    for _ in range(READS - 1):
        try:
            return read()
        except (RuntimeError, OSError, ValueError) as error:
            if "not found" not in str(error).lower():
                raise
    return read()


def crowded(table: Any) -> bool:
    """Whether there are so many fragments, or so many rows newer than the ANN index, that all gets slow."""
    if table.stats()["fragment_stats"]["num_fragments"] > FRAGMENTS:
        return True
    found = (table.index_stats(index.name) for index in table.list_indices())
    return any(stats.num_unindexed_rows > INDEX_ROWS // 4 for stats in found if stats)


def unindexed(table: Any, schema: IndexSchema) -> list[str]:
    """The names of the vectors for which the table has outgrown comparing with every one."""
    dense = [name for name, space in schema.vectors.items() if space.kind == "Dense"]
    if not dense or table.count_rows() < INDEX_ROWS:
        return []
    indexed = {column for index in table.list_indices() for column in index.columns}
    return [name for name in dense if rows.vector_column(name) not in indexed]


def _fetch(table: Any, schema: IndexSchema, ids: Sequence[str]) -> list[Point]:
    found: list[Point] = []
    wanted = list(dict.fromkeys(ids))
    columns = [*rows.COLUMNS, *map(rows.vector_column, schema.vectors)]
    for start in range(0, len(wanted), PAGE):
        query = table.search().where(rows.listed(wanted[start : start + PAGE])).select(columns)
        for batch in query.to_batches(PAGE):
            found += rows.points(batch, schema)
    return found


class LanceSink(Sink):
    """A LanceDB table: `lance://./index`, `lance:///srv/index`; its name is `chunks` or `?table=notes`.

    One process writes at a time; any number reads meanwhile.
    """

    accepts = frozenset({Dense, MultiVector})
    named = True
    max_rows = 1024  # benchmarks/sinks.py, 200,000 points: 398 MB at its peak; 700 with batches of 2,048
    writers = 2
    """One makes a table of its points while the other's is written."""

    def __init__(self, url: str) -> None:
        self._place = _Place(url)
        self._table: Any = None
        self._manifest: Manifest | None = None
        self._disk: _Disk | None = None
        self._known: _Known | None = None
        self._compactor: _Compactor | None = None
        self._turn = threading.Lock()

    @property
    def url(self) -> str:
        return self._place.url

    def __repr__(self) -> str:
        return f"LanceSink({self.url!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.url,)

    def generation(self, number: int) -> Self:
        return type(self)(self._place.generation(number))

    def manifest(self) -> Manifest | None:
        return self._place.manifest()

    def drop(self) -> None:
        self.close()
        with _errors(self.url):
            self._place.sidecar.unlink(missing_ok=True)  # first, so that nobody takes what is left for an index
            if self._place.data.exists():
                self._place.connect().drop_table(self._place.table)

    def open(self, manifest: Manifest) -> None:
        place = self._place
        manifests.supported(manifest.schema, self)
        if kept := place.manifest():
            manifests.agree(kept, manifest, self.url)
        manifests.make_folder(place.folder, self.url)
        with _errors(self.url):
            database = place.connect()
            if place.made:
                table = database.open_table(place.table)
                if kept is None and table.count_rows():
                    raise SinkError(
                        f"{self.url}: there is a table {place.table!r} that is not Penstock's; name another"
                    )
                if kept is None:  # a run died between the two steps below, and may have been of another space
                    database.drop_table(place.table)
            if kept is None:
                # In this format a column whose values are mostly equal is read at once: benchmarks/serve.py.
                how = {"new_table_data_storage_version": "2.1"}
                table = database.create_table(place.table, schema=rows.schema(manifest.schema), storage_options=how)
                table.set_unenforced_primary_key("id")
                manifests.keep(place.sidecar, manifest)
        self._table, self._manifest = table, kept or manifest
        self._disk = _Disk(place.folder, place.data)
        self._compactor = _Compactor(place, table.count_rows())

    def replace_manifest(self, manifest: Manifest) -> None:
        with _errors(self.url):
            manifests.keep(self._place.sidecar, manifest)
        self._manifest = manifest

    def _opened(self) -> Any:
        if self._table is None:
            raise SinkError(f"{self.url} is not open")
        return self._table

    @property
    def _schema(self) -> IndexSchema:
        assert self._manifest is not None
        return self._manifest.schema

    def write(self, points: Sequence[Point]) -> None:
        table = self._opened()
        batch = rows.Batch(points, self._schema, self.url)
        if batch.rows:
            import pyarrow as pa

            made = pa.Table.from_batches([batch.arrow()])
            with self._turn, _errors(self.url):
                if self._known is None:
                    self._known = _Known(id for page in self._ids() for id in page)
                # Before the write: where that fails, nobody knows what of it is there, and a second try merges.
                known = self._known.among([cells[0] for cells in batch.rows])
                if 0 < len(known) <= FEW and not table.count_rows(rows.listed(known)):
                    known = []
                if known:
                    table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(made)
                else:
                    table.add(made)
            if self._compactor:
                self._compactor.wrote(len(batch.rows))
        batch.finish()

    def delete(self, ids: Sequence[str]) -> None:
        table = self._opened()
        if ids:
            with _errors(self.url):
                table.delete(rows.listed(ids))

    def flush(self) -> None:
        self._opened()
        if self._disk:
            with _errors(self.url):
                self._disk.sync()

    def count(self) -> int:
        with _errors(self.url):
            return int(reread(self._opened().count_rows))

    def ids(self) -> Iterator[Sequence[str]]:
        """They are read at once, and given from a temporary file: however slowly they are taken, no cleanup of another
        process comes between."""
        self._opened()
        with SpooledTemporaryFile(SPOOLED, "w+", encoding="utf-8") as file:

            def read() -> None:
                file.seek(0)
                file.truncate()
                file.writelines(f"{json.dumps(page)}\n" for page in self._ids())

            with _errors(self.url):
                reread(read)
            file.seek(0)
            for line in file:
                yield json.loads(line)

    def _ids(self) -> Iterator[Sequence[str]]:
        for batch in self._opened().search().select(["id"]).to_batches(PAGE):
            yield batch.column("id").to_pylist()

    def fetch(self, ids: Sequence[str]) -> Sequence[Point]:
        table = self._opened()
        with _errors(self.url):
            return reread(lambda: _fetch(table, self._schema, ids))

    def maintain(self) -> None:
        """Compact where there are many fragments, index the vectors where there are many rows, and remove what only
        older versions need."""
        table = self._opened()
        with _errors(self.url):
            if self._compactor:
                self._compactor.wait()
                if self._compactor.ran or crowded(table) or unindexed(table, self._schema):
                    self._compactor.run()
        self.flush()

    def close(self) -> None:
        if self._compactor:
            self._compactor.wait()
        self._table = self._disk = self._compactor = self._known = None


class _Known:
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
        """Which of these may be there already; from now on all of them are."""
        import numpy as np

        digests = b"".join(blake2b(id.encode(), digest_size=16).digest() for id in ids)
        places = np.frombuffer(digests, np.uint32).reshape(-1, 4) & np.uint32((1 << 26) - 1)
        bits = np.left_shift(1, places & 7).astype(np.uint8)
        there = (self._bits[places >> 3] & bits) != 0
        np.bitwise_or.at(self._bits, places >> 3, bits)
        return [ids[place] for place in np.flatnonzero(there.all(axis=1)).tolist()]


class _Disk:
    """Syncs what LanceDB wrote since the last time. Its files are never written twice, so a name tells all."""

    def __init__(self, *folders: Path) -> None:
        self._database, self._data = folders
        self._synced: set[str] = set()
        self._lock = threading.Lock()

    def sync(self) -> None:
        with self._lock:
            there, folders = set(), [str(self._database)]
            for folder, _, names in os.walk(self._data):
                paths = {os.path.join(folder, name) for name in names}
                there |= paths
                if paths - self._synced:
                    folders.append(folder)
            for path in [*sorted(there - self._synced), *folders]:
                try:
                    manifests.sync(path)
                except FileNotFoundError:
                    continue  # compaction removed it meanwhile: no version needs it any more
            self._synced = there


class _Compactor:
    """Runs `penstock.sinks.lance_compact`, at most one at a time, when there is enough to gain."""

    def __init__(self, place: _Place, rows: int) -> None:
        self._place = place
        self._process: subprocess.Popen[bytes] | None = None
        self.ran = False
        """It has compacted since the old versions were removed."""
        self._rows, self._fresh, self._writes = rows, 0, 0
        self._lock = threading.Lock()

    def wrote(self, count: int) -> None:
        with self._lock:
            self._writes, self._fresh = self._writes + 1, self._fresh + count
            # Compaction rewrites the table: doing it as the table grows by half keeps its cost in proportion.
            if self._writes >= FRAGMENTS and self._fresh * 2 >= self._rows and not self._running():
                self._start()

    def wait(self) -> None:
        with self._lock:
            self._wait()

    def run(self) -> None:
        """Compact, and remove what only older versions need: nobody writes meanwhile, and readers read again."""
        with self._lock:
            self._wait()
            self._start("--clean")
            self._wait()
            self.ran = False

    def _running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _start(self, *options: str) -> None:
        self._rows, self._fresh, self._writes, self.ran = self._rows + self._fresh, 0, 0, True
        command = [sys.executable, "-m", "penstock.sinks.lance_compact", self._place.url, *options]
        # A session of its own: Ctrl-C is for the run, which waits for this one and is done.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _wait(self) -> None:
        # A failed compaction harms nothing: the table is as before, and the next run compacts again.
        if self._process is not None:
            self._process.wait()
            self._process = None


class LanceIndex(Index):
    """Searches a LanceDB table: exactly, or by its ANN index with the exact score of what it finds.

    It searches the newest version, which the time of the folder of versions tells; where folders keep no times, one
    that was the newest a second ago.
    """

    def __init__(self, url: str) -> None:
        self._place = _Place(url)
        self._table: Any = None
        self._manifest: Manifest | None = None
        self._changed = self._looked = 0
        """The time of the folder of versions when it was looked into last, and when that was."""

    @property
    def url(self) -> str:
        return self._place.url

    def generation(self, number: int) -> Self:
        return type(self)(self._place.generation(number))

    def __repr__(self) -> str:
        return f"LanceIndex({self._place.url!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._place.url,)

    def open(self) -> None:
        self._manifest = self.manifest()
        with _errors(self._place.url):
            self._table = reread(lambda: self._place.connect("search").open_table(self._place.table))

    def manifest(self) -> Manifest:
        if (kept := self._place.manifest()) is None:
            raise SinkError(f"there is no index at {self._place.url}")
        return kept

    def close(self) -> None:
        self._table = None

    @property
    def _schema(self) -> IndexSchema:
        if self._manifest is None:
            raise SinkError(f"{self._place.url} is not open")
        return self._manifest.schema

    def _read(self, read: Callable[[Any], T]) -> T:
        """Read the newest version of the table."""
        if (table := self._table) is None:
            raise SinkError(f"{self._place.url} is not open")

        def newest() -> T:
            now, changed = time.time_ns(), self._place.versions.stat().st_mtime_ns
            # A version so new may be followed by another one within the same tick of the clock; and folders of mounted
            # buckets keep no times.
            if changed != self._changed or not changed + SETTLED < now < self._looked + SETTLED:
                table.checkout_latest()
                self._changed, self._looked = changed, now
            try:
                return read(table)
            except RuntimeError:
                self._changed = 0  # whoever reads next looks again
                raise

        with _errors(self._place.url):
            return reread(newest)

    def search(
        self, vector: Vector, k: int = 10, where: Mapping[str, Any] | None = None, *, using: str | None = None
    ) -> list[Hit]:
        name, space = rows.target(vector, self._schema, using, self._place.url)
        assert isinstance(vector, Dense | MultiVector)
        if k < 1:
            return []
        wanted = filters.parse(where)

        def read(table: Any) -> pa.Table:
            query = table.search(vector.values, vector_column_name=rows.vector_column(name))
            query = query.distance_type(space.metric).limit(k).nprobes(PROBES).refine_factor(max(4, -(-COMPARED // k)))
            query = query.select([*rows.COLUMNS, "_distance"])
            if wanted:
                # An ANN index looks into a part of the vectors, in which few or none may pass a narrow filter.
                query = query.where(filters.sql(wanted, filters.literal), prefilter=True).bypass_vector_index()
            return query.to_arrow()

        return _hits(self._read(read), vector, space.metric)

    def fetch(self, ids: Sequence[str]) -> Sequence[Point]:
        schema = self._schema
        return self._read(lambda table: _fetch(table, schema, ids))

    def count(self) -> int:
        return self._read(lambda table: int(table.count_rows()))


def _hits(found: pa.Table, query: Dense | MultiVector, metric: str) -> list[Hit]:
    scores: list[float] = []
    for distance in found.column("_distance").to_pylist():
        if metric == "l2":
            scores.append(-distance)
        else:  # MaxSim adds up one similarity a row of the query
            scores.append((len(query.values) if isinstance(query, MultiVector) else 1) - distance)
    chunks = [chunk for batch in found.to_batches() for chunk in rows.chunks(batch)]
    return [Hit(score, chunk) for score, chunk in zip(scores, chunks, strict=True)]
