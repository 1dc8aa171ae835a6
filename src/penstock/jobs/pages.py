"""From a query's vector to a page of hits: ever more are fetched until as many as the page needs are left of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from penstock.core.contracts import Index
from penstock.core.errors import UsageError
from penstock.core.pieces import PieceSize
from penstock.core.records import Dense, Hit, Sparse, Vector
from penstock.core.schema import VectorSpec
from penstock.jobs.hints import hint
from penstock.jobs.queries import Query
from penstock.jobs.since import within
from penstock.jobs.vector_math import collapse_duplicates

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Values = NDArray[np.float32]


class Page(NamedTuple):
    hits: list[Hit]
    stands_for: list[int]
    """For each hit, itself and its near-duplicates, where these are collapsed."""
    cursor: str | None
    """Leads to the next page; None where there is none."""
    hint: str | None = None
    """Where the filter asks for what no chunk has, so that nothing passes it."""


def find_page(index: Index, query: Query, vector: Vector, name: str, spec: VectorSpec) -> Page:
    """The hits from `query.offset` on, nearest first."""
    if query.distinct and spec.kind != "Dense":
        raise UsageError(f"distinct: {spec.kind} vectors cannot be compared with each other")
    needed, depth = query.offset + query.k + 1, depth_of(query, index)
    deepest = depth + len(query.unlike)
    if index.max_k is not None and query.k <= index.max_k:
        deepest = min(deepest, index.max_k)
    limit = min((2 * needed if query.distinct else needed) + len(query.unlike), deepest)
    where = within(query.where, query.since)
    while True:
        hits = nearest(index, vector, limit, where, name)
        kept = [hit for hit in hits if wanted(hit, query)]
        found = distinct_of(index, kept, name) if query.distinct else [(hit, 1) for hit in kept]
        below = query.threshold is not None and bool(hits) and hits[-1].score < query.threshold
        if len(found) >= needed or below or len(hits) < limit or limit >= deepest:
            return page_of(query, found, depth, None if hits else hint(index, vector, query.where, name))
        limit = min(2 * limit, deepest)


def nearest(index: Index, vector: Vector, k: int, where: Mapping[str, Any] | None, name: str) -> list[Hit]:
    """The k nearest. A sparse vector is near to those alone that have something in common with it."""
    if not isinstance(vector, Sparse):
        return index.search(vector, k, where, using=name)
    if not len(vector.indices):  # a text without a word that counts, which some stores refuse
        return []
    return [hit for hit in index.search(vector, k, where, using=name) if hit.score > 0]


def depth_of(query: Query, index: Index) -> int:
    """The most hits that pages of the query lead to."""
    depth = max(query.k, query.max_depth)
    if index.max_k is not None and query.k <= index.max_k:  # the store itself refuses a larger k
        depth = min(depth, index.max_k)
    return depth


def page_of(query: Query, found: Sequence[tuple[Hit, int]], depth: int, why: str | None) -> Page:
    """The page at `query.offset` of all that were found."""
    end = query.offset + query.k
    page = found[query.offset : end]
    more = len(found) > end and end < depth
    return Page([hit for hit, _ in page], [n for _, n in page], query.cursor(end) if more else None, why)


def wanted(hit: Hit, query: Query) -> bool:
    kind = "text" if hit.chunk.image is None else "image"
    return (
        hit.chunk.id not in query.unlike
        and (query.threshold is None or hit.score >= query.threshold)
        and (not query.types or kind in query.types)
    )


def distinct_of(index: Index, hits: Sequence[Hit], name: str) -> list[tuple[Hit, int]]:
    """The hits that are near-duplicates of none before, and how many each stands for."""
    stored = stored_vectors(index, [hit.chunk.id for hit in hits], name)
    return [(hits[position], n) for position, n in collapse_duplicates([stored.get(hit.chunk.id) for hit in hits])]


def stored_vectors(index: Index, ids: Sequence[str], name: str) -> dict[str, Values]:
    """Of those points that have a vector of that name, which is dense."""
    found: dict[str, Values] = {}
    for points in PieceSize({}, max(1, len(ids))).read(index.fetch, ids):  # they may have many other vectors each
        for point in points:
            if isinstance(vector := point.vectors.get(name), Dense):
                found[point.id] = vector.values
    return found
