"""Blocks of encoders' graphs: products, norms, feed-forward, pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from penstock.core.errors import ModelError
from penstock.embedders import int8
from penstock.embedders.builder import Graph

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from penstock.embedders.weights import Layer, Weights

    Array = NDArray[np.float32]


def product(graph: Graph, value: str, matrix: Array, *, fine: bool = False, least: float | None = None) -> str:
    """The product of a value and a matrix of weights, in 8 bits where the graph is not exact."""
    if graph.exact:
        return str(graph.add("MatMul", value, graph.constant(matrix)))
    return int8.product(graph, value, matrix, fine=fine, least=least)


def products(graph: Graph, value: str, matrices: Sequence[Array], *, fine: bool = False) -> list[str]:
    """The products with several matrices: in 8 bits in one, as the value is rounded for each."""
    import numpy as np

    if graph.exact or len(matrices) == 1:
        return [product(graph, value, np.ascontiguousarray(matrix), fine=fine) for matrix in matrices]
    together = product(graph, value, np.concatenate(matrices, axis=1), fine=fine)
    sizes = graph.constant(np.array([matrix.shape[1] for matrix in matrices], np.int64))
    return list(graph.add("Split", together, sizes, outputs=len(matrices), axis=-1))


def linear(
    graph: Graph, weights: Weights, name: str, value: str, *, fine: bool = False, least: float | None = None
) -> tuple[str, str]:
    """The product of a linear layer, and the shift that is to be added: most often something else adds it, too."""
    import numpy as np

    matrix = np.ascontiguousarray(weights[f"{name}.weight"].T)
    return product(graph, value, matrix, fine=fine, least=least), graph.constant(weights[f"{name}.bias"])


def linear_twice(
    graph: Graph, weights: Weights, names: tuple[str, str], activation: str, value: str, *, fine: bool = False
) -> tuple[str, str]:
    """As `linear`, of two layers with an activation between them."""
    inner = activated(graph, activation, *linear(graph, weights, names[0], value, fine=fine))
    return linear(graph, weights, names[1], inner, least=LEAST.get(activation))


def dense(graph: Graph, layer: Layer, part: str, value: str, *, least: float | None = None) -> str:
    """A linear layer with a bias or without."""
    import numpy as np

    result = product(graph, value, np.ascontiguousarray(layer.need(part).T), least=least)
    return shifted(graph, result, layer.get(part, "bias"))


def shifted(graph: Graph, value: str, shift: Array | None) -> str:
    return value if shift is None else str(graph.add("Add", value, graph.constant(shift)))


def scaled(graph: Graph, weights: Weights, name: str) -> tuple[str, str]:
    """Scale and shift of a layer norm."""
    return graph.constant(weights[f"{name}.weight"]), graph.constant(weights[f"{name}.bias"])


def summed(graph: Graph, state: str, value: str, shift: str) -> str:
    return str(graph.add("Add", state, graph.add("Add", value, shift)))


def normed(graph: Graph, weights: Weights, name: str, value: str, epsilon: float) -> str:
    return str(graph.add("LayerNormalization", value, *scaled(graph, weights, name), axis=-1, epsilon=epsilon))


def norm(graph: Graph, kind: str, value: str, scale: Array, shift: Array | None, epsilon: float) -> str:
    """A norm over the last axis of a kind that families.Design names."""
    if kind == "layer":
        names = [graph.constant(scale), *([] if shift is None else [graph.constant(shift)])]
        return str(graph.add("LayerNormalization", value, *names, axis=-1, epsilon=epsilon))
    scale = scale + 1 if kind == "rms1" else scale
    return str(graph.add("SimplifiedLayerNormalization", value, graph.constant(scale), axis=-1, epsilon=epsilon))


LEAST = dict.fromkeys(("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "quick_gelu"), -0.171) | {
    "silu": -0.279,
    "relu": 0.0,
}
"""No value of an activation is below this."""


def activated(graph: Graph, activation: str, value: str, shift: str = "") -> str:
    """The activation of value + shift."""
    if activation == "gelu":
        return str(graph.add("BiasGelu" if shift else "Gelu", value, *([shift] if shift else []), fused=True))
    if activation in ("gelu_new", "gelu_fast", "gelu_pytorch_tanh"):
        return str(graph.add("FastGelu", value, *([shift] if shift else []), fused=True))
    value = str(graph.add("Add", value, shift)) if shift else value
    if activation in ("quick_gelu", "silu"):
        return str(graph.add("QuickGelu", value, fused=True, alpha=1.702 if activation == "quick_gelu" else 1.0))
    if activation == "relu":
        return str(graph.add("Relu", value))
    raise ModelError(f"Penstock does not know the activation {activation} of this model")


def feed_forward(graph: Graph, layer: Layer, activation: str, value: str) -> str:
    """Two matrices with an activation between them, of which another product may be a factor (GeGLU, SwiGLU)."""
    import numpy as np

    gate, up, least = layer.get("gate"), layer.get("up"), None
    if (stacked := layer.get("gate_up")) is not None:
        gate, up = np.split(stacked, 2)
    elif (stacked := layer.get("up_gate")) is not None:
        up, gate = np.split(stacked, 2)
    if up is None:
        up = layer.need("gate_up" if layer.knows("gate_up") else "up")
    if gate is None:
        shift = layer.get("up", "bias")
        inner = product(graph, value, np.ascontiguousarray(up.T))
        inner = activated(graph, activation, inner, "" if shift is None else graph.constant(shift))
        least = LEAST.get(activation)
    else:
        inner, other = products(graph, value, [gate.T, up.T])
        inner = shifted(graph, inner, layer.get("gate", "bias"))
        other = shifted(graph, other, layer.get("up", "bias"))
        inner = str(graph.add("Mul", activated(graph, activation, inner), other))
    return dense(graph, layer, "down", inner, least=least)


def pool(graph: Graph, mode: str, hidden: str) -> str:
    """(batch, length, hidden) -> (batch, hidden); what lies beyond a row's length counts for nothing."""
    import numpy as np
    from onnx import TensorProto

    axis1 = graph.constant(np.array([1], np.int64))
    if mode == "cls":
        return str(graph.add("Gather", hidden, graph.constant(np.array(0, np.int64)), axis=1))
    if mode == "lasttoken":
        last = graph.add("Sub", graph.add("Unsqueeze", "lengths", axis1), graph.constant(np.array(1, np.int32)))
        return str(graph.add("GatherND", hidden, graph.add("Cast", last, to=TensorProto.INT64), batch_dims=1))
    zero, one = graph.constant(np.array(0, np.int32)), graph.constant(np.array(1, np.int32))
    width = graph.add("Gather", graph.add("Shape", "ids"), graph.constant(np.array(1, np.int64)), axis=0)
    positions = graph.add("Range", zero, graph.add("Cast", width, to=TensorProto.INT32), one)
    real = graph.add("Less", positions, graph.add("Unsqueeze", "lengths", axis1))
    if mode == "max":
        kept = graph.add(
            "Where",
            graph.add("Unsqueeze", real, graph.constant(np.array([2], np.int64))),
            hidden,
            graph.constant(np.array(-np.inf, np.float32)),
        )
        return str(graph.add("ReduceMax", kept, axes=[1], keepdims=0))
    weight = graph.add("Cast", real, to=TensorProto.FLOAT)
    if mode == "weightedmean":
        rank = graph.add("Cast", graph.add("Add", positions, one), to=TensorProto.FLOAT)
        weight = graph.add("Mul", weight, rank)
    total = graph.add("ReduceSum", weight, axis1, keepdims=1)
    if mode == "mean_sqrt_len_tokens":
        total = graph.add("Sqrt", total)
    share = graph.add("Unsqueeze", graph.add("Div", weight, total), axis1)
    return str(graph.add("Squeeze", graph.add("MatMul", share, hidden), axis1))


def constant(graph: Graph, value: Any) -> str:
    """A whole number, or several, as int64."""
    import numpy as np

    return graph.constant(np.array(value, np.int64))
