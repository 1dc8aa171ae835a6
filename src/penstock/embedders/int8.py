"""Products of matrices in 8 bits: two to three times as many a second as in 32, where a processor multiplies bytes.

A matrix is rounded once, to 8 bits a column. Values are rounded as they come, to 8 bits a row, so that no vector
depends on what else is in its batch. Queries and keys (`fine`), whose products are the most sensitive, are
taken in two steps, as 16 bits.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from penstock.embedders.runtime import session

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from penstock.embedders.builder import Graph

VERSION = 1
"""Part of a space's fingerprint: raise it when vectors change."""
TOP = 127
"""The largest number of either sign."""
MIDDLE = 128
"""Added to values, and to a matrix of unsigned bytes."""


def product(graph: Graph, value: str, matrix: NDArray[np.float32], *, fine: bool) -> str:
    import numpy as np

    def number(it: float) -> str:
        return graph.constant(np.array(it, np.float32))

    zero, one, finer = graph.constant(np.array(MIDDLE, np.uint8)), number(1), number(0.5 / TOP)
    steps = np.maximum(np.abs(matrix).max(axis=0) / TOP, np.finfo(np.float32).tiny).astype(np.float32)
    rounded = np.rint(matrix / steps).astype(np.int16)
    if signed():
        held, middles = graph.constant(rounded.astype(np.int8)), [zero]
    else:
        held, middles = graph.constant((rounded + MIDDLE).astype(np.uint8)), [zero, zero]
    by_column = graph.constant(steps)

    def times(value: str, step: str) -> Any:
        return graph.add("MatMulIntegerToFloat", value, held, step, by_column, *middles, fused=True)

    most = graph.add("ReduceMax", value, axes=[-1], keepdims=1)
    least = graph.add("Neg", graph.add("ReduceMin", value, axes=[-1], keepdims=1))
    top = graph.add("Max", most, least, number(1e-30))
    scaled = graph.add("Mul", value, graph.add("Div", number(TOP), top))
    coarse = graph.add("QuantizeLinear", scaled, one, zero)
    result = times(coarse, one)
    if fine:
        rest = graph.add("Sub", scaled, graph.add("DequantizeLinear", coarse, one, zero))
        result = graph.add("Add", result, times(graph.add("QuantizeLinear", rest, finer, zero), finer))
    return str(graph.add("Mul", result, graph.add("Mul", top, number(1 / TOP))))


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
