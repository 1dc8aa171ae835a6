"""Searches a SQLite file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from penstock.core.contracts import Index
from penstock.core.errors import SinkError, UsageError
from penstock.core.fields import Scalar
from penstock.core.filter_parser import facet_path, parse_filter
from penstock.core.records import Chunk, Dense, Hit, MultiVector, Vector
from penstock.core.schema import Manifest
from penstock.sinks import maxsim, rows
from penstock.sinks.sqlite import full_text, tokens
from penstock.sinks.sqlite.file import COLUMNS, PAGE, File, SqliteStore, marks, vectors_table
from penstock.sinks.sqlite.filters import condition, facet

LARGEST_K = 4096
"""The most results that sqlite-vec gives."""


class SqliteIndex(SqliteStore, Index):
    """Compares with every vector, or with those of the rows that `where` leaves; many vectors a point with those of a
    shortlist, or with `?exact` of all."""

    max_k = LARGEST_K
    _known = frozenset({maxsim.EXACT})

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._exact = maxsim.compares_all(self._options, url)

    def open(self) -> None:
        schema = self.manifest().schema
        self._hold(File(self._path, self._url, readonly=True, schema=schema), schema)

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
            within = f'AND rowid IN (SELECT "key" FROM chunks WHERE {condition(wanted, values)})'
        if isinstance(vector, MultiVector):
            asked = maxsim.Query(vector, space.metric, self._url, space.precision)
            return self._by_tokens(file, name, asked, k, within, values)
        sql = f"""WITH nearest AS (
                SELECT rowid AS "key", distance FROM {vectors_table(name)} WHERE embedding MATCH ? AND k = ? {within})
            SELECT {COLUMNS}, distance FROM nearest JOIN chunks USING ("key") ORDER BY distance"""
        assert isinstance(vector, Dense)
        query = vector.values.astype("float32").tobytes()
        found = file.all(sql, [query, k, *values])
        best = 1.0 if space.metric == "cosine" else 0.0
        return [Hit(best - cells[-1], rows.chunk(cells[:-1])) for cells in found]

    @property
    def finds_words(self) -> bool:
        file, _ = self._opened()
        return full_text.exists(file)

    def search_words(self, text: str, k: int = 10, where: Mapping[str, Any] | None = None) -> list[Hit]:
        file, _ = self._opened()
        wanted, values = parse_filter(where), list[Any]()
        asked = full_text.query(text)
        if k < 1 or not asked:
            return []
        within = f'AND +rowid IN (SELECT "key" FROM chunks WHERE {condition(wanted, values)})' if wanted else ""
        sql = f"""WITH best AS (
                SELECT rowid AS "key", rank AS score FROM words WHERE words MATCH ? {within} ORDER BY rank LIMIT ?)
            SELECT {COLUMNS}, score FROM best JOIN chunks USING ("key") ORDER BY score, chunks."key" """
        if not self.finds_words:
            raise UsageError(f"{self._url} has no full text yet; the next ingest into it makes it")
        return [Hit(-cells[-1], rows.chunk(cells[:-1])) for cells in file.all(sql, [asked, *values, k])]

    def _by_tokens(
        self, file: File, name: str, query: maxsim.Query, k: int, within: str, values: Sequence[Any]
    ) -> list[Hit]:
        best = tokens.nearest(file, name, query, k, within, values, exact=self._exact)
        chunks: dict[int, Chunk] = {}
        for start in range(0, len(best), PAGE):
            keys = [key for _, key in best[start : start + PAGE]]
            sql = f'SELECT {COLUMNS}, "key" FROM chunks WHERE "key" IN ({marks(keys)})'
            chunks |= {cells[-1]: rows.chunk(cells[:-1]) for cells in file.all(sql, keys)}
        return [Hit(score, chunks[key]) for score, key in best if key in chunks]

    def facets(
        self, names: Sequence[str], where: Mapping[str, Any] | None = None, *, limit: int = 20
    ) -> Mapping[str, Sequence[tuple[Scalar, int]]]:
        file, _ = self._opened()
        paths = {name: facet_path(name) for name in names}
        wanted = parse_filter(where)
        return {name: facet(file, path, wanted, limit) for name, path in paths.items()}
