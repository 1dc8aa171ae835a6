"""Lengths of vectors, for stores that scale those of cosine collections; and UUIDs of points.

A cosine space is kept there as one of dot products. Vectors of length 1, as models make them, are stored as they are;
of any other a copy of length 1 is stored, and its own bytes beside it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Any

from penstock.sinks import rows

UNIT = 1e-6
"""The rounding of a length of 1: about that of a sum of some hundred float32 products."""
UNIT_FP16 = 1e-3
"""The same of numbers that are rounded to float16."""

_HEX = re.compile("[0-9a-f]{32}")


def key(id: str) -> str:
    """The UUID that a point lies under: the id itself where it is 32 hexadecimal digits, else one made of it."""
    if not _HEX.fullmatch(id):
        id = hashlib.sha256(id.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{id[:8]}-{id[8:12]}-{id[12:16]}-{id[16:20]}-{id[20:32]}"


def units(values: Any) -> tuple[Any, Any]:
    """Scale the rows to length 1, and tell which had another one. A row of zeros stays as it is."""
    import numpy as np

    lengths = np.sqrt(np.einsum("ij,ij->i", values, values, dtype=np.float64))
    other = np.abs(lengths - 1) > (UNIT_FP16 if values.dtype == np.float16 else UNIT)
    if other.any():
        values = values.copy()
        values[other] /= np.where(lengths > 0, lengths, 1)[other, None]
    return values, other


def lying(vectors: rows.Vectors) -> Iterator[tuple[Any, bool]]:
    """For each row of a batch the vector that the store keeps, and whether it is another one than the row's."""
    import numpy as np

    space = vectors.space
    stacked = vectors.flat.reshape(-1, space.dim)
    stacked, other = units(stacked) if space.metric == "cosine" else (stacked, np.zeros(len(stacked), bool))
    listed, others, end = stacked.tolist(), other.tolist(), 0
    for values in vectors.rows:
        start, end = end, end + (1 if values.ndim == 1 else len(values))
        yield listed[start] if values.ndim == 1 else listed[start:end], any(others[start:end])
