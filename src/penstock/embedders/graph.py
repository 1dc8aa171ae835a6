"""Builds an ONNX graph of a checkpoint out of its safetensors, from ONNX Runtime's fused operators.

    ids, lengths -> embedding -> layers x (attention, norm, feed-forward, norm) -> pooling -> projections -> vectors

Pooling, projections and normalization are in the graph; inputs are int32. The BERT family is built here: its members
differ in the names of their weights, the offset of their positions, and (MPNet) a relative position bias.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from penstock.core.errors import ModelError
from penstock.embedders.attention import BLOCK, Frame, attention, cut, frame, in_blocks
from penstock.embedders.blocks import linear, linear_twice, normed, pool, products, scaled, summed
from penstock.embedders.builder import Graph, finished
from penstock.embedders.checkpoint import Checkpoint, module_weights
from penstock.embedders.families import Design
from penstock.embedders.layers import Stack
from penstock.embedders.weights import read_tensors, read_weights

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from penstock.embedders.weights import Weights

VERSION = 3
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

SHORT = 1024
"""Tokens up to which the products of all queries and keys are made at once."""

RELATIVE = "encoder.relative_attention_bias.weight"
RELATIVE_DISTANCE = 128
"""MPNet's constant, written in no configuration."""


class Whole(Protocol):
    """A checkpoint, whatever follows its transformer."""

    @property
    def folder(self) -> Path: ...
    @property
    def dim(self) -> int: ...


def build(checkpoint: Checkpoint, *, exact: bool = True) -> Any:
    """The graph as an onnx.ModelProto."""

    def head(graph: Graph, weights: Weights, hidden: str) -> None:
        _head(graph, checkpoint, hidden)

    return build_with(head, checkpoint, checkpoint, exact=exact)


def build_with(
    head: Callable[[Graph, Weights, str], None],
    whole: Whole,
    transformer: Checkpoint,
    *,
    exact: bool,
    rows: Sequence[str] = ("batch",),
    types: bool = False,
) -> Any:
    """The graph of a transformer and what follows it: `head` adds that to the last hidden states. It gives `rows` of
    whole.dim numbers each. `types`: the type of every token is an input."""
    from onnx import TensorProto, helper

    weights = read_weights(transformer)
    graph = Graph(exact=exact)
    try:
        head(graph, weights, encoder(graph, transformer, weights, types="types" if types else ""))
    except KeyError as error:
        raise ModelError(f"{whole.folder} lacks the weight {error}") from error
    except (IndexError, ValueError, ArithmeticError) as error:
        raise ModelError(f"{whole.folder} has weights of unexpected shapes: {error}") from error
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT32, ["batch", "length"])
        for name in ("ids", *(("types",) if types else ()))
    ]
    inputs.append(helper.make_tensor_value_info("lengths", TensorProto.INT32, ["batch"]))
    return finished(graph, inputs, whole.dim, rows=rows)


def encoder(graph: Graph, checkpoint: Checkpoint, weights: Weights, *, types: str = "") -> str:
    """The last hidden states, (batch, length, hidden), of the graph's inputs `ids` and `lengths`, and of the types of
    tokens if there are several."""
    if checkpoint.design is not None:
        return Stack(graph, checkpoint, checkpoint.design, weights).hidden(types)
    return _bert(graph, checkpoint, weights, types)


def _bert(graph: Graph, checkpoint: Checkpoint, weights: Weights, types: str) -> str:
    import numpy as np

    names = NAMES["bert"] | NAMES.get(checkpoint.family, {})
    epsilon = checkpoint.epsilon
    relative = checkpoint.family == "mpnet"
    blocks = frame(graph) if checkpoint.positions > SHORT and not relative else None

    positions = weights[f"{names['embeddings']}position_embeddings.weight"][checkpoint.offset :]
    kinds = weights.get(f"{names['embeddings']}token_type_embeddings.weight")
    words = weights[f"{names['embeddings']}word_embeddings.weight"]
    if kinds is not None and not types:
        # Every token is of type 0: one table less to add.
        positions = positions + kinds[0]
    if blocks:
        # Padding goes beyond the table.
        positions = np.pad(positions, ((0, len(positions) // BLOCK + 1), (0, 0)))
    state = graph.add(
        "EmbedLayerNormalization",
        blocks.ids if blocks else "ids",
        graph.add("Pad", types, blocks.pads) if types and blocks else types,
        graph.constant(words),
        graph.constant(np.ascontiguousarray(positions)),
        graph.constant(kinds) if types and kinds is not None else "",
        *scaled(graph, weights, names["norm"]),
        outputs=2,
        fused=True,
        epsilon=epsilon,
    )[0]
    bias = _relative_bias(graph, checkpoint, weights) if relative else ""
    for layer in range(checkpoint.layers):
        at = names["layer"].format(layer)
        qkv = [f"{at}{names[which]}" for which in "qkv"]
        if blocks:
            attended = _in_blocks(graph, checkpoint, weights, qkv, state, blocks)
        else:
            attended = attention(graph, weights, qkv, state, checkpoint.heads, lengths="lengths", bias=bias)
        state = summed(graph, state, *linear(graph, weights, at + names["o"], attended))
        state = normed(graph, weights, at + names["norm1"], state, epsilon)
        fed = (at + names["up"], at + names["down"])
        state = summed(graph, state, *linear_twice(graph, weights, fed, checkpoint.activation, state, fine=True))
        state = normed(graph, weights, at + names["norm2"], state, epsilon)
    return cut(graph, state, blocks) if blocks else str(state)


def _in_blocks(
    graph: Graph, checkpoint: Checkpoint, weights: Weights, names: list[str], state: str, blocks: Frame
) -> str:
    head = checkpoint.hidden // checkpoint.heads
    values = products(graph, state, [weights[f"{name}.weight"].T for name in names], fine=True)
    qkv = [
        graph.add("Add", value, graph.constant(weights[f"{name}.bias"]))
        for name, value in zip(names, values, strict=True)
    ]
    design = Design(groups=checkpoint.heads, head=head, scale=head**-0.5)
    return in_blocks(graph, qkv, blocks, checkpoint.heads, design, local=False)


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

    pooled = [pool(graph, mode, hidden) for mode in checkpoint.pooling]
    vector = pooled[0] if len(pooled) == 1 else graph.add("Concat", *pooled, axis=1)
    for projection in checkpoint.projections:
        tensors = read_tensors(module_weights(checkpoint.folder, projection.folder))
        vector = graph.add("MatMul", vector, graph.constant(np.ascontiguousarray(tensors["linear.weight"].T)))
        if "linear.bias" in tensors:
            vector = graph.add("Add", vector, graph.constant(tensors["linear.bias"]))
        if projection.activation:
            vector = graph.add(projection.activation, vector)
    if checkpoint.cut:
        bounds = (graph.constant(np.array([bound], np.int64)) for bound in (0, checkpoint.cut, 1))
        vector = graph.add("Slice", vector, *bounds)
    if checkpoint.normalize:
        graph.add("LpNormalization", vector, axis=-1, p=2)
