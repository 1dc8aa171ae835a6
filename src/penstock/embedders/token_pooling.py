"""Fewer vectors of a passage: those of like tokens become one.

Ward's clustering by cosine distance, as sentence-transformers does it: a passage of n vectors, the first one left
out, gets n // factor clusters, each of which is represented by its mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WINDOW = 2048
"""Vectors that are compared with each other: memory and time grow with the square. Longer passages are divided."""


def pooled(
    vectors: NDArray[np.float32], factor: float, *, kept: int = 1, normalize: bool = True
) -> NDArray[np.float32]:
    """The first `kept` vectors, and the means of the clusters of the others, in the order of their first members."""
    import numpy as np

    rest = vectors[kept:]
    parts = [vectors[:kept], *(_means(rest[at : at + WINDOW], factor) for at in range(0, len(rest), WINDOW))]
    result = np.concatenate(parts)
    if normalize:
        result /= np.maximum(np.linalg.norm(result, axis=1, keepdims=True), 1e-12)
    return result


def _means(vectors: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    import numpy as np

    clusters = max(int(len(vectors) // factor), 1)
    if clusters >= len(vectors):
        return vectors
    labels = _clustered(np.clip(1 - vectors @ vectors.T, 0, 2), clusters)
    _, first, which = np.unique(labels, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))[which]
    means = np.zeros((len(first), vectors.shape[1]), np.float32)
    np.add.at(means, order, vectors)
    means /= np.bincount(order)[:, None].astype(np.float32)
    return means


def _clustered(distances: NDArray[np.float32], clusters: int) -> NDArray[np.intp]:
    """A label for each, by joining the two nearest clusters again and again; of equal ones the first."""
    import numpy as np

    count = len(distances)
    squares = distances.astype(np.float64) ** 2
    np.fill_diagonal(squares, np.inf)
    labels, sizes = np.arange(count), np.ones(count)
    nearest = squares.argmin(axis=1)
    least = squares[labels, nearest]
    for _ in range(count - clusters):
        i = int(least.argmin())
        j = int(nearest[i])
        i, j = min(i, j), max(i, j)
        joined = (sizes + sizes[i]) * squares[i] + (sizes + sizes[j]) * squares[j] - sizes * squares[i, j]
        joined /= sizes + sizes[i] + sizes[j]
        joined[i] = joined[j] = np.inf
        squares[i] = squares[:, i] = joined
        squares[j] = squares[:, j] = np.inf
        sizes[i] += sizes[j]
        labels[labels == j] = i
        least[j] = np.inf
        nearer = joined < least
        nearest[nearer], least[nearer] = i, joined[nearer]
        stale = np.flatnonzero(((nearest == i) & ~nearer) | (nearest == j))
        for k in (i, *stale.tolist()):
            if k != j:
                nearest[k] = squares[k].argmin()
                least[k] = squares[k, nearest[k]]
    return labels
