"""Fills a LanceDB table.

LanceDB writes one version and one fragment a batch and syncs nothing to disk; what this file adds is a folder
that stays quick (compaction, in another process, so that its memory is not ours) and that survives a power cut
from one `flush` to the next.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, Self

from penstock.core.contracts import Sink
from penstock.core.errors import SinkError, SinkUnavailable
from penstock.core.precision import PRECISIONS
from penstock.core.records import Dense, MultiVector, Point
from penstock.core.schema import Manifest
from penstock.sinks import manifests, rows
from penstock.sinks.base import Opened
from penstock.sinks.lance import late
from penstock.sinks.lance.compact import Compactor
from penstock.sinks.lance.disk import Disk, KnownIds
from penstock.sinks.lance.fields import MORE, MOST_COLUMNS, FieldColumns, arrow_type, is_field
from penstock.sinks.lance.table import (
    PAGE,
    TEXT,
    TableFiles,
    crowded,
    errors,
    fetch,
    reread,
    unindexed,
    words_index,
)
from penstock.support import scratch

if TYPE_CHECKING:
    import pyarrow as pa

FEW = 16
"""So few ids of a batch that may be in the table are looked up: most are by chance, and a merge would read all ids."""


class LanceSink(Opened[Any], Sink):
    """A LanceDB table: `lance://./index`, `lance:///srv/index`; its name is `chunks` or `?table=notes`.

    One process writes at a time; any number reads meanwhile.
    """

    accepts = frozenset({Dense, MultiVector})
    precisions = frozenset(PRECISIONS)
    named = True
    max_rows = 1024  # benchmarks/sinks.py, 200,000 points: 398 MB at its peak; 700 with batches of 2,048
    writers = 2
    """One makes a table of its points while the other's is written."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._files = TableFiles(url)
        self._disk: Disk | None = None
        self._known: KnownIds | None = None
        self._compactor: Compactor | None = None
        self._fields: list[str] | None = None
        """The table's columns of fields, once they are known."""
        self._columns: list[str] = []
        """Those that the table was opened with, the ones of pooled vectors among them, which are made with it."""
        self._turn = threading.Lock()

    def generation(self, number: int) -> Self:
        return type(self)(self._files.generation(number))

    def manifest(self) -> Manifest | None:
        return self._files.manifest()

    def state(self) -> str:
        return manifests.state_of(self._files.versions, "*")

    def drop(self) -> None:
        self.close()
        with errors(self._url):
            if not self._files.folder.is_dir():
                return
            with manifests.changing(self._files.sidecar, self._url):
                self._files.sidecar.unlink(missing_ok=True)  # first, so that nobody takes what is left for an index
                if self._files.data.exists():
                    self._files.connect().drop_table(self._files.name)

    def open(self, manifest: Manifest) -> None:
        kept = self.manifest()
        manifests.admit(self, kept, manifest, {"MultiVector": ("cosine", "dot")})
        manifests.make_folder(self._files.folder, self._url)
        with errors(self._url):
            database = self._files.connect()
            if kept is None:
                with manifests.changing(self._files.sidecar, self._url):
                    kept = self._create(database, manifest)
            table = database.open_table(self._files.name)
            self._hold(table, kept.schema)
            self._columns = table.schema.names
            self._disk = Disk(self._files.folder, self._files.data)
            self._compactor = Compactor(self._url, table.count_rows())

    def _create(self, database: Any, manifest: Manifest) -> Manifest:
        """Make the table and then its manifest, unless another run was first; return the manifest that was kept. A run
        that died between the two left an empty table."""
        if (kept := self.manifest()) is not None:
            manifests.check_schema(kept.schema, manifest.schema, self._url)
            return kept
        import pyarrow as pa

        name = self._files.name
        if self._files.exists:
            if database.open_table(name).count_rows():
                raise SinkError(f"{self._url}: the table {name!r} is not Penstock's; name another one with ?table=")
            database.drop_table(name)  # it may be of another space
        # In this format a column whose values are mostly equal is read at once: benchmarks/serve.py.
        options = {"new_table_data_storage_version": "2.1"}
        columns = pa.schema([*rows.schema(manifest.schema), *late.fields(manifest.schema)])
        table = database.create_table(name, schema=columns, storage_options=options)
        table.set_unenforced_primary_key("id")
        table.create_index(TEXT, config=words_index())
        manifests.keep(self._files.sidecar, manifest)
        return manifest

    def replace_manifest(self, manifest: Manifest) -> None:
        with errors(self._url), manifests.changing(self._files.sidecar, self._url):
            manifests.keep(self._files.sidecar, manifest)

    def exchange_manifest(self, old: Manifest, new: Manifest) -> bool:
        with errors(self._url):
            return manifests.exchange(self._files.sidecar, self._url, old, new)

    @property
    def _table(self) -> Any:
        return self._opened()[0]

    def write(self, points: Sequence[Point]) -> None:
        table, schema = self._opened()
        batch = rows.Batch(points, schema, self._url)
        if batch.rows:
            import pyarrow as pa

            record = late.with_pooled(batch.arrow(), batch, self._columns)
            metadata = {point.id: point.chunk.metadata for point in points}
            fields = FieldColumns(metadata[cells[0]] for cells in batch.rows) if schema.filterable else None
            with self._turn, errors(self._url):
                new = pa.Table.from_batches([self._with_fields(record, fields) if fields else record])
                if self._known is None:
                    self._known = KnownIds(id for page in self._ids() for id in page)
                # Before the write: where that fails, some of its ids may be in the table, and the next try merges.
                known = self._known.among([cells[0] for cells in batch.rows])
                if 0 < len(known) <= FEW and not table.count_rows(rows.listed(known)):
                    known = []
                if known:
                    table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(new)
                else:
                    table.add(new)
            if self._compactor:
                self._compactor.wrote(len(batch.rows), updated=bool(known))
        batch.finish()

    def _with_fields(self, record: pa.RecordBatch, fields: FieldColumns) -> pa.RecordBatch:
        """The batch with a column for each field that the table has; fields that it lacks are added to it."""
        import pyarrow as pa

        table = self._table
        if self._fields is None:
            self._fields = [name for name in table.schema.names if is_field(name)]
        missing = [name for name in fields.names if name not in self._fields]
        if len(missing) > (room := max(0, MOST_COLUMNS - len(self._fields))):
            missing = missing[:room] + ([] if MORE in self._fields else [MORE])
        if missing:
            known, self._fields = self._fields, None  # if this fails, the next try looks what there is
            try:
                table.add_columns([pa.field(name, arrow_type(name)) for name in missing])
            except (RuntimeError, ValueError) as error:
                if "already exists" not in str(error):
                    raise
                raise SinkUnavailable(f"{self._url}: another run added the same column just now: {error}") from error
            self._fields = known + missing
        shape = pa.schema([*record.schema, *(pa.field(name, arrow_type(name)) for name in self._fields)])
        return pa.record_batch([*record.columns, *fields.arrays(self._fields)], schema=shape)

    def delete(self, ids: Sequence[str]) -> None:
        table = self._table
        if ids:
            with errors(self._url):
                table.delete(rows.listed(ids))
            if self._compactor:
                self._compactor.deleted()

    def flush(self) -> None:
        self._opened()
        if self._disk:
            with errors(self._url):
                self._disk.sync()

    def count(self) -> int:
        table = self._table
        with errors(self._url):
            return int(reread(table.count_rows))

    def ids(self) -> Iterator[Sequence[str]]:
        """List them from a copy that is read at once, so that no cleanup by another process comes between."""
        self._opened()
        with closing(scratch.database("CREATE TABLE pages (ids TEXT NOT NULL)")) as copy:

            def read() -> None:
                copy.execute("DELETE FROM pages")
                copy.executemany("INSERT INTO pages VALUES (?)", ((json.dumps(page),) for page in self._ids()))

            with errors(self._url):
                reread(read)
            for (page,) in copy.execute("SELECT ids FROM pages ORDER BY rowid"):
                yield json.loads(page)

    def _ids(self) -> Iterator[Sequence[str]]:
        for batch in self._table.search().select(["id"]).to_batches(PAGE):
            yield batch.column("id").to_pylist()

    def fetch(self, ids: Sequence[str]) -> Sequence[Point]:
        table, schema = self._opened()
        with errors(self._url):
            return reread(lambda: fetch(table, schema, ids))

    def maintain(self) -> None:
        """Compact where there are many fragments, index the vectors where there are many rows, and remove what only
        older versions need."""
        with errors(self._url):
            if self._compactor:
                self._compactor.wait()
                if self._compactor.ran or self._untidy():
                    self._compactor.clean()
        self.flush()

    def maintain_beside(self) -> bool:
        with errors(self._url):
            if self._compactor and self._untidy():
                return self._compactor.begin(self._table.count_rows())
        return True

    def _untidy(self) -> bool:
        table, schema = self._opened()
        return crowded(table) or self._files.outdated or bool(unindexed(table, schema))

    def close(self) -> None:
        if self._compactor:
            self._compactor.stop()
        self._disk = self._compactor = self._known = self._fields = None
        super().close()
