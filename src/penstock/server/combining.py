"""One vector to search by, of several; and which hits are all but the same."""

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
SAME = 0.98
"""A cosine from which two hits are one."""


def unit(values: Values) -> Values:
    import numpy as np

    norm = np.linalg.norm(values)
    found: Values = (values / norm).astype(np.float32) if norm > 0 else values
    return found


def combined(
    parts: Sequence[tuple[Values, float]],
    like: Sequence[Values] = (),
    unlike: Sequence[Values] = (),
    minus: Sequence[Values] = (),
) -> Values:
    """The parts as a weighted sum of unit vectors, moved towards what is liked and away from what is not.

    A part alone stays as it is: its length may mean something.
    """
    if len(parts) == 1 and not (like or unlike or minus):
        return parts[0][0]
    terms = [(unit(values), weight) for values, weight in parts if weight > 0]
    query = unit(_sum(terms)) if terms else None
    if like:
        middle = unit(_sum([(unit(one), 1 / len(like)) for one in like]))
        query = middle if query is None else query + LIKE * middle
    assert query is not None, "a question without a part or an example is refused before it comes here"
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


def collapsed(vectors: Sequence[Values | None]) -> list[tuple[int, int]]:
    """Places of those that are unlike all before them, and how many each stands for, itself among them.

    None (its vector is not to be had) is like nothing.
    """
    import numpy as np

    dim = next((len(one) for one in vectors if one is not None), 0)
    kept = np.empty((len(vectors), dim), np.float32)
    places: list[int] = []
    stands: dict[int, int] = {}
    rows: list[int] = []
    for place, values in enumerate(vectors):
        if values is not None:
            mine = unit(values)
            alike = kept[: len(rows)] @ mine
            if len(rows) and alike[nearest := int(alike.argmax())] >= SAME:
                stands[rows[nearest]] += 1
                continue
            kept[len(rows)] = mine
            rows.append(place)
        places.append(place)
        stands[place] = 1
    return [(place, stands[place]) for place in places]
