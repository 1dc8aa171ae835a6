"""A query's own vector, of the kind of the index: as plain numbers, which requests and cursors have, and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from penstock.core.errors import QueryMismatch, UsageError
from penstock.core.precision import floats
from penstock.core.records import Dense, MultiVector, Sparse, Vector
from penstock.core.schema import VectorSpec

Numbers = tuple[float, ...]
Own = Numbers | tuple[Numbers, ...] | Mapping[str, Sequence[float]]
"""A row of numbers, several rows, or `indices` and `values`."""


def numbers_of(vector: Any) -> Own:
    """The plain numbers of a vector, or of an array of one or two dimensions."""
    if isinstance(vector, Sparse):
        return {"indices": tuple(map(int, vector.indices)), "values": tuple(map(float, vector.values))}
    values = floats(vector.values) if isinstance(vector, MultiVector) else getattr(vector, "values", vector)
    if getattr(values, "ndim", None) not in (1, 2):
        raise UsageError(
            f"invalid query of type {type(vector).__name__}: expected a text, an image (bytes, or a Path), an array of"
            " one dimension (of two for late interaction), a Sparse vector, or a list of these"
        )
    rows: Any = values.tolist()
    return tuple(map(tuple, rows)) if values.ndim == 2 else tuple(map(float, rows))


def kind_of(vector: Own) -> str:
    if isinstance(vector, Mapping):
        return "Sparse"
    return "MultiVector" if len(vector) and isinstance(vector[0], tuple) else "Dense"


def checked_vector(vector: Own, spec: VectorSpec) -> Vector:
    """The vector, as one of that space."""
    if (kind := kind_of(vector)) != spec.kind:
        expected = {"Dense": "an array of numbers", "MultiVector": "rows of numbers", "Sparse": "indices and values"}
        raise QueryMismatch(f"vector: expected {expected[spec.kind]} ({spec.kind}), got {expected[kind]} ({kind})")
    if isinstance(vector, Mapping):
        return _sparse(vector, spec)
    rows: Any = [vector] if kind == "Dense" else vector
    if wrong := [len(row) for row in rows if len(row) != spec.dim]:
        raise QueryMismatch(f"vector: expected {spec.dim:,} dimensions, got {wrong[0]:,}")
    import numpy as np

    values = np.asarray(rows, np.float64)
    norms = np.linalg.norm(values, axis=1)
    if not ((norms > 1e-9) & (norms < 1e9)).all():  # between these, squares of single precision hold
        raise UsageError("vector: it is zero, or too short or too long to be compared")
    single = values.astype(np.float32)
    return Dense(single[0]) if kind == "Dense" else MultiVector(single)


def _sparse(vector: Mapping[str, Sequence[float]], spec: VectorSpec) -> Sparse:
    import numpy as np

    indices, values = np.asarray(vector["indices"], np.int64), np.asarray(vector["values"], np.float64)
    if len(indices) != len(values) or not len(indices):
        raise UsageError(f"vector: {len(indices):,} indices and {len(values):,} values; expected as many, at least one")
    if indices.min() < 0 or indices.max() >= spec.dim:
        raise QueryMismatch(
            f"vector: expected indices from 0 to {spec.dim - 1:,}, got {indices.min()} to {indices.max()}"
        )
    order = np.argsort(indices)
    indices, values = indices[order], values[order]
    if (indices[1:] == indices[:-1]).any():
        raise UsageError("vector: an index is twice among the indices")
    if not 1e-9 < np.linalg.norm(values) < 1e9:
        raise UsageError("vector: it is zero, or too short or too long to be compared")
    return Sparse(indices.astype(np.int32), values.astype(np.float32))
