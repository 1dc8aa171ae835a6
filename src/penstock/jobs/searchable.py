"""Searching, whether of one index or of several: queries of Python, checked, and the hits that answer them."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypedDict, TypeVar, Unpack, overload

from penstock.core.contracts import Reranker
from penstock.core.errors import UsageError
from penstock.core.records import Hit, Point, Vector
from penstock.jobs.own_vectors import numbers_of
from penstock.jobs.pages import Page
from penstock.jobs.queries import Query, check_filter, checked
from penstock.jobs.since import Since, since_text
from penstock.jobs.snippets import highlights, words_of
from penstock.sinks.facets import Facet

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    OneQuery = str | bytes | os.PathLike[str] | Vector | NDArray[np.floating[Any]]
    """A text, an image (its bytes, or a path), or a vector of the index's own space."""

Q = TypeVar("Q", bound="OneQuery")
Where = Mapping[str, Any] | None
Facets = Mapping[str, Facet]
"""By the names of fields."""
FACET_LIMIT = 20
"""Values of a field that are given, the most frequent ones."""


class Options(TypedDict, total=False):
    """Of a search: see `Searchable.search`."""

    using: str | None
    hybrid: bool | Mapping[str, float]
    cursor: str | None
    threshold: float | None
    distinct: bool
    types: Sequence[str] | None
    rerank: str | Reranker | None
    since: Since | None


class Hits(list[Hit]):
    """A page of hits, nearest first, and what leads to the next one."""

    def __init__(
        self, page: Page, text: str | None, sources: Sequence[str], skipped: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(page.hits)
        self.cursor = page.cursor
        """Give it to the same search for the next page; None where there is none."""
        self.stands_for = page.stands_for
        """For each hit, itself and its near-duplicates, where the search was for distinct ones."""
        self.hint = page.hint
        """Where nothing was found: fields that the filter asks for and no chunk has, with the nearest known ones."""
        self.sources = list(sources)
        """For each hit, the url of the index that it is from: the one where it ranks best, if several have it."""
        self.skipped: Mapping[str, str] = skipped or {}
        """Where several indexes are searched: those whose model cannot take the query, by their urls, and why."""
        self._text = text

    def ordered(self, page: Page) -> Hits:
        """The hits of the page, which are some of these, reranked."""
        sources = [self.sources[hit.rank_before - 1] for hit in page.hits if hit.rank_before]
        return Hits(page, self._text, sources, self.skipped)

    @property
    def highlights(self) -> list[list[tuple[int, int]]]:
        """For each hit, where the words of the query stand in its text: (start, end), in characters."""
        words = words_of(self._text) if self._text else None
        return [highlights(hit.chunk.text, words) for hit in self]


class Searchable(ABC):
    """What can be searched, and has to be closed."""

    @overload
    def search(self, query: OneQuery, k: int = 10, where: Where = None, **options: Unpack[Options]) -> Hits: ...

    @overload
    def search(self, query: list[Q], k: int = 10, where: Where = None, **options: Unpack[Options]) -> list[Hits]: ...

    def search(
        self, query: OneQuery | list[Q], k: int = 10, where: Where = None, **options: Unpack[Options]
    ) -> Hits | list[Hits]:
        """The k nearest chunks, nearest first; of one document with `where={"uri": ...}`.

        `query`: a text, an image (bytes, or a `Path`) or a vector of the index's kind, of which an array of two
        dimensions is one of late interaction; a list is answered by a list, and embedded at once. Of `options`:
        - `using` names the vector to search by, where a chunk has several.
        - `hybrid=True` searches a text by all vectors of the index and by its full text, as far as it has one, and
          fuses the ranks of these legs; `hybrid={"vector": 1.0, "words": 0.5}` by these legs, with these weights.
        - `cursor`, of a page, leads the same query to the next one.
        - `threshold` is the least score.
        - `distinct` puts near-duplicates together: chunks whose vectors are nearly the same.
        - `since` is a time, or how long ago it was ("2h"): nothing older is found, by the field `time` or else
          `modified`.
        - `rerank`, the name of a cross-encoder or a `Reranker`, has it order the best hits: `k`, but at least 50.
          Scores are its own then, `threshold` as well, and each hit has its `rank_before`. Images come behind.
        - `types` are those of the chunks to find: `["text"]`, `["image"]`.
        """
        if unknown := options.keys() - Options.__annotations__.keys():
            raise TypeError(f"search() got an unexpected keyword argument {min(unknown)!r}")
        self._check_options(options)
        if not isinstance(query, list):
            return self._answer([_query(query, k, where, options)], options.get("rerank"))[0]
        if options.get("cursor") is not None:
            raise UsageError("cursor: it belongs to one query; expected no list of them")
        return self._answer([_query(one, k, where, options) for one in query], options.get("rerank")) if query else []

    @overload
    async def asearch(self, query: OneQuery, k: int = 10, where: Where = None, **options: Unpack[Options]) -> Hits: ...

    @overload
    async def asearch(
        self, query: list[Q], k: int = 10, where: Where = None, **options: Unpack[Options]
    ) -> list[Hits]: ...

    async def asearch(
        self, query: OneQuery | list[Q], k: int = 10, where: Where = None, **options: Unpack[Options]
    ) -> Hits | list[Hits]:
        """`search`, awaited: in a thread, beside the event loop."""
        from asyncio import to_thread  # here, as no command needs it

        return await to_thread(lambda: self.search(query, k, where, **options))

    def search_image(
        self, image: bytes | os.PathLike[str], k: int = 10, where: Where = None, **options: Unpack[Options]
    ) -> Hits:
        """The k nearest to an image, which is any file that can be decoded."""
        return self.search(image, k, where, **options)

    def facets(self, names: str | Sequence[str], where: Where = None, limit: int = FACET_LIMIT) -> Facets:
        """The values of fields of metadata, or of `type`, and how many of the chunks that pass the filter have each: of
        each field the `limit` most frequent ones."""
        names = [names] if isinstance(names, str) else list(names)
        if limit < 1:
            raise UsageError(f"invalid limit {limit}: expected at least 1")
        check_filter(where)
        return self._count_values(names, where, limit)

    @abstractmethod
    def fetch(self, ids: Sequence[str]) -> Sequence[Point]:
        """The points of these ids, as many of them as there are."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def answer(self, queries: Sequence[Query]) -> list[Hits]:
        """The page of each query; all have the same options."""

    def _answer(self, queries: Sequence[Query], rerank: str | Reranker | None) -> list[Hits]:
        if rerank is None:
            return self.answer(queries)
        from penstock.jobs.rerank import candidates, opened, reranked

        with opened(rerank) as model:
            answers = self.answer([candidates(query) for query in queries])
            return [
                hits.ordered(reranked(model, query, Page([*hits], hits.stands_for, None, hits.hint)))
                for query, hits in zip(queries, answers, strict=True)
            ]

    def _check_options(self, options: Options) -> None:
        """Raise UsageError for an option that cannot be applied: here there is none."""
        return

    @abstractmethod
    def _count_values(self, names: Sequence[str], where: Where, limit: int) -> Facets:
        """`facets`, of checked arguments."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _query(one: Any, k: int, where: Where, options: Options) -> Query:
    """One query, checked."""
    if k < 1:
        raise UsageError(f"invalid k {k}: expected at least 1")
    values: dict[str, Any] = {name: value for name, value in options.items() if name != "cursor"}
    values["rerank"] = values.get("rerank") is not None
    types = values.pop("types", None) or ()
    if values.get("since") is not None:
        values["since"] = since_text(values["since"])
    query = Query(k=k, where=where, types=(types,) if isinstance(types, str) else tuple(types), **values)
    if isinstance(one, str):
        query = replace(query, text=one)
    elif isinstance(one, bytes):
        query = replace(query, image=one)
    elif isinstance(one, os.PathLike):
        query = replace(query, image=_read(one))
    else:
        query = replace(query, vector=numbers_of(one))
    return checked(query, options.get("cursor"))


def _read(path: os.PathLike[str]) -> bytes:
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as error:
        raise UsageError(f"{os.fspath(path)} cannot be read: {error.strerror}") from None
