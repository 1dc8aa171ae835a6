"""Builds an ONNX graph of a BERT-family checkpoint out of its safetensors, from ONNX Runtime's fused operators.

    ids, lengths -> EmbedLayerNormalization -> layers x (Attention, LayerNormalization, BiasGelu, ...) -> pooling

Pooling, projections and normalization are in the graph; inputs are int32. All families share it: they differ in
the names of their weights, the offset of their positions, and (MPNet) a relative position bias.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.core.errors import ModelError
from penstock.embedders import int8
from penstock.embedders.builder import Graph, finished
from penstock.embedders.checkpoint import Checkpoint

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Weights = Mapping[str, NDArray[np.float32]]

VERSION = 2
"""Part of the name of a cached graph: raise it when the graph changes."""

NAMES = {
    "bert": {
        "embeddings": "embeddings.",
        "norm": "embeddings.LayerNorm",
        "layer": "encoder.layer.{}.",
        "q": "attention.self.query",
        "k": "attention.self.key",
        "v": "attention.self.value",
        "o": "attention.output.dense",
        "norm1": "attention.output.LayerNorm",
        "up": "intermediate.dense",
        "down": "output.dense",
        "norm2": "output.LayerNorm",
    },
    "mpnet": {
        "q": "attention.attn.q",
        "k": "attention.attn.k",
        "v": "attention.attn.v",
        "o": "attention.attn.o",
        "norm1": "attention.LayerNorm",
    },
    "distilbert": {
        "layer": "transformer.layer.{}.",
        "q": "attention.q_lin",
        "k": "attention.k_lin",
        "v": "attention.v_lin",
        "o": "attention.out_lin",
        "norm1": "sa_layer_norm",
        "up": "ffn.lin1",
        "down": "ffn.lin2",
        "norm2": "output_layer_norm",
    },
}
"""Where a family keeps its weights; what is left out is as in BERT."""

RELATIVE = "encoder.relative_attention_bias.weight"
RELATIVE_DISTANCE = 128
"""MPNet's constant, written in no configuration."""


def read_weights(checkpoint: Checkpoint) -> Weights:
    """All tensors as float32, without a prefix such as `bert.`, which a model has when it was saved with a head."""
    tensors = read_tensors(checkpoint.weights)
    return {
        name.removeprefix(f"{checkpoint.family}.").removeprefix("roberta."): value for name, value in tensors.items()
    }


def read_tensors(paths: Sequence[Path], *, starting: tuple[str, ...] = ("",)) -> dict[str, NDArray[np.float32]]:
    """The tensors of numbers whose names start so, as float32."""
    import numpy as np
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, NDArray[np.float32]] = {}
    for path in paths:
        try:
            with safe_open(path, framework="numpy") as file:
                for name in file.keys():  # noqa: SIM118
                    if name.startswith(starting) and (value := file.get_tensor(name)).dtype.kind == "f":
                        tensors[name] = value.astype(np.float32, copy=False)
        except (SafetensorError, OSError, KeyError, TypeError) as error:
            raise ModelError(f"{path} cannot be read: {error}") from error
    return tensors


def build(checkpoint: Checkpoint, *, exact: bool = True) -> Any:
    """The graph as an onnx.ModelProto."""
    from onnx import TensorProto, helper

    weights = read_weights(checkpoint)
    graph = Graph(exact=exact)
    try:
        hidden = _encoder(graph, checkpoint, weights)
        _head(graph, checkpoint, hidden)
    except KeyError as error:
        raise ModelError(f"{checkpoint.folder} lacks the weight {error}") from error
    except (IndexError, ValueError) as error:
        raise ModelError(f"{checkpoint.folder} has weights of unexpected shapes: {error}") from error
    inputs = [
        helper.make_tensor_value_info("ids", TensorProto.INT32, ["batch", "length"]),
        helper.make_tensor_value_info("lengths", TensorProto.INT32, ["batch"]),
    ]
    return finished(graph, inputs, checkpoint.dim)


def _encoder(graph: Graph, checkpoint: Checkpoint, weights: Weights) -> str:
    import numpy as np

    names = NAMES["bert"] | NAMES.get(checkpoint.family, {})
    epsilon = checkpoint.epsilon

    positions = weights[f"{names['embeddings']}position_embeddings.weight"][checkpoint.offset :]
    types = weights.get(f"{names['embeddings']}token_type_embeddings.weight")
    words = weights[f"{names['embeddings']}word_embeddings.weight"]
    if types is not None:
        # Every token is of type 0: one table less to add.
        positions = positions + types[0]
    state = graph.add(
        "EmbedLayerNormalization",
        "ids",
        "",
        graph.constant(words),
        graph.constant(np.ascontiguousarray(positions)),
        "",
        *scaled(graph, weights, names["norm"]),
        outputs=2,
        fused=True,
        epsilon=epsilon,
    )[0]
    bias = _relative_bias(graph, checkpoint, weights) if checkpoint.family == "mpnet" else ""
    for layer in range(checkpoint.layers):
        at = names["layer"].format(layer)
        qkv = [f"{at}{names[which]}" for which in "qkv"]
        attended = attention(graph, weights, qkv, state, checkpoint.heads, lengths="lengths", bias=bias)
        state = summed(graph, state, *linear(graph, weights, at + names["o"], attended))
        state = normed(graph, weights, at + names["norm1"], state, epsilon)
        inner = activated(graph, checkpoint.activation, *linear(graph, weights, at + names["up"], state))
        state = summed(graph, state, *linear(graph, weights, at + names["down"], inner))
        state = normed(graph, weights, at + names["norm2"], state, epsilon)
    return str(state)


def product(graph: Graph, value: str, matrix: NDArray[np.float32], *, fine: bool = False) -> str:
    """The product of a value and a matrix of weights, in 8 bits where the graph is not exact."""
    if graph.exact:
        return str(graph.add("MatMul", value, graph.constant(matrix)))
    return int8.product(graph, value, matrix, fine=fine)


def linear(graph: Graph, weights: Weights, name: str, value: str) -> tuple[str, str]:
    """The product of a linear layer, and the shift that is to be added: most often something else adds it, too."""
    import numpy as np

    matrix = np.ascontiguousarray(weights[f"{name}.weight"].T)
    return product(graph, value, matrix), graph.constant(weights[f"{name}.bias"])


def attention(
    graph: Graph,
    weights: Weights,
    names: Sequence[str],
    state: str,
    heads: int,
    *,
    lengths: str = "",
    bias: str = "",
    causal: bool = False,
) -> str:
    """Multi-head attention; `names` are the layers of queries, keys and values."""
    import numpy as np

    matrix = np.concatenate([weights[f"{name}.weight"].T for name in names], axis=1)
    shift = graph.constant(np.concatenate([weights[f"{name}.bias"] for name in names]))
    options: dict[str, Any] = {"fused": True, "num_heads": heads, "unidirectional": int(causal)}
    if graph.exact:
        return str(graph.add("Attention", state, graph.constant(matrix), shift, lengths, "", bias, **options))
    sizes = graph.constant(np.full(3, matrix.shape[1] // 3, np.int64))
    qkv = graph.add("Split", product(graph, state, matrix, fine=True), sizes, outputs=3, axis=-1)
    return str(graph.add("MultiHeadAttention", *qkv, shift, lengths, bias, **options))


def scaled(graph: Graph, weights: Weights, name: str) -> tuple[str, str]:
    """Scale and shift of a layer norm."""
    return graph.constant(weights[f"{name}.weight"]), graph.constant(weights[f"{name}.bias"])


def summed(graph: Graph, state: str, value: str, shift: str) -> str:
    return str(graph.add("Add", state, graph.add("Add", value, shift)))


def normed(graph: Graph, weights: Weights, name: str, value: str, epsilon: float) -> str:
    return str(graph.add("LayerNormalization", value, *scaled(graph, weights, name), axis=-1, epsilon=epsilon))


def activated(graph: Graph, activation: str, value: str, shift: str) -> str:
    """The activation of value + shift."""
    if activation == "gelu":
        return str(graph.add("BiasGelu", value, shift, fused=True))
    if activation in ("gelu_new", "gelu_fast", "gelu_pytorch_tanh"):
        return str(graph.add("FastGelu", value, shift, fused=True))
    if activation == "quick_gelu":
        return str(graph.add("QuickGelu", graph.add("Add", value, shift), fused=True, alpha=1.702))
    if activation == "relu":
        return str(graph.add("Relu", graph.add("Add", value, shift)))
    raise ModelError(f"Penstock does not know the activation {activation} of this model")


def _relative_bias(graph: Graph, checkpoint: Checkpoint, weights: Weights) -> str:
    """MPNet's bias of attention by distance: (1, heads, length, length), looked up in a table of all distances."""
    import numpy as np

    table, most = weights[RELATIVE], checkpoint.positions
    by_distance = np.ascontiguousarray(table[_buckets(np.arange(1 - most, most), len(table))].T)
    shape = graph.add("Shape", "ids")
    length = graph.add("Gather", shape, graph.constant(np.array(1, np.int64)), axis=0)
    one, zero = graph.constant(np.array(1, np.int64)), graph.constant(np.array(0, np.int64))
    positions = graph.add("Range", zero, length, one)
    rows = graph.add("Unsqueeze", positions, graph.constant(np.array([1], np.int64)))
    distances = graph.add("Add", graph.add("Sub", positions, rows), graph.constant(np.array(most - 1, np.int64)))
    bias = graph.add("Gather", graph.constant(by_distance), distances, axis=1)
    return str(graph.add("Unsqueeze", bias, graph.constant(np.array([0], np.int64))))


def _buckets(distances: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """T5's buckets: half for what comes before, half for what comes after; near ones exact, far ones logarithmic."""
    import numpy as np

    half, exact = count // 2, count // 4
    far = np.maximum(np.abs(distances), 1).astype(np.float32)
    scale = np.float32(math.log(RELATIVE_DISTANCE / exact))
    steps = exact + (np.log(far / np.float32(exact)) / scale * (half - exact)).astype(np.int64)
    near = np.abs(distances) < exact
    buckets: NDArray[np.int64] = np.where(near, np.abs(distances), np.minimum(steps, half - 1)) + half * (distances > 0)
    return buckets


def _head(graph: Graph, checkpoint: Checkpoint, hidden: str) -> None:
    import numpy as np
    from safetensors.numpy import load_file

    pooled = [_pool(graph, mode, hidden) for mode in checkpoint.pooling]
    vector = pooled[0] if len(pooled) == 1 else graph.add("Concat", *pooled, axis=1)
    for projection in checkpoint.projections:
        dense = load_file(checkpoint.folder / projection.folder / "model.safetensors")
        matrix = np.ascontiguousarray(dense["linear.weight"].T.astype(np.float32))
        vector = graph.add("MatMul", vector, graph.constant(matrix))
        if "linear.bias" in dense:
            vector = graph.add("Add", vector, graph.constant(dense["linear.bias"].astype(np.float32)))
        if projection.activation:
            vector = graph.add(projection.activation, vector)
    if checkpoint.normalize:
        graph.add("LpNormalization", vector, axis=-1, p=2)


def _pool(graph: Graph, mode: str, hidden: str) -> str:
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
