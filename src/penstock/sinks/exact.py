"""Scores of dense vectors compared one by one, for what a store's own search leaves out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from penstock.core.records import Dense


def scores(query: Dense, vectors: Sequence[Any], metric: str) -> list[float]:
    """Compare the query with each: larger is nearer, a negative distance for l2."""
    import numpy as np

    target, matrix = query.values.astype(np.float64), np.array(vectors, dtype=np.float64)
    if metric == "l2":
        found = -np.linalg.norm(matrix - target, axis=1)
    else:
        found = matrix @ target
    if metric == "cosine":
        lengths = np.linalg.norm(matrix, axis=1) * np.linalg.norm(target)
        found = np.divide(found, lengths, out=np.zeros_like(found), where=lengths > 0)
    return list(found.tolist())
