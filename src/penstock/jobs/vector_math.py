"""Arithmetic of query vectors: several combined into one; and which hits are near-duplicates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from penstock.core.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Values = NDArray[np.float32]

LIKE, UNLIKE = 0.75, 0.25
"""How much examples move a query (Rocchio). Where there is nothing but examples they are the query."""
MINUS = 0.5
"""How much of each unwanted term is taken away."""
DUPLICATE = 0.98
"""The cosine from which two hits are near-duplicates."""


def unit(values: Values) -> Values:
    import numpy as np

    norm = np.linalg.norm(values)
    scaled: Values = (values / norm).astype(np.float32) if norm > 0 else values
    return scaled


def combine(
    parts: Sequence[tuple[Values, float]],
    like: Sequence[Values] = (),
    unlike: Sequence[Values] = (),
    minus: Sequence[Values] = (),
) -> Values:
    """Add up the parts as a weighted sum of unit vectors, moved towards liked examples and away from unliked ones.

    A single part stays as it is: its length may carry meaning.
    """
    if len(parts) == 1 and not (like or unlike or minus):
        return parts[0][0]
    terms = [(unit(values), weight) for values, weight in parts if weight > 0]
    query = unit(_sum(terms)) if terms else None
    if like:
        mean = unit(_sum([(unit(one), 1 / len(like)) for one in like]))
        query = mean if query is None else query + LIKE * mean
    assert query is not None, "a query without a part or an example is refused before it comes here"
    if unlike:
        query = query - UNLIKE * _sum([(unit(one), 1 / len(unlike)) for one in unlike])
    if minus:
        query = query - _sum([(unit(one), MINUS) for one in minus])
    import numpy as np

    if not np.linalg.norm(query) > 1e-6:
        raise UsageError("the parts of the query cancel each other out")
    return unit(query)


def _sum(terms: Sequence[tuple[Any, float]]) -> Any:
    return sum(weight * values for values, weight in terms)


def collapse_duplicates(vectors: Sequence[Values | None]) -> list[tuple[int, int]]:
    """Positions of the vectors that are unlike all before them, and how many each stands for, itself among them.

    None (a vector that is not available) is like no other.
    """
    import numpy as np

    dim = next((len(one) for one in vectors if one is not None), 0)
    kept = np.empty((len(vectors), dim), np.float32)
    positions: list[int] = []
    counts: dict[int, int] = {}
    rows: list[int] = []
    for position, values in enumerate(vectors):
        if values is not None:
            normed = unit(values)
            cosines = kept[: len(rows)] @ normed
            if len(rows) and cosines[nearest := int(cosines.argmax())] >= DUPLICATE:
                counts[rows[nearest]] += 1
                continue
            kept[len(rows)] = normed
            rows.append(position)
        positions.append(position)
        counts[position] = 1
    return [(position, counts[position]) for position in positions]
