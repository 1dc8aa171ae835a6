"""Fills a Delta table. The manifest is a table property.

A flush is one commit: the new rows, and the files that held their ids, or deleted ones, rewritten without those. It
holds for the version of the table that was read, and is repeated where others committed meanwhile. So an id is in
every version at most once, whoever writes.
"""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from penstock.core.contracts import Sink
from penstock.core.errors import MissingExtra, SinkError, SinkUnavailable, UsageError
from penstock.core.precision import PRECISIONS
from penstock.core.records import Dense, MultiVector, Point
from penstock.core.schema import Manifest
from penstock.sinks import address, manifests, rows
from penstock.sinks.base import Opened
from penstock.sinks.delta.files import PART_BYTES, PART_ROWS, Files, Pending, table_schema, without
from penstock.sinks.store import line
from penstock.support import durable

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable

STORES = {"delta": "", "delta+s3": "s3://", "delta+gs": "gs://", "delta+az": "az://"}
EXAMPLE = "delta://./lake/chunks or delta+s3://bucket/lake/chunks"
PROPERTY = "penstock"
SMALL_PARTS = 64
"""More files than that of less than half the size are put together by the next flush: many flushes, few files."""
COMMITS = 12
"""Tries of a commit that others came before."""
LIMITS = {"timeout": "60s", "connect_timeout": "10s", "max_retries": "3", "retry_timeout": "60s"}
UNSAFE = re.compile(r"[\[\]\\^|\x00-\x1f\x7f]|%[0-9a-f]{2}", re.IGNORECASE)
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
        raise SinkUnavailable(f"{url}: others commit to this table too often: {line(error)}") from error
    except (DeltaError, OSError, ValueError) as error:
        kind = SinkUnavailable if not url.startswith("delta:") and AWAY.search(str(error)) else SinkError
        raise kind(f"{url}: {line(error)}") from error


class DeltaSink(Opened[Files], Sink):
    """A Delta table: `delta://./lake/chunks`. Several processes may write at once."""

    accepts = frozenset({Dense, MultiVector})
    precisions = frozenset(PRECISIONS)
    named = True
    max_rows = 4096

    def __init__(self, url: str) -> None:
        super().__init__(url)
        scheme = url.partition("://")[0].lower()
        if scheme not in STORES:
            raise UsageError(f"invalid url {url!r}: expected one like {EXAMPLE}")
        if (remote := STORES[scheme]) and "@" in url.partition("://")[2].partition("/")[0]:
            raise UsageError(f"a {scheme} url holds no password; set the environment variables of the store")
        path, _ = address.local(url, scheme, EXAMPLE)
        if remote and (len(path.parts) < 2 or path.is_absolute()):
            raise UsageError(f"{url!r} names no folder in a bucket: expected a url like {EXAMPLE}")
        self._path = None if remote else path.absolute()
        self._uri = remote + path.as_posix() if remote else str(self._path)
        if odd := UNSAFE.search(self._uri):
            raise UsageError(f"{url!r}: a Delta table cannot be in a path with {odd[0]!r} in it; take another path")
        self._options = dict(LIMITS) if remote else {}
        self._pending = Pending()
        self._lock = threading.Lock()
        self._near = ""
        """The file in which the last fetched point was."""

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
        """The newest version. Raises where it is not of this schema."""
        _, schema = self._opened()
        table = self._table()
        kept = None if table is None else self._kept(table)
        if table is None or kept is None:
            raise SinkError(f"{self._url} is gone")
        manifests.check_schema(kept.schema, schema, self._url)
        wanted = rows.schema(schema).names
        if [field.name for field in table.schema().fields] != wanted:
            raise SinkError(f"{self._url} has other columns than {', '.join(wanted)}: writing would lose some")
        return table

    def _kept(self, table: DeltaTable) -> Manifest | None:
        text = table.metadata().configuration.get(PROPERTY)
        return None if text is None else manifests.from_json(text, self._url)

    def manifest(self) -> Manifest | None:
        with _errors(self._url):
            table = self._table()
            return None if table is None else self._kept(table)

    def open(self, manifest: Manifest) -> None:
        with _errors(self._url):
            table = self._table()
            kept = None if table is None else self._kept(table)
            manifests.admit(self, kept, manifest)
            if kept is None and table is not None:
                raise SinkError(f"{self._url} is a Delta table that is not Penstock's; take another path")
            if self._path is not None:
                manifests.make_folder(self._path, self._url)
            files = Files(self._uri, self._path, self._options)
            if kept is None:
                kept = self._create(files, manifest)
        self._hold(files, kept.schema)

    def _create(self, files: Files, manifest: Manifest) -> Manifest:
        """Create the table. Return the manifest that it has."""
        from deltalake import CommitProperties, DeltaTable
        from deltalake.exceptions import DeltaError

        if others := [name for name in files.names() if name != "_delta_log"]:
            raise SinkError(f"{self._url} holds files that are not Penstock's ({others[0]}); take another path")
        properties = {PROPERTY: manifests.to_json(manifest), "delta.dataSkippingStatsColumns": "uri"}
        try:
            DeltaTable.create(
                self._uri,
                table_schema(manifest.schema),
                configuration=properties,
                storage_options=self._options,
                raise_if_key_not_exists=False,
                commit_properties=CommitProperties(max_commit_retries=0),  # else it would follow another one's
            )
        except DeltaError:  # another process may have created it in the same moment
            if (table := self._table()) is None or (kept := self._kept(table)) is None:
                raise
            manifests.check_schema(kept.schema, manifest.schema, self._url)
            manifest = kept
        self._sync(0)
        return manifest

    def replace_manifest(self, manifest: Manifest) -> None:
        with self._lock, _errors(self._url):
            table = self._mine()
            self._tried(partial(self._keep, manifest=manifest), table)

    def exchange_manifest(self, old: Manifest, new: Manifest) -> bool:
        from deltalake.exceptions import CommitFailedError

        with self._lock, _errors(self._url):
            for _ in range(COMMITS):
                table = self._mine()
                if self._kept(table) != old:
                    return False
                try:
                    self._keep(table, new)
                except CommitFailedError:  # others committed since: rows, or another manifest
                    time.sleep(0.01)
                else:
                    return True
        return False

    def _keep(self, table: DeltaTable, manifest: Manifest) -> None:
        """Commit the manifest as a change of that version of the table, of which the log takes one."""
        from deltalake import CommitProperties

        table.alter.set_table_properties(
            {PROPERTY: manifests.to_json(manifest)},
            raise_if_not_exists=False,
            commit_properties=CommitProperties(max_commit_retries=0),
        )
        self._sync(table.version())

    def drop(self) -> None:
        self.close()
        with _errors(self._url):
            table = self._table()
            if table is None or self._kept(table) is None:
                return
            table.delete()  # an empty index first, so that a kill leaves a valid one
            files = Files(self._uri, self._path, self._options)
            for name in files.names():
                if PART.fullmatch(name):
                    files.system.delete_file(name)
            if self._path is None:
                files.system.delete_dir("_delta_log")
                return
            shutil.rmtree((self._path / "_delta_log").rename(self._path / f".dropped-{uuid4()}"))
            with suppress(OSError):  # files of the user are in it
                self._path.rmdir()

    def _sync(self, version: int) -> None:
        if self._path is not None:
            log = self._path / "_delta_log"
            durable.sync(log / f"{version:020}.json")
            durable.sync(log)

    # ------------------------------------------------------------ writing

    def write(self, points: Sequence[Point]) -> None:
        _, schema = self._opened()
        batch = rows.Batch(points, schema, self._url)
        if batch.rows:
            import pyarrow as pa

            table = pa.table(batch.arrow(packed=True)).cast(table_schema(schema))
            with self._lock, _errors(self._url):
                self._make_room()
                self._pending.add(table)
        batch.finish()

    def delete(self, ids: Sequence[str]) -> None:
        self._opened()
        with self._lock, _errors(self._url):
            self._make_room()
            self._pending.newest.update(dict.fromkeys(ids, -1))

    def flush(self) -> None:
        self._opened()
        with self._lock, _errors(self._url):
            self._commit()

    def _make_room(self) -> None:
        """Commit before anything is added, so that the same batch can be tried again where the commit fails."""
        if self._pending.full:
            self._commit()

    def _commit(self, small: int | None = None) -> None:
        """Commit what is pending, and put small files together where there are more than so many of them."""
        from deltalake.exceptions import CommitFailedError

        table = self._tried(self._put, self._mine())
        self._pending = Pending()
        try:
            self._tried(partial(self._compact, SMALL_PARTS if small is None else small), table)
        except CommitFailedError:
            if small is not None:
                raise  # else the next commit does it

    def _tried(self, commit: Callable[[DeltaTable], None], table: DeltaTable) -> DeltaTable:
        """Make a commit to the table, and again to its newest version where others came before."""
        from deltalake.exceptions import CommitFailedError

        for turn in range(COMMITS):
            try:
                commit(table)
            except CommitFailedError:
                if turn == COMMITS - 1:
                    raise
                time.sleep(0.01 * turn)
                table = self._mine()
            else:
                break
        return table

    def _put(self, table: DeltaTable) -> None:
        """Add what is pending, and rewrite the files in which its ids were."""
        import pyarrow as pa

        pending = self._pending
        if not pending.newest:
            return
        out = pa.array(list(pending.newest), pa.string())
        self._replace(table, self._holding(table, out), pending.counting(), out)

    def _compact(self, small: int, table: DeltaTable) -> None:
        """Put small files together, in a commit that says no data changed: streams of the table see no row again."""
        little = {
            name for name, (count, size) in _sizes(table).items() if count < PART_ROWS // 2 and size < PART_BYTES // 2
        }
        if len(little) > small:
            self._replace(table, little)

    def _replace(
        self, table: DeltaTable, old: set[str], new: Sequence[pa.Table] = (), out: pa.Array | None = None
    ) -> None:
        """Commit a version with the new rows, and those of the old files without the ids that are out."""
        from deltalake import CommitProperties
        from deltalake.transaction import RemoveAction

        files, schema = self._opened()
        shape, changes = table_schema(schema), out is not None
        groups = (group for name in sorted(old) for group in files.read(name, shape))
        kept = (group if out is None else without(group, out) for group in groups)
        added = files.write(chain(new, kept), shape, changes=changes)
        now, sizes = int(time.time() * 1000), _sizes(table) if old else {}
        removed = [RemoveAction(name, changes, now, sizes[name][1], {}) for name in sorted(old)]
        if added or removed:
            only_this = CommitProperties(max_commit_retries=0)
            table.create_write_transaction([*added, *removed], "append", table.schema(), commit_properties=only_this)
            self._sync(table.version())

    def maintain(self) -> None:
        """Put small files together, write a checkpoint of the log, and remove files that no version of the last week
        needs, or of the table's `delta.deletedFileRetentionDuration`."""
        with self._lock, _errors(self._url):
            self._commit(small=1)
            table = self._mine()
            table.create_checkpoint()
            table.cleanup_metadata()
            unnamed = table.vacuum(full=True, dry_run=True)
            # Files that a killed run left are in no version; but neither are files that others keep in the folder.
            table.vacuum(full=all(PART.fullmatch(name) for name in unnamed), dry_run=False)

    # ------------------------------------------------------------ reading

    def _dataset(self, table: DeltaTable) -> Any:
        return table.to_pyarrow_dataset(filesystem=self._opened()[0].system)

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
        """Look first where the last ids were found, so that a table is copied in one pass."""
        import pyarrow as pa
        import pyarrow.compute as pc

        _, schema = self._opened()
        wanted = pa.array(list(dict.fromkeys(ids)), pa.string())
        points: list[Point] = []
        with _errors(self._url):
            fragments = list(self._dataset(self._mine()).get_fragments())
            start = next((n for n, fragment in enumerate(fragments) if fragment.path == self._near), 0)
            for fragment in (*fragments[start:], *fragments[:start]):
                if len(points) == len(wanted):
                    break
                for piece in fragment.split_by_row_group():
                    if piece.count_rows(filter=pc.field("id").isin(wanted)):
                        table = piece.to_table(filter=pc.field("id").isin(wanted))
                        for batch in table.combine_chunks().to_batches():
                            points += rows.points(batch, schema)
                        self._near = fragment.path
        return points

    def close(self) -> None:
        self._pending = Pending()
        super().close()


def _sizes(table: DeltaTable) -> dict[str, tuple[int, int]]:
    """Rows and bytes of each file."""
    import pyarrow as pa

    actions = pa.table(table.get_add_actions()).select(["path", "size_bytes", "num_records"]).to_pylist()
    return {action["path"]: (action["num_records"] or 0, action["size_bytes"]) for action in actions}
