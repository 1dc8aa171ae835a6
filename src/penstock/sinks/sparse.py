"""Sparse vectors as the stores take them: entries in the order of their indices, each index once.

All stores compare them by the product, whatever they call it: for vectors of length 1 that is the cosine. Vectors that
are written unordered come back ordered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from penstock.core.errors import SinkError
from penstock.core.records import Point, Sparse
from penstock.core.schema import IndexSchema
from penstock.sinks import rows


def batched(points: Sequence[Point], schema: IndexSchema, url: str, *, refused: str = "", most: int = 0) -> rows.Batch:
    """A batch whose `rows` of each Sparse space are Sparse vectors.

    `refused` says which values the store does not take ("negative", "zero" or "negative or zero"), `most` how many.
    """
    batch = rows.Batch(points, schema, url)
    names = [name for name, space in schema.vectors.items() if space.kind == "Sparse"]
    if not names:
        return batch
    newest = {point.id: point for point in points}
    kept: dict[str, list[Sparse]] = {name: [] for name in names}
    reasons: dict[str, str] = {}
    for id, *_ in batch.rows:
        try:
            vectors = [_accepted(cast(Sparse, newest[id].vectors[name]), refused, most) for name in names]
        except ValueError as error:
            reasons[id] = str(error)
        else:
            for name, vector in zip(names, vectors, strict=True):
                kept[name].append(vector)
    if reasons:
        batch.refuse(reasons)
    for name in names:
        batch.columns[name].rows = list(kept[name])
    return batch


def _accepted(vector: Sparse, refused: str, most: int) -> Sparse:
    """The vector with its entries in order. Raises ValueError where the store does not take it."""
    vector = ordered(vector)
    if most and len(vector.values) > most:
        raise ValueError(f"its vector has {len(vector.values):,} values, and the store takes {most:,}")
    if ("negative" in refused and (vector.values < 0).any()) or ("zero" in refused and not vector.values.all()):
        raise ValueError(f"its vector holds a value that is {refused}, which the store does not take")
    return vector


def checked_query(query: Sparse, url: str, *, negative: bool = True) -> Sparse:
    """The query without its zeros, which weigh nothing. Raises SinkError where the store cannot compare with it."""
    import numpy as np

    try:
        vector = ordered(query)
    except ValueError as error:
        raise SinkError(f"invalid query of {url}: {error}") from None
    if not np.isfinite(vector.values).all():
        raise SinkError(f"a query of {url} holds NaN or infinity: nothing is near it")
    if not negative and (vector.values < 0).any():
        raise SinkError(f"a query of {url} holds a negative value, which the store does not take")
    return Sparse(vector.indices[vector.values != 0], vector.values[vector.values != 0])


def ordered(vector: Sparse) -> Sparse:
    """The vector with its entries in order. Raises ValueError where indices and values do not match."""
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
    """The bytes of its indices, then of its values."""
    return bytes(vector.indices.astype("<i4").tobytes() + vector.values.astype("<f4").tobytes())


def unpacked(data: bytes) -> Sparse:
    import numpy as np

    half = len(data) // 2
    indices, values = np.frombuffer(data[:half], "<i4"), np.frombuffer(data[half:], "<f4")
    return Sparse(indices.astype(np.int32), values.astype(np.float32))
