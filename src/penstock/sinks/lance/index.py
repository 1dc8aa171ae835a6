"""Searches a LanceDB table."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar

from penstock.core.contracts import Index
from penstock.core.errors import SinkError, UsageError
from penstock.core.fields import Path, Scalar
from penstock.core.filter_parser import facet_path, parse_filter
from penstock.core.records import Dense, Hit, MultiVector, Point, Vector
from penstock.core.schema import Manifest
from penstock.sinks import facets, manifests, maxsim, rows, words
from penstock.sinks.base import Opened
from penstock.sinks.lance import late
from penstock.sinks.lance.candidates import BATCH, Candidates, few
from penstock.sinks.lance.fields import Condition, counts, value_columns
from penstock.sinks.lance.table import INDEX_ROWS, TEXT, TableFiles, errors, fetch, reread

if TYPE_CHECKING:
    import pyarrow as pa

SETTLED = 1_000_000_000
"""Nanoseconds: a version that comes so much later has another time than the one before; and how old a look may be."""
PROBES, COMPARED = 100, 200
"""How many parts of the ANN index are looked into, and how many of the vectors there compared exactly, at least."""

T = TypeVar("T")


class LanceIndex(Opened[Any], Index):
    """Searches a LanceDB table: exactly, or by its ANN index with the exact score of what it finds. Many vectors a
    point are compared with those of a shortlist, or with `?exact` of all.

    It searches the newest version, which the time of the folder of versions tells; where folders keep no times, one
    that was the newest a second ago.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._files = TableFiles(url, frozenset({maxsim.EXACT}))
        self._exact = maxsim.compares_all(self._files.options, url)
        self._database: Any = None
        self._changed = self._looked = 0
        """The time of the folder of versions when it was looked into last, and when that was."""
        self._candidates = Candidates()
        self._place: tuple[int, ...] = ()
        self._following = threading.Lock()

    def generation(self, number: int) -> Self:
        return type(self)(self._files.generation(number))

    def open(self) -> None:
        manifest = self.manifest()
        self._place = self._files.place()
        with errors(self._url):
            database = self._files.connect("search")
            table = reread(lambda: database.open_table(self._files.name))
        self._hold(table, manifest.schema)
        self._database = database

    def close(self) -> None:
        self._database = None
        super().close()

    def manifest(self) -> Manifest:
        if (kept := self._files.manifest()) is None:
            raise SinkError(f"there is no index at {self._url}")
        return kept

    def _follow(self) -> None:
        """Open the table anew where another one has taken its place: what LanceDB has cached is of the old one. Raises
        SinkError where there is none, or one with vectors of another model."""
        place = self._files.place()
        if place == self._place:
            return
        with self._following:
            if place == self._place:
                return
            manifest, (_, schema) = self.manifest(), self._opened()
            if manifest.schema != schema:
                raise SinkError(f"{self._url} was replaced by an index of another model")
            self._database = self._files.connect("search")
            self._handle = self._database.open_table(self._files.name)
            self._candidates = Candidates()
            self._changed, self._place = 0, place

    def _read(self, read: Callable[[Any], T]) -> T:
        """Read the newest version of the table."""
        self._opened()

        def newest() -> T:
            self._follow()
            table, _ = self._opened()
            now, changed = time.time_ns(), self._files.versions.stat().st_mtime_ns
            # A version so new may be followed by another one within the same tick of the clock; and folders of mounted
            # buckets keep no times.
            if changed != self._changed or not changed + SETTLED < now < self._looked + SETTLED:
                table.checkout_latest()
                self._changed, self._looked = changed, now
            try:
                return read(table)
            except RuntimeError:
                self._changed = 0  # the next read looks again
                raise

        with errors(self._url):
            return reread(newest)

    def search(
        self, vector: Vector, k: int = 10, where: Mapping[str, Any] | None = None, *, using: str | None = None
    ) -> list[Hit]:
        _, schema = self._opened()
        name, space = rows.target(vector, schema, using, self._url)
        assert isinstance(vector, Dense | MultiVector)
        if k < 1:
            return []
        wanted = parse_filter(where)
        manifests.check_filterable(schema, wanted, self._url)

        def read(table: Any) -> list[Hit]:
            condition = Condition(table, self._url).sql(wanted) if wanted else ""
            if isinstance(vector, MultiVector):
                query = maxsim.Query(vector, space.metric, self._url, space.precision)
                fixed = self._database.open_table(self._files.name)  # others move the other one to newer versions
                return late.nearest(fixed, condition, (name, space), query, k, exact=self._exact)
            query = table.search(vector.values, vector_column_name=rows.vector_column(name))
            query = query.distance_type(space.metric).limit(k).nprobes(PROBES).refine_factor(max(4, -(-COMPARED // k)))
            query = query.select([*rows.COLUMNS, "_distance"])
            if condition:
                total = table.count_rows()
                passing = table.count_rows(condition) if total >= INDEX_ROWS else 0
                if passing and few(passing, space.dim):
                    column = rows.vector_column(name)
                    return self._candidates.nearest(table, condition, column, space.metric, vector.values, k)
                query = query.where(condition, prefilter=True)
                if passing:
                    # Where a tenth passes or more, the nearest are in the parts that are looked into anyway.
                    query = query.nprobes(max(PROBES, PROBES * total // (10 * passing)))
                else:
                    query = query.bypass_vector_index()
            return _hits(query.to_arrow(), space.metric)

        return self._read(read)

    @property
    def finds_words(self) -> bool:
        return self._read(_has_words)

    def search_words(self, text: str, k: int = 10, where: Mapping[str, Any] | None = None) -> list[Hit]:
        _, schema = self._opened()
        wanted = parse_filter(where)
        manifests.check_filterable(schema, wanted, self._url)
        if k < 1 or not (asked := " ".join(words.as_written(text))):
            return []

        def read(table: Any) -> list[Hit]:
            from lancedb.query import MatchQuery

            if not _has_words(table):
                raise UsageError(f"{self._url} has no full text yet; the next ingest into it makes it")
            query = table.search(MatchQuery(asked, TEXT)).limit(k).select([*rows.COLUMNS, "_score"])
            if wanted:
                query = query.where(Condition(table, self._url).sql(wanted), prefilter=True)
            found = query.to_arrow()
            chunks = [chunk for batch in found.to_batches() for chunk in rows.chunks(batch)]
            return [Hit(score, chunk) for score, chunk in zip(found.column("_score").to_pylist(), chunks, strict=True)]

        return self._read(read)

    def facets(
        self, names: Sequence[str], where: Mapping[str, Any] | None = None, *, limit: int = 20
    ) -> Mapping[str, Sequence[tuple[Scalar, int]]]:
        _, schema = self._opened()
        paths = {name: facet_path(name) for name in names}
        wanted = parse_filter(where)
        manifests.check_filterable(schema, wanted, self._url)
        if any(path is not None for path in paths.values()):
            manifests.check_fields(schema, self._url)

        def read(table: Any) -> list[Mapping[tuple[type, Scalar], int]]:
            columns = Condition(table, self._url)
            condition = columns.sql(wanted) if wanted else ""
            return [_counts(table, columns, path, condition) for path in paths.values()]

        return {name: facets.most(found, limit) for name, found in zip(paths, self._read(read), strict=True)}

    def fetch(self, ids: Sequence[str]) -> Sequence[Point]:
        _, schema = self._opened()
        return self._read(lambda table: fetch(table, schema, ids))

    def count(self) -> int:
        return self._read(lambda table: int(table.count_rows()))


def _counts(table: Any, columns: Condition, path: Path | None, condition: str) -> Mapping[tuple[type, Scalar], int]:
    """How many rows that meet the condition have each value at the path, or for None are of each type."""
    if path is None:
        count = table.count_rows(condition or None)
        images = table.count_rows(f"image IS NOT NULL{f' AND {condition}' if condition else ''}")
        numbers = {(str, "text"): count - images, (str, "image"): images}
        return {value: number for value, number in numbers.items() if number}
    columns.check_complete(path)
    names = value_columns(table.schema.names, path)
    if not names:
        return {}
    query = table.search().select(names)
    return counts((query.where(condition) if condition else query).to_batches(BATCH), names)


def _has_words(table: Any) -> bool:
    return any(TEXT in index.columns for index in table.list_indices())


def _hits(found: pa.Table, metric: str) -> list[Hit]:
    best = 0 if metric == "l2" else 1
    scores = [best - distance for distance in found.column("_distance").to_pylist()]
    chunks = [chunk for batch in found.to_batches() for chunk in rows.chunks(batch)]
    return [Hit(score, chunk) for score, chunk in zip(scores, chunks, strict=True)]
