"""Counting values of metadata where a store cannot, or gives them one by one."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal

from penstock.core.errors import UsageError
from penstock.core.fields import Path, Scalar, kind, scalars, value_at
from penstock.core.records import Chunk

Facet = Sequence[tuple[Scalar, int]]

MOST_VALUES = 100_000
"""Different values that a field is counted of: memory must not grow with the corpus."""
MOST_CHARACTERS = 1 << 26
"""Of all the different texts of a field."""


def count(chunks: Iterable[Chunk], paths: Sequence[Path | None], limit: int, url: str) -> list[Facet]:
    """The most frequent values at each path, or for None the types, and how many of the chunks have each.

    Reads the chunks once, and keeps none. Raises UsageError for a field of more values than are counted.
    """
    fields = [_Values(path, url) for path in paths]
    for chunk in chunks:
        for field in fields:
            field.add(chunk)
    return [most(field.counts, limit) for field in fields]


class _Values:
    """The values of one field that were seen so far."""

    def __init__(self, path: Path | None, url: str) -> None:
        self._path, self._url = path, url
        self.counts: Counter[tuple[type, Scalar]] = Counter()
        self._characters = 0

    def add(self, chunk: Chunk) -> None:
        path = self._path
        values = [type_of(chunk.image is None)] if path is None else scalars(value_at(chunk.metadata, path))
        for key in {(kind(value), value) for value in values if value == value}:  # NaN equals nothing
            if key not in self.counts:
                self._characters += len(key[1]) if isinstance(key[1], str) else 0
                if len(self.counts) >= MOST_VALUES or self._characters > MOST_CHARACTERS:
                    raise UsageError(
                        f"{self._url}: {'.'.join(path or ())!r} has too many different values to count, more than"
                        f" {len(self.counts):,}: count another field, or the chunks that pass a filter"
                    )
            self.counts[key] += 1


def most(counts: Mapping[tuple[type, Scalar], int], limit: int) -> Facet:
    """The values of the largest counts: those of equal ones in the order of their texts, see `written`."""
    best = heapq.nsmallest(limit, counts.items(), key=lambda one: (-one[1], written(one[0][1]), one[0][0].__name__))
    return [(value, number) for (_, value), number in best]


def written(value: Scalar) -> str:
    """The text by which a value is in an order among others: the same for 1 and 1.0, and without exponents."""
    if isinstance(value, float):
        text = f"{Decimal(repr(value)):f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return str(value)


def type_of(text: bool) -> str:
    return "text" if text else "image"
