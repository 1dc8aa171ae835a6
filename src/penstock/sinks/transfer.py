"""Points on their way from one store into another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from penstock.core.contracts import Sink
from penstock.core.errors import Rejected, TooLarge
from penstock.core.pieces import portions
from penstock.core.records import Point
from penstock.core.retry import Retry

PAGE = 512
"""Points that are read and written together, at most."""


def write_all(new: Sink, points: Sequence[Point], retry: Retry) -> Mapping[str, str]:
    """Write these; gives the ids that were refused."""
    refused: dict[str, str] = {}
    for part in portions(points, new.max_rows, new.max_bytes):
        try:
            retry.call("write", partial(new.write, part))
        except Rejected as error:
            refused |= error.reasons
        except TooLarge as error:
            if len(part) == 1:
                refused[part[0].id] = str(error)
            else:
                refused |= write_all(new, part[: len(part) // 2], retry)
                refused |= write_all(new, part[len(part) // 2 :], retry)
    return refused


def held_equal(new: Sink, points: Sequence[Point]) -> set[str]:
    """Which of these the target holds, equal in everything."""
    wanted = {point.id: point for point in points}
    return {found.id for found in new.fetch(list(wanted)) if _equal(found, wanted[found.id])}


def _equal(one: Point, other: Point) -> bool:
    return (
        one.chunk == other.chunk
        and one.vectors.keys() == other.vectors.keys()
        and all(_bits(vector) == _bits(other.vectors[name]) for name, vector in one.vectors.items())
    )


def _bits(vector: Any) -> tuple[object, ...]:
    indices = getattr(vector, "indices", None)
    return type(vector), vector.values.shape, vector.values.tobytes(), None if indices is None else indices.tobytes()
