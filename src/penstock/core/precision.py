"""Precisions of stored token vectors: how many bits each number of a MultiVector has, and the arrays that hold them.

`fp32` and `fp16` are floats, `int8` the numbers of a vector of length 1 times 127, `bits` their signs, eight a byte.
Questions are always fp32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock.core.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FP32, FP16, INT8, BITS = "fp32", "fp16", "int8", "bits"
PRECISIONS = {FP32: 32, FP16: 16, INT8: 8, BITS: 1}
"""Bits a number, by precision."""
DTYPES = {FP32: "float32", FP16: "float16", INT8: "int8", BITS: "uint8"}
"""The numpy type of the array of vectors, by precision. One of bits has an eighth of the columns."""
SCALE = 127


def known(precision: str) -> None:
    """Raise UsageError for what is no precision."""
    if precision not in PRECISIONS:
        raise UsageError(f"invalid precision {precision!r:.50}: expected one of {', '.join(PRECISIONS)}")


def check(precision: str, dim: int, name: str, *, unit: bool) -> None:
    """Raise UsageError unless vectors of a model can be kept so: `unit` says whether their lengths are 1."""
    known(precision)
    if precision == BITS and dim % 8:
        raise UsageError(
            f"{name} makes vectors of {dim} dimensions, which 8 does not divide: expected another precision than bits"
        )
    if precision in (INT8, BITS) and not unit:
        raise UsageError(
            f"{name} makes vectors of any length, which {precision} would not keep: expected the precision fp32 or fp16"
        )


def columns(precision: str, dim: int) -> int:
    """The columns of an array of vectors of so many dimensions."""
    return dim // 8 if precision == BITS else dim


def encoded(values: NDArray[np.float32], precision: str) -> NDArray[Any]:
    """Rows of vectors in that precision; for int8 and bits their lengths are 1."""
    import numpy as np

    if precision == INT8:
        result: NDArray[Any] = np.clip(np.rint(values * np.float32(SCALE)), -SCALE, SCALE).astype(np.int8)
        return result
    if precision == BITS:
        return np.packbits(values > 0, axis=-1)
    return values.astype(DTYPES[precision], copy=False)


def floats(values: NDArray[Any]) -> NDArray[np.float32]:
    """The vectors that an array of any precision stands for."""
    import numpy as np

    if values.dtype == np.int8:
        return values * np.float32(1 / SCALE)
    if values.dtype == np.uint8:
        signs = np.unpackbits(values, axis=-1).astype(np.float32)
        signs -= np.float32(0.5)
        signs *= np.float32(2 / max(signs.shape[-1], 1) ** 0.5)
        return signs
    return values.astype(np.float32, copy=False)


def to_bytes(values: NDArray[Any]) -> bytes:
    """The numbers one after the other, the lower byte first."""
    return bytes(values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes())


def from_bytes(data: bytes | memoryview, precision: str, dim: int) -> NDArray[Any]:
    """The vectors of `to_bytes`."""
    import numpy as np

    kept = np.dtype(DTYPES[precision])
    return np.frombuffer(data, kept.newbyteorder("<")).astype(kept, copy=False).reshape(-1, columns(precision, dim))
