"""Many vectors a point in a SQLite file: all of them as one blob in a table of their own, and their pooled vector in
sqlite-vec's, by which a search makes its shortlist."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from penstock.sinks import maxsim
from penstock.sinks.sqlite.file import PAGE, File, marks, tokens_table, vectors_table


def create(file: File, name: str) -> None:
    file.connection.execute(f'CREATE TABLE {tokens_table(name)} ("key" INTEGER PRIMARY KEY, "vectors" BLOB NOT NULL)')


def write(file: File, name: str, vectors: Sequence[Any], keys: Sequence[int]) -> list[Any]:
    """Write the vectors of these points; return the pooled one of each."""
    cells = [(key, maxsim.packed(values)) for key, values in zip(keys, vectors, strict=True)]
    file.connection.executemany(f"INSERT OR REPLACE INTO {tokens_table(name)} VALUES (?, ?)", cells)
    return [maxsim.pooled(values) for values in vectors]


def nearest(
    file: File, name: str, query: maxsim.Query, k: int, within: str, values: Sequence[Any], *, exact: bool
) -> list[tuple[float, int]]:
    """The scores and keys of the k points with the highest MaxSim: of a shortlist, unless it is `exact`. `within` is a
    condition on the `rowid`, with the values for it."""
    best: maxsim.Best[int] = maxsim.Best(query, k)
    sizes = _all(file, name, within, values) if exact else _shortlist(file, name, query, k, within, values)
    for keys in maxsim.pages(sizes):
        for start in range(0, len(keys), PAGE):
            page = keys[start : start + PAGE]
            sql = f'SELECT "key", "vectors" FROM {tokens_table(name)} WHERE "key" IN ({marks(page)})'
            found = file.all(sql, page)
            best.add([key for key, _ in found], [blob for _, blob in found])
    return best.found


def _shortlist(
    file: File, name: str, query: maxsim.Query, k: int, within: str, values: Sequence[Any]
) -> list[tuple[int, int]]:
    """The keys of the shortlist and the bytes of each one's vectors, as they lie in the file."""
    if not (count := maxsim.shortlist(file.count(), k)):
        return []
    sql = f"""WITH nearest AS (SELECT rowid AS "key" FROM {vectors_table(name)}
            WHERE embedding MATCH ? AND k = ? {within})
        SELECT "key", length("vectors") FROM nearest JOIN {tokens_table(name)} USING ("key")"""
    return sorted((key, size) for key, size in file.all(sql, [query.pooled.tobytes(), count, *values]))


def _all(file: File, name: str, within: str, values: Sequence[Any]) -> Iterator[tuple[int, int]]:
    sql = f"""SELECT rowid, length("vectors") FROM {tokens_table(name)} WHERE rowid > ? {within}
        ORDER BY rowid LIMIT {PAGE}"""
    last = 0
    while page := file.all(sql, [last, *values]):
        yield from ((key, size) for key, size in page)
        last = page[-1][0]
