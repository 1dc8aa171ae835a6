"""Counting values of metadata where a store cannot, or gives them one by one."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from penstock.core.fields import Path, Scalar, kind, scalars, value_at
from penstock.core.records import Chunk

Facet = Sequence[tuple[Scalar, int]]


def count(chunks: Iterable[Chunk], path: Path | None, limit: int) -> Facet:
    """The most frequent values at a path, or for None the types, and how many of the chunks have each."""
    counts: Counter[tuple[type, Scalar]] = Counter()
    for chunk in chunks:
        values = [type_of(chunk.image is None)] if path is None else scalars(value_at(chunk.metadata, path))
        counts.update({(kind(value), value) for value in values})
    return most(counts, limit)


def most(counts: Mapping[tuple[type, Scalar], int], limit: int) -> Facet:
    """The values of the largest counts: those of equal ones in the order of their texts."""
    best = heapq.nsmallest(limit, counts.items(), key=lambda one: (-one[1], str(one[0][1])))
    return [(value, number) for (_, value), number in best]


def type_of(text: bool) -> str:
    return "text" if text else "image"
