"""`delta://`: a Delta Lake table, for Spark, DuckDB, Polars, Trino and whatever else reads the format.

    delta://./lake/chunks            a folder of this machine; or delta:///srv/lake/chunks
    delta+s3://bucket/lake/chunks    an object store; as well delta+gs:// and delta+az://container/...

Keys come from the stores' own environment variables only: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and
AWS_ENDPOINT_URL; GOOGLE_APPLICATION_CREDENTIALS; AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY.

A flush is one commit: the new rows, and the files in which their ids, or deleted ones, were, written again without
those. The commit holds for the version of the table that was looked at, and no other: if somebody committed meanwhile,
all is looked at again. So an id is in every version at most once, whoever writes. The manifest is a table property.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4

from penstock.contracts import Sink
from penstock.errors import MissingExtra, SinkError, Transient, UsageError
from penstock.records import VECTOR, Dense, Manifest, MultiVector, Point, Space
from penstock.sinks import manifests, rows
from penstock.sinks.store import line

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable
    from deltalake.transaction import AddAction

STORES = {"delta": "", "delta+s3": "s3://", "delta+gs": "gs://", "delta+az": "az://"}
EXAMPLE = "delta://./lake/chunks or delta+s3://bucket/lake/chunks"
PROPERTY = "penstock"
PENDING_BYTES = 32 << 20
PENDING_IDS = 50_000
"""What is held in memory before it is committed, flush or no flush."""
GROUP_ROWS = 8192
GROUP_BYTES = 16 << 20
"""The row groups that are read and written at a time."""
PART_ROWS = 50_000
PART_BYTES = 64 << 20
SMALL_PARTS = 64
"""More files than that of less than half the size are put together by the next commit: many flushes, few files."""
COMMITS = 12
"""How often a commit is tried that others came before."""
LIMITS = {"timeout": "60s", "connect_timeout": "10s", "max_retries": "3", "retry_timeout": "60s"}
UNTOLD = re.compile(r"[\[\]\\^|\x00-\x1f\x7f]|%[0-9a-f]{2}", re.IGNORECASE)
"""In a path, these make the driver panic or look elsewhere (deltalake 1.6.6)."""
PART = re.compile(r"part-[^/]*\.parquet")
AWAY = re.compile(r"error sending request|timed? ?out|connect|\b(429|500|502|503|504)\b|SlowDown", re.IGNORECASE)


@contextmanager
def _errors(url: str) -> Iterator[None]:
    try:
        from deltalake.exceptions import CommitFailedError, DeltaError
    except ModuleNotFoundError as error:
        raise MissingExtra(f"{url} ({error.name})", "delta") from None
    try:
        yield
    except CommitFailedError as error:
        raise Transient(f"{url}: others commit to this table all the time: {line(error)}") from error
    except (DeltaError, OSError, ValueError) as error:
        kind = Transient if not url.startswith("delta:") and AWAY.search(str(error)) else SinkError
        raise kind(f"{url}: {line(error)}") from error


def _schema(space: Space) -> pa.Schema:
    """As rows.schema, with lists for vectors: Delta has none of a fixed size."""
    import pyarrow as pa

    vector = pa.list_(pa.field("element", pa.float32(), nullable=False))
    if space.kind == "MultiVector":
        vector = pa.list_(pa.field("element", vector, nullable=False))
    shape = rows.schema(space)
    return shape.set(shape.get_field_index(VECTOR), pa.field(VECTOR, vector, nullable=False))


class _Pending:
    """What was written and deleted since the last commit; the latest of an id counts."""

    def __init__(self) -> None:
        self.tables: list[pa.Table] = []
        self.newest: dict[str, int] = {}
        """Where the row of an id is in the tables put together; -1 if it was deleted."""
        self.rows = self.bytes = 0

    @property
    def full(self) -> bool:
        return self.bytes >= PENDING_BYTES or max(self.rows, len(self.newest)) >= PENDING_IDS

    def add(self, table: pa.Table) -> None:
        self.newest.update(zip(table.column("id").to_pylist(), range(self.rows, self.rows + len(table)), strict=True))
        self.tables.append(table)
        self.rows += len(table)
        self.bytes += table.nbytes

    def counting(self) -> list[pa.Table]:
        import numpy as np

        mask = np.zeros(self.rows, dtype=bool)
        mask[[at for at in self.newest.values() if at >= 0]] = True
        ends = np.cumsum([len(table) for table in self.tables])
        return [
            table if mask[end - len(table) : end].all() else table.filter(mask[end - len(table) : end])
            for table, end in zip(self.tables, ends, strict=True)
        ]


class _Files:
    """The data files of a table, where it is."""

    def __init__(self, uri: str, path: Path | None, options: dict[str, str]) -> None:
        from deltalake.fs import DeltaStorageHandler
        from pyarrow import fs

        self.path = path
        if path is not None:
            self.system = fs.SubTreeFileSystem(str(path), fs.LocalFileSystem())
        else:
            self.system = fs.PyFileSystem(DeltaStorageHandler(uri, options))

    def names(self) -> list[str]:
        from pyarrow import fs

        found = self.system.get_file_info(fs.FileSelector("", allow_not_found=True))
        return [info.base_name for info in found if not info.base_name.startswith(".")]

    def write(self, tables: Iterable[pa.Table], schema: pa.Schema) -> list[AddAction]:
        """New files with these rows, of about the size wanted: on the disk, in no version of the table yet."""
        made: list[AddAction] = []
        groups = _grouped(tables)
        for first in groups:
            made.append(self._part(first, groups, schema))
        if self.path is not None and made:
            manifests.sync(self.path)
        return made

    def _part(self, first: pa.Table, groups: Iterator[pa.Table], schema: pa.Schema) -> AddAction:
        import pyarrow.compute as pc
        import pyarrow.parquet as pq
        from deltalake.transaction import AddAction

        name = f"part-{uuid4()}.parquet"
        count, ends = 0, []
        with self.system.open_output_stream(name) as file:
            with pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=["uri", "headings"]) as writer:
                group: pa.Table | None = first
                while group is not None:
                    writer.write_table(group, row_group_size=len(group))
                    count += len(group)
                    extremes = pc.min_max(group.column("uri"))
                    ends += [extremes["min"].as_py(), extremes["max"].as_py()]
                    full = count >= PART_ROWS or file.tell() >= PART_BYTES
                    group = None if full else next(groups, None)
            size = file.tell()
        if self.path is not None:
            manifests.sync(self.path / name)
        stats: dict[str, Any] = {"numRecords": count}
        if max(map(len, ends)) <= 256:  # whoever asks for a document need not open every file
            stats |= {"minValues": {"uri": min(ends)}, "maxValues": {"uri": max(ends)}, "nullCount": {"uri": 0}}
        return AddAction(name, size, {}, int(time.time() * 1000), True, json.dumps(stats))


def _grouped(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in groups worth writing."""
    import pyarrow as pa

    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        if sum(map(len, held)) >= GROUP_ROWS or sum(t.nbytes for t in held) >= GROUP_BYTES:
            yield pa.concat_tables(held)
            held = []
    if any(map(len, held)):
        yield pa.concat_tables(held)


class DeltaSink(Sink):
    """A Delta table: `delta://./lake/chunks`. Several may write at once."""

    accepts = frozenset({Dense, MultiVector})
    max_rows = 4096

    def __init__(self, url: str) -> None:
        scheme = url.partition("://")[0].lower()
        if scheme not in STORES:
            raise UsageError(f"{url!r} does not name a place; write it like {EXAMPLE}")
        if (remote := STORES[scheme]) and "@" in url.partition("://")[2].partition("/")[0]:
            raise UsageError(f"a {scheme} url is no place for a password; set the environment variables of the store")
        path, given = manifests.place(url, scheme, EXAMPLE)
        manifests.options(given, set(), url)
        if remote and (len(path.parts) < 2 or path.is_absolute()):
            raise UsageError(f"{url!r} names no folder in a bucket; write it like {EXAMPLE}")
        self._url = url
        self._path = None if remote else path.absolute()
        self._uri = remote + path.as_posix() if remote else str(self._path)
        if odd := UNTOLD.search(self._uri):
            raise UsageError(f"{url!r}: a Delta table cannot be in a path with {odd[0]!r} in it; name another place")
        self._options = dict(LIMITS) if remote else {}
        self._space: Space | None = None
        self._files: _Files | None = None
        self._pending = _Pending()
        self._lock = threading.Lock()
        self._near = ""

    @property
    def url(self) -> str:
        return self._url

    def __repr__(self) -> str:
        return f"DeltaSink({self._url!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._url,)

    def beside(self, number: int) -> Self:
        return type(self)(manifests.numbered(self._url, number))

    # ------------------------------------------------------------ the table and its manifest

    def _table(self) -> DeltaTable | None:
        """The newest version."""
        from deltalake import DeltaTable
        from deltalake.exceptions import TableNotFoundError

        if self._path is not None and not (self._path / "_delta_log").is_dir():  # the driver would make the folder
            return None
        try:
            return DeltaTable(self._uri, storage_options=self._options)
        except TableNotFoundError:
            return None

    def _mine(self) -> DeltaTable:
        """The newest version, where there has to be one of this space."""
        if self._space is None:
            raise SinkError(f"{self._url} is not open")
        table = self._table()
        kept = None if table is None else self._kept(table)
        if table is None or kept is None:
            raise SinkError(f"{self._url} is gone")
        manifests.agree(kept, Manifest(self._space), self._url)
        wanted = [field.name for field in rows.schema(self._space)]
        if [field.name for field in table.schema().fields] != wanted:
            raise SinkError(f"{self._url} has got other columns than {', '.join(wanted)}: writing would lose some")
        return table

    def _kept(self, table: DeltaTable) -> Manifest | None:
        text = table.metadata().configuration.get(PROPERTY)
        return None if text is None else manifests.from_json(text, self._url)

    def manifest(self) -> Manifest | None:
        with _errors(self._url):
            table = self._table()
            return None if table is None else self._kept(table)

    def open(self, manifest: Manifest) -> None:
        manifests.supported(manifest.space, {kind.__name__ for kind in self.accepts}, self._url)
        with _errors(self._url):
            table = self._table()
            kept = None if table is None else self._kept(table)
            if kept is not None:
                manifests.agree(kept, manifest, self._url)
            elif table is not None:
                raise SinkError(f"{self._url} is a Delta table that is not Penstock's; name another place")
            if self._path is not None:
                manifests.make_folder(self._path, self._url)
            files = _Files(self._uri, self._path, self._options)
            if table is None:
                self._create(files, manifest)
        self._space, self._files, self._pending = manifest.space, files, _Pending()

    def _create(self, files: _Files, manifest: Manifest) -> None:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError

        if there := [name for name in files.names() if name != "_delta_log"]:
            raise SinkError(f"{self._url} holds files that are not Penstock's ({there[0]}); name another place")
        properties = {PROPERTY: manifests.to_json(manifest), "delta.dataSkippingStatsColumns": "uri"}
        try:
            DeltaTable.create(
                self._uri,
                _schema(manifest.space),
                configuration=properties,
                storage_options=self._options,
                raise_if_key_not_exists=False,
            )
        except DeltaError:  # another one may have created it in the same moment
            if (table := self._table()) is None or (kept := self._kept(table)) is None:
                raise
            manifests.agree(kept, manifest, self._url)
        self._sync(0)

    def replace_manifest(self, manifest: Manifest) -> None:
        with self._lock, _errors(self._url):
            table = self._mine()
            table.alter.set_table_properties({PROPERTY: manifests.to_json(manifest)}, raise_if_not_exists=False)
            self._sync(table.version())

    def drop(self) -> None:
        self.close()
        with _errors(self._url):
            table = self._table()
            if table is None or self._kept(table) is None:
                return
            table.delete()  # first of all an empty index, so that what a kill leaves is one
            files = _Files(self._uri, self._path, self._options)
            for name in files.names():
                if PART.fullmatch(name):
                    files.system.delete_file(name)
            if self._path is None:
                files.system.delete_dir("_delta_log")
                return
            shutil.rmtree((self._path / "_delta_log").rename(self._path / f".dropped-{uuid4()}"))
            with suppress(OSError):  # something of the user's is in there
                self._path.rmdir()

    def _sync(self, version: int) -> None:
        if self._path is not None:
            log = self._path / "_delta_log"
            manifests.sync(log / f"{version:020}.json")
            manifests.sync(log)

    # ------------------------------------------------------------ writing

    def write(self, points: Sequence[Point]) -> None:
        if self._space is None:
            raise SinkError(f"{self._url} is not open")
        batch = rows.Batch(points, self._space, self._url)
        if batch.rows:
            import pyarrow as pa

            table = pa.table(batch.arrow()).cast(_schema(self._space))
            with self._lock, _errors(self._url):
                self._make_room()
                self._pending.add(table)
        batch.finish()

    def delete(self, ids: Sequence[str]) -> None:
        if self._space is None:
            raise SinkError(f"{self._url} is not open")
        with self._lock, _errors(self._url):
            self._make_room()
            self._pending.newest.update(dict.fromkeys(ids, -1))

    def flush(self) -> None:
        if self._space is None:
            raise SinkError(f"{self._url} is not open")
        with self._lock, _errors(self._url):
            self._commit()

    def _make_room(self) -> None:
        """Before anything is added, so that a commit which fails can be tried again with the same batch."""
        if self._pending.full:
            self._commit()

    def _commit(self, small: int = SMALL_PARTS) -> None:
        """One version more, with what is pending, and no more than so many small files; if there is anything to do."""
        from deltalake.exceptions import CommitFailedError

        for turn in range(COMMITS):
            try:
                self._put(self._mine(), small)
            except CommitFailedError:
                if turn == COMMITS - 1:
                    raise
                time.sleep(0.01 * turn)
            else:
                self._pending = _Pending()
                return

    def _put(self, table: DeltaTable, small: int) -> None:
        import pyarrow as pa
        from deltalake import CommitProperties
        from deltalake.transaction import RemoveAction

        assert self._files is not None and self._space is not None
        pending = self._pending
        fragments = {fragment.path: fragment for fragment in self._dataset(table).get_fragments()}
        actions = pa.table(table.get_add_actions()).select(["path", "size_bytes", "num_records"]).to_pylist()
        sizes = {action["path"]: action["size_bytes"] for action in actions}
        counts = {action["path"]: action["num_records"] or 0 for action in actions}
        out = pa.array(list(pending.newest), pa.string())
        old = self._holding(table, out)
        little = [
            a["path"] for a in actions if (a["num_records"] or 0) < PART_ROWS // 2 and a["size_bytes"] < PART_BYTES // 2
        ]
        if len(little) > small:
            old |= set(little)
        if not old and not pending.rows:
            return

        def every() -> Iterator[pa.Table]:
            yield from pending.counting()
            for path in sorted(old):
                for piece in fragments[path].split_by_row_group():
                    yield _without(piece.to_table(), out)

        made = self._files.write(every(), _schema(self._space))
        now = int(time.time() * 1000)
        gone = [RemoveAction(path, True, now, sizes[path], {}) for path in sorted(old)]
        if made or gone:
            table.create_write_transaction(
                [*made, *gone], "append", table.schema(), commit_properties=CommitProperties(max_commit_retries=0)
            )
            self._sync(table.version())

    def maintain(self) -> None:
        """Put small files together, let go of what no version of the last week needs (or of the time that the table's
        `delta.deletedFileRetentionDuration` says), and sum the log up."""
        with self._lock, _errors(self._url):
            self._commit(small=1)
            table = self._mine()
            table.create_checkpoint()
            table.cleanup_metadata()
            unnamed = table.vacuum(full=True, dry_run=True)
            # What a killed run left is in no version; but neither is what others keep beneath the folder.
            table.vacuum(full=all(PART.fullmatch(name) for name in unnamed), dry_run=False)

    # ------------------------------------------------------------ reading

    def _dataset(self, table: DeltaTable) -> Any:
        assert self._files is not None
        return table.to_pyarrow_dataset(filesystem=self._files.system)

    def _holding(self, table: DeltaTable, ids: pa.Array) -> set[str]:
        """The files that hold rows of these ids."""
        import pyarrow.compute as pc

        found = self._dataset(table).scanner(columns=["__filename"], filter=pc.field("id").isin(ids))
        return {name for batch in found.to_batches() for name in batch.column(0).unique().to_pylist()}

    def count(self) -> int:
        import pyarrow as pa

        with _errors(self._url):
            table = self._mine()
            data = self._dataset(table)
            counts = pa.table(table.get_add_actions()).column("num_records").to_pylist()
            return data.count_rows() if None in counts else sum(counts)

    def ids(self) -> Iterator[Sequence[str]]:
        with _errors(self._url):
            for batch in self._dataset(self._mine()).to_batches(
                columns=["id"], batch_size=self.max_rows, batch_readahead=2, fragment_readahead=2
            ):
                if len(batch):
                    yield batch.column(0).to_pylist()

    def fetch(self, ids: Sequence[str]) -> Sequence[Point]:
        """Where the last ones were, the next ones are looked for first: so a table is copied in one pass."""
        import pyarrow as pa
        import pyarrow.compute as pc

        wanted = pa.array(list(dict.fromkeys(ids)), pa.string())
        found: list[Point] = []
        with _errors(self._url):
            fragments = list(self._dataset(self._mine()).get_fragments())
            start = next((n for n, fragment in enumerate(fragments) if fragment.path == self._near), 0)
            for fragment in (*fragments[start:], *fragments[:start]):
                if len(found) == len(wanted):
                    break
                for piece in fragment.split_by_row_group():
                    if piece.count_rows(filter=pc.field("id").isin(wanted)):
                        table = piece.to_table(filter=pc.field("id").isin(wanted))
                        assert self._space is not None
                        for batch in table.combine_chunks().to_batches():
                            found += rows.points(batch, self._space)
                        self._near = fragment.path
        return found

    def close(self) -> None:
        self._space, self._files, self._pending = None, None, _Pending()


def _without(table: pa.Table, ids: pa.Array) -> pa.Table:
    import pyarrow.compute as pc

    there = pc.is_in(table.column("id"), value_set=ids)
    return table.filter(pc.invert(there)) if pc.any(there).as_py() else table
