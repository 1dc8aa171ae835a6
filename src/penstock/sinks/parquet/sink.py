"""Fills a folder of Parquet files. Files are written once: of several rows of an id the latest counts, unless a later
note of deletions names it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from penstock.core.contracts import Sink
from penstock.core.errors import SinkError, SinkUnavailable
from penstock.core.precision import PRECISIONS
from penstock.core.records import Dense, MultiVector, Point
from penstock.core.schema import Manifest
from penstock.sinks import address, manifests, rows
from penstock.sinks.base import Opened
from penstock.sinks.parquet import files
from penstock.sinks.parquet.files import Folder, Part
from penstock.support import durable
from penstock.support.locks import Held, Lockfile

EXAMPLE = "parquet://./folder or parquet:///srv/folder"
TURN = 5.0
"""Seconds for which another writer's flush is waited for; after that the store is unavailable for now."""


@contextmanager
def _errors(url: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise SinkUnavailable(f"{url}: {error.filename or error} was removed: the folder is being rewritten") from error
    except (OSError, ValueError) as error:
        raise SinkError(f"{url}: {error}") from error


class ParquetSink(Opened[Folder], Sink):
    """A folder of Parquet files: `parquet://./folder`. Processes that write take turns, from flush to flush."""

    accepts = frozenset({Dense, MultiVector})
    precisions = frozenset(PRECISIONS)
    named = True
    max_rows = 4096

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._path, _ = address.local(url, "parquet", EXAMPLE)
        self._part: Part | None = None
        self._lock = threading.Lock()
        self._claimed: Lockfile | None = None

    @property
    def _sidecar(self) -> Path:
        return self._path / "_penstock.json"

    def manifest(self) -> Manifest | None:
        return manifests.read(self._sidecar, self._url)

    def open(self, manifest: Manifest) -> None:
        kept = self.manifest()
        manifests.admit(self, kept, manifest)
        manifests.make_folder(self._path, self._url)
        with _errors(self._url):
            if kept is None:
                with manifests.changing(self._sidecar, self._url):
                    kept = self._create(manifest)
        self._hold(Folder(self._path), kept.schema)

    def _create(self, manifest: Manifest) -> Manifest:
        """Keep the manifest, unless another run was first; return the one that was kept."""
        if (kept := self.manifest()) is not None:
            manifests.check_schema(kept.schema, manifest.schema, self._url)
            return kept
        if any(self._path.glob("*.parquet")):
            raise SinkError(f"{self._url} holds Parquet files that are not Penstock's; use another folder")
        manifests.keep(self._sidecar, manifest)
        return manifest

    def replace_manifest(self, manifest: Manifest) -> None:
        with _errors(self._url), manifests.changing(self._sidecar, self._url):
            manifests.keep(self._sidecar, manifest)

    def exchange_manifest(self, old: Manifest, new: Manifest) -> bool:
        with _errors(self._url):
            return manifests.exchange(self._sidecar, self._url, old, new)

    def state(self) -> str:
        return manifests.state_of(self._path, "part-*")

    def drop(self) -> None:
        self.close()
        if self.manifest() is None:
            return
        with _errors(self._url):
            self._claim()
            with manifests.changing(self._sidecar, self._url):
                self._sidecar.unlink()  # first, so that nobody takes what is left for an index
            folder = Folder(self._path)
            for name in (*folder.names(".gone"), *folder.names(".parquet")):
                (self._path / name).unlink()
        self.close()
        with suppress(OSError):  # files of the user are in it
            (self._path / ".lock").unlink(missing_ok=True)
            self._path.rmdir()

    def _claim(self) -> None:
        """Lock the folder, from the first write to the next flush: parts are numbered, and two writers would take the
        same numbers. Another writer is waited for."""
        deadline = time.monotonic() + TURN
        while self._claimed is None:
            try:
                self._claimed = Lockfile(self._path / ".lock")
            except Held as held:
                if time.monotonic() >= deadline:
                    raise SinkUnavailable(f"{self._url} is being written to by {held}") from None
                time.sleep(0.005)
            except OSError as error:
                raise SinkError(f"{self._url} cannot be locked: {error}") from error
            else:
                for torn in self._path.glob(".part-*.tmp"):  # a run died while it wrote them
                    torn.unlink()

    def _unclaim(self) -> None:
        if self._claimed is not None:
            self._claimed.release()
            self._claimed = None

    def _current(self) -> Part:
        folder, schema = self._opened()
        self._claim()
        if self._part is not None and self._part.sealed:
            self._finish()
        if self._part is None:
            self._part = Part(folder.path, folder.next_number(), rows.schema(schema, packed=True))
        return self._part

    def _finish(self) -> None:
        """Make the part's rows and deletions durable. One that fails is kept, and finished by the next call."""
        if self._part is not None:
            self._part.finish()
            self._part = None
        self._unclaim()

    def write(self, points: Sequence[Point]) -> None:
        _, schema = self._opened()
        batch = rows.Batch(points, schema, self._url)
        if batch.rows:
            with self._lock, _errors(self._url):
                part = self._current()
                part.write(batch.arrow(packed=True))
                if part.full:
                    self._finish()
        batch.finish()

    def delete(self, ids: Sequence[str]) -> None:
        self._opened()
        if ids:
            with self._lock, _errors(self._url):
                part = self._current()
                part.gone.update(dict.fromkeys(ids, part.rows))
                if part.full:
                    self._finish()

    def flush(self) -> None:
        self._opened()
        with self._lock, _errors(self._url):
            self._finish()

    def count(self) -> int:
        folder, _ = self._opened()
        with _errors(self._url):
            return sum(int(mask.sum()) for mask in folder.live().values())

    def ids(self) -> Iterator[Sequence[str]]:
        folder, _ = self._opened()
        with _errors(self._url):
            for name, mask in folder.live().items():
                for table in folder.tables(name, mask, ["id"]):
                    yield table.column("id").to_pylist()

    def fetch(self, ids: Sequence[str]) -> Sequence[Point]:
        folder, schema = self._opened()
        wanted = dict.fromkeys(ids)
        points: list[Point] = []
        with _errors(self._url):
            for name, mask in folder.live().items():
                if len(points) == len(wanted):
                    break
                hits = mask & folder.among(name, list(wanted))
                for table in folder.tables(name, hits) if hits.any() else ():
                    for batch in table.combine_chunks().to_batches():
                        points += [point for point in rows.points(batch, schema) if point.id in wanted]
        return points

    def maintain(self) -> None:
        """Rewrite parts with rows that do not count, and small ones where there are many; then remove the old files,
        notes last. Afterwards `*.parquet` is the index."""
        folder, schema = self._opened()
        with self._lock, _errors(self._url):
            self._finish()
            self._claim()
            masks, notes = folder.live(), folder.names(".gone")
            small = [name for name, mask in masks.items() if len(mask) < files.PART_ROWS // 2]
            old = [n for n, mask in masks.items() if not mask.all() or (n in small and len(small) > files.SMALL_PARTS)]
            part: Part | None = None
            try:
                for name in old:
                    for table in folder.tables(name, masks[name]):
                        part = part or Part(folder.path, folder.next_number(), rows.schema(schema, packed=True))
                        part.write(table)
                        if part.full:
                            part.finish()
                            part = None
                if part:
                    part.finish()
            except BaseException:
                if part:
                    part.drop()
                raise
            for name in old + notes:
                (folder.path / name).unlink()
                durable.sync(folder.path)
            self._unclaim()

    def close(self) -> None:
        with self._lock:
            if self._part is not None:  # it was not flushed, so not acknowledged
                self._part.drop()
            self._unclaim()
        self._part = None
        super().close()
