"""Products of matrices in 8 bits: two to three times as many a second as in 32, where a processor multiplies bytes.

A matrix is rounded once, to 8 bits a column. Values are rounded as they come, to 8 bits a row, so that no vector
depends on what else is in its batch. Long rows and columns are rounded in parts, each by its own largest number. Values
of products that are the most sensitive (`fine`) are taken in two steps, as 16 bits.
"""

from __future__ import annotations

from functools import cache, reduce
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from penstock.embedders.runtime import session

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from penstock.embedders.builder import Graph

VERSION = 3
"""Part of a space's fingerprint: raise it when vectors change."""
TOP = 127
"""The largest number of either sign."""
MIDDLE = 128
"""Added to values, and to a matrix of unsigned bytes."""
LONG, PART = 1024, 384
"""Rows of more numbers than LONG are rounded in parts of at most PART."""


def product(
    graph: Graph, value: str, matrix: NDArray[np.float32], *, fine: bool = False, least: float | None = None
) -> str:
    """The product. `least`: no value is below it, so that all 256 numbers are for those above."""
    import numpy as np

    if least is not None:
        value = graph.add("Sub", value, graph.constant(np.array(least, np.float32)))
    count = -(-len(matrix) // PART) if len(matrix) > LONG else 1
    bounds = np.linspace(0, len(matrix), count + 1).astype(int)
    values = [value]
    if count > 1:
        lengths = graph.constant(np.diff(bounds).astype(np.int64))
        values = graph.add("Split", value, lengths, outputs=count, axis=-1)
    parts = [_Rounded(graph, matrix[start:end]) for start, end in pairwise(bounds)]
    results = [_part(graph, *both, fine=fine, signs=least is None) for both in zip(values, parts, strict=True)]
    if least is not None:
        results.append(graph.constant(least * np.sum([part.sums for part in parts], axis=0, dtype=np.float32)))
    return reduce(lambda one, other: str(graph.add("Add", one, other)), results)


class _Rounded:
    """Rows of a matrix, in 8 bits: names of values in the graph, and the sums of its columns as they are rounded."""

    def __init__(self, graph: Graph, matrix: NDArray[np.float32]) -> None:
        import numpy as np

        steps = np.maximum(np.abs(matrix).max(axis=0) / TOP, np.finfo(np.float32).tiny).astype(np.float32)
        rounded = np.rint(matrix / steps).astype(np.int16)
        self.steps, self.sums = graph.constant(steps), rounded.sum(axis=0) * steps
        if signed():
            self.bytes, self.middle = graph.constant(rounded.astype(np.int8)), []
        else:
            self.bytes = graph.constant((rounded + MIDDLE).astype(np.uint8))
            self.middle = [graph.constant(np.array(MIDDLE, np.uint8))]


def _part(graph: Graph, value: str, matrix: _Rounded, *, fine: bool, signs: bool) -> str:
    """The product with rows of the matrix. `signs`: values are of either sign."""
    import numpy as np

    def number(it: float) -> str:
        return graph.constant(np.array(it, np.float32))

    def times(value: str, step: str, zero: str) -> Any:
        return graph.add(
            "MatMulIntegerToFloat", value, matrix.bytes, step, matrix.steps, zero, *matrix.middle, fused=True
        )

    count = TOP if signs else TOP + MIDDLE
    one, finer, middle = number(1), number(0.5 / TOP), graph.constant(np.array(MIDDLE, np.uint8))
    zero = middle if signs else graph.constant(np.array(0, np.uint8))
    top = graph.add("ReduceMax", value, axes=[-1], keepdims=1)
    if signs:
        top = graph.add("Max", top, graph.add("Neg", graph.add("ReduceMin", value, axes=[-1], keepdims=1)))
    top = graph.add("Max", top, number(1e-30))
    scaled = graph.add("Mul", value, graph.add("Div", number(count), top))
    coarse = graph.add("QuantizeLinear", scaled, one, zero)
    result = times(coarse, one, zero)
    if fine:
        rest = graph.add("Sub", scaled, graph.add("DequantizeLinear", coarse, one, zero))
        result = graph.add("Add", result, times(graph.add("QuantizeLinear", rest, finer, middle), finer, middle))
    return str(graph.add("Mul", result, graph.add("Mul", top, number(1 / count))))


@cache
def signed() -> bool:
    """Whether this processor adds up products with signed bytes exactly: those that do are quicker with them. Others
    (x86 without VNNI) do so in 16 bits, and are given unsigned ones. The sums are the same."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    values, matrix = np.full((1, 64), 2 * MIDDLE - 1, np.uint8), np.full((64, 16), TOP, np.int8)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["values", "matrix"], ["sums"])],
        "signed",
        [helper.make_tensor_value_info("values", TensorProto.UINT8, values.shape)],
        [helper.make_tensor_value_info("sums", TensorProto.INT32, [1, 16])],
        [numpy_helper.from_array(matrix, "matrix")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (sums,) = session(model.SerializeToString()).run(None, {"values": values})
    return bool((sums == 64 * (2 * MIDDLE - 1) * TOP).all())


def suffix(exact: bool) -> str:
    """The end of a cached graph's name: where a cache is shared, processors differ."""
    return "" if exact or signed() else "-unsigned"
