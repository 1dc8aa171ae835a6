"""Search of an index: a query is embedded by the model that made the index's vectors, or refused."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from penstock.core.contracts import Embedder, Index, MultiEmbedder, OneModel
from penstock.core.errors import SinkError, SpaceMismatch, UsageError
from penstock.core.generations import current
from penstock.core.records import VECTOR, Hit, Point, Vector
from penstock.core.schema import IndexSchema, Manifest
from penstock.embedders.named import image_queries, named

_FUNCTION = re.compile(r"[^\W\d]\w*(\.([^\W\d]\w*|<\w+>))+")
"""What a function is called as a model: its module and qualified name. No name on a model hub is like that."""
DISTINCT_AMONG = 1024
"""The most hits that are fetched to find `k` different texts."""


class OpenIndex:
    """An index together with its model. Needs no ledger; may be searched while a run fills it.

    >>> hits = open_index("lance://./index").search("how do I resume?", k=5)
    """

    def __init__(self, index: Index, embedder: Embedder | MultiEmbedder) -> None:
        self.index, self.embedder = index, named(embedder)
        self._loaded = False
        self._loading = threading.Lock()
        self._turns = threading.Semaphore(self.embedder.workers)
        """A model is called by no more threads at once than it allows, however many search."""

    @property
    def manifest(self) -> Manifest:
        return self.index.manifest()

    @cached_property
    def _schema(self) -> IndexSchema:
        """Read once: no index changes its schema, and a store is a request away."""
        return self.manifest.schema

    def search(
        self, query: str, k: int = 10, where: Mapping[str, Any] | None = None, *, using: str | None = None
    ) -> list[Hit]:
        """The k nearest chunks, nearest first; of one document with `where={"uri": ...}`.

        `using` names the vector to search by, where a chunk has several.
        """
        if not query.strip():
            raise UsageError("the query is empty")
        name = self._schema.name(using)
        return self._nearest(lambda: self.embedder.query([query], name), k, where, name)

    async def asearch(
        self, query: str, k: int = 10, where: Mapping[str, Any] | None = None, *, using: str | None = None
    ) -> list[Hit]:
        """`search`, awaited: in a thread, beside the event loop."""
        from asyncio import to_thread  # here, as no command needs it

        return await to_thread(self.search, query, k, where, using=using)

    def search_image(
        self, image: bytes, k: int = 10, where: Mapping[str, Any] | None = None, *, using: str | None = None
    ) -> list[Hit]:
        """The k nearest to an image, which is any file that can be decoded."""
        schema = self._schema
        name = schema.name(using)
        embedder = image_queries(self.embedder, name)
        if embedder is None:
            raise UsageError(f"the index is of {schema.vectors[name].model}, which embeds no images")
        return self._nearest(lambda: embedder.query_images([image]), k, where, name)

    def _nearest(
        self, query: Callable[[], Sequence[Vector]], k: int, where: Mapping[str, Any] | None, name: str
    ) -> list[Hit]:
        if k < 1:
            raise UsageError(f"invalid k {k}: expected at least 1")
        with self._loading:
            if not self._loaded:
                self.embedder.open()
                self._loaded = True
        with self._turns:
            vector = query()[0]
        return self.index.search(vector, k, where, using=name)

    def fetch(self, ids: Sequence[str]) -> Sequence[Point]:
        return self.index.fetch(ids)

    def __len__(self) -> int:
        return self.index.count()

    def close(self) -> None:
        self.index.close()
        self.embedder.close()

    def __enter__(self) -> OpenIndex:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class DistinctHit:
    """A hit, and farther ones whose chunks have the same text."""

    hit: Hit
    copies: tuple[Hit, ...] = ()

    @property
    def uris(self) -> tuple[str, ...]:
        """The documents of the copies, each once."""
        return tuple(dict.fromkeys(copy.chunk.uri for copy in self.copies))


def collapse(hits: Iterable[Hit]) -> list[DistinctHit]:
    """Put hits together whose chunks have the same text, in the order of the first of each. Images stay apart, as their
    texts are only captions."""
    groups: dict[tuple[str, str], list[Hit]] = {}
    for hit in hits:
        chunk = hit.chunk
        text = "" if chunk.image is not None else chunk.text.strip()
        groups.setdefault((text, "" if text else chunk.id), []).append(hit)
    return [DistinctHit(first, tuple(copies)) for first, *copies in groups.values()]


def distinct_hits(nearest: Callable[[int], Sequence[Hit]], k: int) -> list[DistinctHit]:
    """The k nearest hits with different texts. `nearest(k)` gives the k nearest, whatever their texts; it is asked for
    more where some of them are copies, for DISTINCT_AMONG at most."""
    limit = k
    while True:
        hits = nearest(limit)
        distinct = collapse(hits)
        if len(distinct) >= k or len(hits) < limit or limit >= DISTINCT_AMONG:
            return distinct[:k]
        limit = max(k, min(4 * limit, DISTINCT_AMONG))


def opened(base: Index) -> Index:
    """The current generation of an index, open. It may be switched, and emptied, between two looks at the base: then
    again."""
    index = current(base)
    try:
        index.open()
    except SinkError:
        if (again := current(base)).url == index.url:
            raise
        index = again
        index.open()
    return index


def check_model(schema: IndexSchema, embedder: MultiEmbedder, url: str) -> None:
    """Raise SpaceMismatch unless the model made the vectors of the index."""
    mine = embedder.describe()
    for name, held in schema.vectors.items():
        if name not in mine:
            raise SpaceMismatch(f"{url} has vectors named {name!r}, for which no model was given")
        if mine[name].fingerprint != held.fingerprint:
            raise SpaceMismatch(
                f"{url} was made with {held.model} (fingerprint {held.fingerprint[:8]}); {mine[name].model} as it is"
                f" here ({mine[name].fingerprint[:8]}) is another vector space: its answers would mean nothing"
            )


def models_of(schema: IndexSchema) -> str | dict[str, OneModel]:
    """The models that an index was made with, by the names of their vectors. Raises UsageError where one is a function,
    whose name must not be asked of a model hub."""
    for spec in schema.vectors.values():
        if _FUNCTION.fullmatch(spec.model) and not os.path.exists(spec.model):
            raise UsageError(
                f"the index was made by a function, {spec.model}, which only your program has: search it there, with"
                " penstock.open_index(url, model=...)"
            )
    if schema.vectors.keys() == {VECTOR}:
        return schema.only.model
    return {name: spec.model for name, spec in schema.vectors.items()}
