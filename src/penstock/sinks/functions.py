"""Two functions as a sink: one that writes points, one that deletes them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from penstock.core.contracts import Sink
from penstock.core.errors import SinkError, UsageError
from penstock.core.precision import PRECISIONS
from penstock.core.records import Dense, MultiVector, Point, Sparse
from penstock.core.schema import IndexSchema, Manifest
from penstock.sinks import manifests, rows
from penstock.support.asynchronous import Calls

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


class FunctionSink(Sink):
    """Writes points by functions of your own, plain or async.

    >>> sink = FunctionSink("notes", write=upsert, delete=remove)
    >>> Pipeline("docs/", into=sink).run()

    - `name`: the ledger knows the sink by it, as `function://notes`.
    - `write(points)`: an upsert by `point.id`; a point has `text`, `uri`, `metadata` and `vector` as well. Points may
      come again after a crash: written again, they must change nothing. No id is twice in one call.
    - `delete(ids)`: removes these; an id that is not there is no error.
    - `flush()`: makes durable what was written. Without it, it is when `write` and `delete` return.
    - `fetch(ids)` and `ids()`: give back points as they were written, and every id. Both or neither.
    - `max_rows`: the most points, or ids, of one call.
    - `manifest`: the file that says what the index is made of and which ledger fills it; by default
      `.penstock/notes.json`, beside the ledger. Processes that fill one index have to share it.

    One call at a time is made. Raise `penstock.core.errors.Transient` where the same call may succeed later, and
    `Rejected` or `TooLarge` for points that cannot be written; anything else fails the documents, one after the other.

    Without `fetch` and `ids`, moved documents are embedded again, and the index can be neither verified nor copied,
    reindexed or adopted: if the ledger is lost, remove the manifest, and all is written again. Penstock does not notice
    that the store itself was emptied: then, too, remove the manifest. It is not searched through Penstock.
    """

    accepts = frozenset({Dense, MultiVector, Sparse})
    precisions = frozenset(PRECISIONS)
    named = True

    def __init__(
        self,
        name: str,
        *,
        write: Callable[[list[Point]], Any],
        delete: Callable[[list[str]], Any],
        flush: Callable[[], Any] | None = None,
        fetch: Callable[[list[str]], Any] | None = None,
        ids: Callable[[], Iterable[str]] | None = None,
        max_rows: int = 1000,
        manifest: str | os.PathLike[str] | None = None,
    ) -> None:
        if not NAME.fullmatch(name):
            raise UsageError(
                f"invalid name {name!r} of a sink: expected letters, digits, '_', '-' and '.', such as notes"
            )
        if (fetch is None) != (ids is None):
            raise UsageError("a sink is read back by fetch and ids together: give both, or neither")
        if max_rows < 1:
            raise UsageError(f"invalid max_rows {max_rows}: expected at least 1")
        self.name, self.max_rows = name, max_rows
        self.path = Path(manifest) if manifest is not None else Path(manifests.STATE) / f"{name}.json"
        self.readable = fetch is not None
        self._write, self._delete, self._flush = write, delete, flush
        self._fetch, self._ids = fetch, ids
        self._calls = Calls()
        self._schema: IndexSchema | None = None

    def __repr__(self) -> str:
        return f"FunctionSink({self.name!r})"

    @property
    def url(self) -> str:
        return f"function://{self.name}"

    def manifest(self) -> Manifest | None:
        return manifests.read(self.path, self.url)

    def open(self, manifest: Manifest) -> None:
        kept = self.manifest()
        manifests.admit(self, kept, manifest)
        if kept is None:
            manifests.make_folder(self.path.parent, self.url)
            with manifests.changing(self.path, self.url):
                if (other := self.manifest()) is None:
                    manifests.keep(self.path, manifest)
                else:  # another run was first
                    manifests.check_schema(other.schema, manifest.schema, self.url)
        self._schema = manifest.schema

    def close(self) -> None:
        self._schema = None

    def replace_manifest(self, manifest: Manifest) -> None:
        with manifests.changing(self.path, self.url):
            manifests.keep(self.path, manifest)

    def exchange_manifest(self, old: Manifest, new: Manifest) -> bool:
        return manifests.exchange(self.path, self.url, old, new)

    def write(self, points: Sequence[Point]) -> None:
        schema = self._opened()
        for point in points:
            rows.check_point(point, schema, self.url)
        self._calls.call(self._write, list({point.id: point for point in points}.values()))

    def delete(self, ids: Sequence[str]) -> None:
        self._opened()
        self._calls.call(self._delete, list(dict.fromkeys(ids)))

    def flush(self) -> None:
        self._opened()
        if self._flush is not None:
            self._calls.call(self._flush)

    def count(self) -> int:
        return sum(map(len, self.ids()))

    def ids(self) -> Iterator[Sequence[str]]:
        self._opened()
        if self._ids is None:
            raise self._write_only()
        every = iter(self._ids())
        while page := list(islice(every, self.max_rows)):
            yield page

    def fetch(self, ids: Sequence[str]) -> Sequence[Point]:
        self._opened()
        if self._fetch is None:
            raise self._write_only()
        return list(self._calls.call(self._fetch, list(dict.fromkeys(ids))))

    def _opened(self) -> IndexSchema:
        if self._schema is None:
            raise SinkError(f"{self.url} is not open")
        return self._schema

    def _write_only(self) -> UsageError:
        return UsageError(
            f"{self.url} cannot be read back: give FunctionSink fetch and ids; or remove {self.path}, and the next run"
            " writes everything again"
        )
