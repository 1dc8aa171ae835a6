"""Sparse vectors as the stores take them: entries in the order of their indices, each index once.

All stores compare them by the product, whatever they call it: for vectors of length 1 that is the cosine. Who wrote
them unordered reads them ordered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from penstock.core.errors import SinkError, UsageError
from penstock.core.records import VECTOR, Point, Sparse
from penstock.core.schema import VectorSpec
from penstock.sinks import rows


def products(space: VectorSpec, url: str) -> None:
    """Raise UsageError for a metric that there is not for the space's kind."""
    if space.metric == "l2" and space.kind != "Dense":
        raise UsageError(f"{url} knows the metrics cosine and dot for {space.kind} vectors, not 'l2'")


def batched(points: Sequence[Point], space: VectorSpec, url: str, *, refused: str = "", most: int = 0) -> rows.Batch:
    """A batch whose `vectors` are Sparse, where the space's are.

    `refused` says which values the store does not take ("negative", "zero" or "negative or zero"), `most` how many.
    """
    batch = rows.Batch(points, space, url)
    if space.kind != "Sparse":
        return batch
    newest = {point.id: cast(Sparse, point.vectors[VECTOR]) for point in points}
    kept: list[tuple[rows.Row, Sparse]] = []
    for cells in batch.rows:
        try:
            vector = ordered(newest[cells[0]])
            if most and len(vector.values) > most:
                raise ValueError(f"its vector has {len(vector.values):,} values, and the store takes {most:,}")
            if ("negative" in refused and (vector.values < 0).any()) or ("zero" in refused and not vector.values.all()):
                raise ValueError(f"its vector holds a value that is {refused}, which the store does not take")
        except ValueError as error:
            batch.reasons[cells[0]] = str(error)
        else:
            kept.append((cells, vector))
    batch.rows, batch.vectors = [cells for cells, _ in kept], [vector for _, vector in kept]
    return batch


def asked(query: Sparse, url: str, *, negative: bool = True) -> Sparse:
    """A query's vector without its zeros, which weigh nothing. Raises SinkError where it cannot be one."""
    import numpy as np

    try:
        vector = ordered(query)
    except ValueError as error:
        raise SinkError(f"a query of {url} is no vector: {error}") from None
    if not np.isfinite(vector.values).all():
        raise SinkError(f"a query of {url} holds NaN or infinity: nothing is near it")
    if not negative and (vector.values < 0).any():
        raise SinkError(f"a query of {url} holds a negative value, which the store does not take")
    return Sparse(vector.indices[vector.values != 0], vector.values[vector.values != 0])


def ordered(vector: Sparse) -> Sparse:
    """With its entries in order. Raises ValueError where indices and values are no vector."""
    import numpy as np

    indices, values = np.asarray(vector.indices, np.int64), np.asarray(vector.values, np.float32)
    if indices.ndim != 1 or indices.shape != values.shape:
        raise ValueError(f"its vector has indices {indices.shape} for values {values.shape}")
    if (np.diff(indices) <= 0).any():
        order = np.argsort(indices, kind="stable")
        indices, values = indices[order], values[order]
    if (np.diff(indices) <= 0).any():
        raise ValueError("its vector has an index twice")
    if len(indices) and not 0 <= int(indices[0]) <= int(indices[-1]) < 1 << 31:
        raise ValueError("its vector has an index that is negative or beyond 2^31")
    return Sparse(indices.astype(np.int32), values)


def packed(vector: Sparse) -> bytes:
    """Its indices, then its values."""
    return bytes(vector.indices.astype("<i4").tobytes() + vector.values.astype("<f4").tobytes())


def unpacked(data: bytes) -> Sparse:
    import numpy as np

    half = len(data) // 2
    indices, values = np.frombuffer(data[:half], "<i4"), np.frombuffer(data[half:], "<f4")
    return Sparse(indices.astype(np.int32), values.astype(np.float32))
