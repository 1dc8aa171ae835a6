"""A LanceDB table: where its files are, how it is opened and read, and when it needs compaction."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar
from urllib.parse import urlencode

from penstock.core.errors import SinkError, SinkUnavailable, UsageError
from penstock.core.records import Point
from penstock.core.schema import IndexSchema, Manifest
from penstock.sinks import address, manifests, rows
from penstock.sinks.lance.fields import INDEXES, counts, kind_of
from penstock.sinks.words import LONGEST

EXAMPLE = "lance://./index, lance:///srv/index or lance://./index?table=notes"
PAGE = 4096
FRAGMENTS = 64
"""More fragments than this are compacted at the end of a run; during one, after as many writes and a growth by half."""
CACHES = {"write": (16 << 20, 8 << 20), "search": (1 << 30, 256 << 20)}
"""Bytes of indexes and of metadata that are kept: LanceDB's own limits are in gigabytes, and a writer needs neither."""
VERSIONS = 64
"""More versions than this are removed at the end of a run, but for the newest: each write and deletion makes one."""
DELETED_ROWS = 1000
"""So few deleted rows, or an eighth of the rows, take their room until the next compaction."""
READS = 5
"""Tries of a read whose version is cleaned up meanwhile."""
INDEX_ROWS = 100_000
"""Below, comparing with every vector is quick enough and exact."""

ADDITIONS, ROWS_AN_ADDITION = 4, 250_000
"""So many times LanceDB may add to an ANN index what is new, or once for so many rows, before it is built anew: each is
searched by itself, and fragments of two are never put together. Building takes time in proportion to the rows."""
FRESH, FRESH_WORDS = INDEX_ROWS // 4, 5000
"""So many rows are searched without the ANN index, or the index of words: 20 ms for each thousand."""
TEXT = "text"
"""The column of the index of words. A table has it from the start; one of an earlier version gets it by `maintain`."""

SAMPLE, FEW_VALUES = 20_000, 500
"""Where so many rows have so few values, all rows are taken to have few."""

T = TypeVar("T")


class TableFiles:
    """A table and the manifest beside it: `FOLDER/TABLE.lance`, `FOLDER/TABLE.penstock.json`."""

    def __init__(self, url: str, more: frozenset[str] = frozenset()) -> None:
        """`more`: options that the url may have."""
        folder, self.options = address.local(url, "lance", EXAMPLE, options=more | {"table"})
        self.url, self.folder = url, folder
        self.name = self.options.get("table", "chunks")
        if not self.name.replace("_", "").replace("-", "").isalnum():
            raise UsageError(f"invalid table {self.name!r} in {url!r}: expected letters, digits, - and _")
        self.data = folder / f"{self.name}.lance"
        self.versions = self.data / "_versions"
        self.sidecar = folder / f"{self.name}.penstock.json"

    def generation(self, number: int) -> str:
        """The url of another table of the folder."""
        return f"{self.url.partition('?')[0]}?{urlencode(self.options | {'table': f'{self.name}_{number}'})}"

    @property
    def exists(self) -> bool:
        """Whether the table has a version: a run may have died when there was no more than its folder."""
        return self.versions.is_dir() and any(self.versions.iterdir())

    def place(self) -> tuple[int, ...]:
        """Which folders the table is in; others take their place where it is replaced. Raises SinkError where there is
        none."""
        try:
            found = [os.stat(each) for each in (self.data, self.versions)]
        except OSError:
            raise SinkError(f"there is no index at {self.url}") from None
        return tuple(number for one in found for number in (one.st_dev, one.st_ino))

    @property
    def outdated(self) -> bool:
        """Whether there are so many versions that the older ones may need more room than the newest."""
        return sum(1 for _ in self.versions.iterdir()) > VERSIONS

    def manifest(self) -> Manifest | None:
        """The manifest beside the table; None where either of the two is missing."""
        return manifests.read(self.sidecar, self.url) if self.exists else None

    def connect(self, purpose: str = "write") -> Any:
        import lancedb

        indexes, metadata = CACHES[purpose]
        session = lancedb.Session(index_cache_size_bytes=indexes, metadata_cache_size_bytes=metadata)
        # Every read looks for the newest version: readers see what was written, and compaction never breaks them.
        # LanceDB takes 2 ms for that, which a search has no time for: see LanceIndex.
        often = timedelta(0) if purpose == "write" else None
        return lancedb.connect(str(self.folder), read_consistency_interval=often, session=session)


@contextmanager
def errors(url: str) -> Iterator[None]:
    """LanceDB raises plain RuntimeError, OSError and ValueError; a lost race with compaction passes on a new try."""
    try:
        yield
    except (RuntimeError, OSError, ValueError) as error:
        text = " ".join(str(error).split())[:500]
        kind = SinkUnavailable if "conflict" in text.lower() else SinkError
        raise kind(f"{url}: {text}") from error


def reread(read: Callable[[], T]) -> T:
    """Read, and again where a cleanup removed files of the version that was read: the newest one has its own."""
    for _ in range(READS - 1):
        try:
            return read()
        except (RuntimeError, OSError, ValueError) as error:
            if "not found" not in str(error).lower():
                raise
    return read()


def fetch(table: Any, schema: IndexSchema, ids: Sequence[str]) -> list[Point]:
    points: list[Point] = []
    wanted = list(dict.fromkeys(ids))
    columns = [*rows.COLUMNS, *map(rows.vector_column, schema.vectors)]
    for start in range(0, len(wanted), PAGE):
        query = table.search().where(rows.listed(wanted[start : start + PAGE])).select(columns)
        for batch in query.to_batches(PAGE):
            points += rows.points(batch, schema)
    return points


def words_index() -> Any:
    """The configuration of the index of words. The tokenizer parts `ERR_4711` in two and finds words where there are no
    spaces; a word is found as it is, since any language may come."""
    from lancedb.index import FTS

    return FTS(base_tokenizer="icu/split", max_token_length=LONGEST + 1, stem=False, remove_stop_words=False)


def crowded(table: Any) -> bool:
    """Whether there are so many fragments, deleted rows, or rows newer than an ANN index, that reading gets slow."""
    stats = table.stats()
    fragments = stats["fragment_stats"]
    if fragments["num_fragments"] > FRAGMENTS:
        return True
    # Lengths are rounded, and count deleted rows as well.
    deleted = fragments["num_fragments"] * (fragments["lengths"]["mean"] + 1) - stats["num_rows"]
    if deleted > DELETED_ROWS and deleted * 8 > stats["num_rows"]:
        return True
    words = min(FRESH, max(FRESH_WORDS, stats["num_rows"] // 8))
    indexes = (
        (table.index_stats(index.name), words if TEXT in index.columns else FRESH) for index in table.list_indices()
    )
    return any(stats.num_unindexed_rows > most for stats, most in indexes if stats)


def unindexed(table: Any, schema: IndexSchema) -> list[str]:
    """The columns that lack an index: texts and, once the table has outgrown reading all of it, dense vectors, ids, and
    fields of metadata that are numbers or have few values."""
    indexed = {column.strip("`") for index in table.list_indices() for column in index.columns}
    texts = [] if TEXT in indexed else [TEXT]
    if table.count_rows() < INDEX_ROWS:
        return texts
    dense = [rows.vector_column(name) for name, space in schema.vectors.items() if space.kind == "Dense"]
    missing = texts + [name for name in (*dense, "id") if name not in indexed]
    fields = [name for name in table.schema.names if kind_of(name) in INDEXES and name not in indexed]
    return missing + [name for name in fields if kind_of(name) == "number" or _has_few_values(table, name)]


def piecemeal(table: Any) -> list[str]:
    """The columns whose ANN index has been added to so often that searches get slow."""
    most = max(ADDITIONS, table.count_rows() // ROWS_AN_ADDITION)
    ann = [index for index in table.list_indices() if index.index_type.startswith("Ivf")]
    stats = [(index.columns[0].strip("`"), table.index_stats(index.name)) for index in ann]
    return [column for column, each in stats if each and each.num_indices > most]


def _has_few_values(table: Any, column: str) -> bool:
    """Whether it seems so from some rows. An index of many values takes long to build and is no quicker."""
    batches = table.search().select([column]).limit(SAMPLE).to_batches(SAMPLE)
    return 0 < len(counts(batches, [column])) <= FEW_VALUES
