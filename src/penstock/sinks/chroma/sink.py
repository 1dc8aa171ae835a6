"""Writes to a collection of Chroma. Its telemetry is off, and its embedding functions are never loaded.

For servers, CHROMA_TOKEN is sent as `x-chroma-token` and as a bearer token; CHROMA_TENANT and CHROMA_DATABASE name
others than Chroma's defaults. **A folder serves one process at a time while it is written to**: each keeps the vector
index in memory, and a second one loses vectors. So a writer locks all others out, and readers lock writers out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

from penstock.core.contracts import Sink
from penstock.core.records import Point
from penstock.core.schema import Manifest
from penstock.sinks import manifests, rows
from penstock.sinks.chroma import points as encoding
from penstock.sinks.chroma.points import ABSENT
from penstock.sinks.chroma.wire import Collection, parse
from penstock.sinks.collection import AddressStore, closed_on_error

PAGE = 1000
FIRST = 100
"""Points of the first page, after which it is known how large they are."""
PAGE_BYTES = 32 << 20
"""Of a page: points are read with their images and vectors, whatever is asked of them."""


class ChromaStore(AddressStore[Collection]):
    """The part that sink and index share."""

    _parse = staticmethod(parse)

    def _connect(self, *, write: bool | None = None) -> Collection:
        return Collection(self._url, self._address, self._client, write=write)

    @property
    def _file(self) -> str:
        return "chroma.sqlite3"

    def _kept(self) -> Manifest | None:
        folder = self._address.folder
        if self._client is None and folder is not None and not (folder / "chroma.sqlite3").exists():
            return None  # a client would make the folder
        return super()._kept()

    def _pages(self, keys: Sequence[str] | None, where: dict[str, Any] | None = None) -> Iterator[list[Point]]:
        """The points of these keys, or all that pass Chroma's filter."""
        collection, _ = self._opened()
        start, size = 0, FIRST
        while keys is None or start < len(keys):
            if keys is None:
                request: dict[str, Any] = {"where": where, "limit": size, "offset": start}
            else:
                request = {"ids": list(keys[start : start + size])}
            answer = collection.get(include=["documents", "metadatas"], **request)
            if keys is None and not answer["ids"]:
                return
            start += size
            size = max(1, min(PAGE, 10 * size, PAGE_BYTES // encoding.mean_size(answer)))
            yield encoding.points(answer)

    def fetch(self, ids: Sequence[str]) -> Sequence[Point]:
        return [point for page in self._pages([*dict.fromkeys(map(encoding.key, ids))]) for point in page]


class ChromaSink(ChromaStore, Sink):
    settle = manifests.SETTLE
    max_rows = 2048
    max_bytes = 12 << 20
    """A server takes requests of 40 MB, and vectors are in them twice, in base 64."""

    def manifest(self) -> Manifest | None:
        return self._kept()

    def drop(self) -> None:
        self.close()
        if self._kept() is not None:
            with closing(self._connect(write=True)) as collection:
                collection.remove()

    def open(self, manifest: Manifest) -> None:
        manifests.supported(manifest.schema, self)
        self.close()
        with closed_on_error(self._connect(write=True)) as collection:
            kept = collection.manifest() or collection.create(manifest)
            manifests.check_schema(kept.schema, manifest.schema, self._url)
            with collection.request():
                self._batch = int(collection.client.get_max_batch_size())
            self._hold(collection, kept.schema)

    def replace_manifest(self, manifest: Manifest) -> None:
        self._opened()[0].keep(manifest)

    def write(self, points: Sequence[Point]) -> None:
        collection, schema = self._opened()
        batch = rows.Batch(points, schema, self._url)
        good = []
        for cells, vector in zip(batch.rows, batch.vectors, strict=True):
            if all(ABSENT < number < -ABSENT for number in (cells[2], cells[6] or 0)):
                good.append((cells, vector))
            else:
                batch.reasons[cells[0]] = "its ordinal or page does not fit into 64 bits"
        for start in range(0, len(good), self._batch):
            part = good[start : start + self._batch]
            with collection.request():
                collection.points.upsert(
                    ids=[encoding.key(cells[0]) for cells, _ in part],
                    embeddings=[vector for _, vector in part],
                    documents=[cells[3] for cells, _ in part],
                    metadatas=encoding.metadatas(part, filterable=schema.filterable),
                )
        batch.finish()

    def delete(self, ids: Sequence[str]) -> None:
        collection, _ = self._opened()
        keys = [*dict.fromkeys(map(encoding.key, ids))]
        for start in range(0, len(keys), self._batch):
            with collection.request():
                collection.points.delete(ids=keys[start : start + self._batch])

    def flush(self) -> None:
        """Chroma has written what it acknowledged to its log, which every reader sees."""
        self._opened()

    def ids(self) -> Iterator[Sequence[str]]:
        collection, _ = self._opened()
        start = 0
        while page := collection.get(limit=PAGE, offset=start, include=[])["ids"]:
            yield [encoding.id_of(key) for key in page]
            start += len(page)
