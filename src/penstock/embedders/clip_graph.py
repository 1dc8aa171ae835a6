"""Builds the two towers of a CLIP or SigLIP checkpoint as ONNX graphs, from its safetensors, out of fused operators.

    pixels -> patches -> MatMul + positions -> layers x (LayerNormalization, Attention, ...) -> pooling -> vectors
    ids, ends -> EmbedLayerNormalization    -> the same                                      -> pooling -> vectors

Both normalize before each half of a layer. Where one place is pooled (the class token, the end of a text), the last
layer is computed for that place alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from penstock.core.errors import ModelError
from penstock.embedders.attention import attention
from penstock.embedders.blocks import linear, linear_twice, normed, scaled, summed
from penstock.embedders.builder import Graph, finished
from penstock.embedders.clip_checkpoint import ClipCheckpoint, Tower
from penstock.embedders.weights import read_tensors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from penstock.embedders.weights import Weights

VERSION = 2
"""Part of the name of a cached graph: raise it when a graph changes."""


def text(checkpoint: ClipCheckpoint, *, exact: bool = True) -> Any:
    """ids (batch, length) and, for CLIP, ends (batch), the place that is pooled -> vectors."""
    from onnx import TensorProto, helper

    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT32, ["batch", "length"])]
    if checkpoint.family == "clip":
        inputs.append(helper.make_tensor_value_info("ends", TensorProto.INT32, ["batch"]))
    return _built(checkpoint, "text_model.", "text_projection.", _text, inputs, exact)


def vision(checkpoint: ClipCheckpoint, *, exact: bool = True) -> Any:
    """pixels, bytes of (batch, height, width, 3) -> vectors."""
    from onnx import TensorProto, helper

    shape = ["batch", checkpoint.edge, checkpoint.edge, 3]
    inputs = [helper.make_tensor_value_info("pixels", TensorProto.UINT8, shape)]
    return _built(checkpoint, "vision_model.", "visual_projection.", _vision, inputs, exact)


def _built(
    checkpoint: ClipCheckpoint,
    prefix: str,
    projection: str,
    tower: Callable[[Graph, ClipCheckpoint, Weights], str],
    inputs: list[Any],
    exact: bool,
) -> Any:
    tensors = read_tensors(checkpoint.weights, starting=(prefix, projection))
    weights = {name.removeprefix(prefix): value for name, value in tensors.items()}
    graph = Graph(exact=exact)
    try:
        pooled = tower(graph, checkpoint, weights)
        if checkpoint.family == "clip":
            matrix = weights[f"{projection}weight"].T
            if matrix.shape[1] != checkpoint.dim:
                raise ValueError(f"{projection}weight makes {matrix.shape[1]} dimensions, not {checkpoint.dim}")
            pooled = graph.add("MatMul", pooled, graph.constant(matrix.copy()))
        graph.add("LpNormalization", pooled, axis=-1, p=2)
    except KeyError as error:
        raise ModelError(f"{checkpoint.folder} lacks the weight {error}") from error
    except (IndexError, ValueError) as error:
        raise ModelError(f"{checkpoint.folder} has weights of unexpected shapes: {error}") from error
    return finished(graph, inputs, checkpoint.dim)


def _text(graph: Graph, checkpoint: ClipCheckpoint, weights: Weights) -> str:
    import numpy as np
    from onnx import TensorProto

    tower, clip = checkpoint.text, checkpoint.family == "clip"
    if len(positions := weights["embeddings.position_embedding.weight"]) != checkpoint.positions:
        raise ValueError(f"{len(positions)} positions, not {checkpoint.positions}")
    state = graph.add(
        "EmbedLayerNormalization",
        "ids",
        "",
        graph.constant(weights["embeddings.token_embedding.weight"]),
        graph.constant(positions),
        "",
        *scaled(graph, weights, "encoder.layers.0.layer_norm1"),
        outputs=3,
        fused=True,
        epsilon=tower.epsilon,
    )[2]  # what is normalized in the first layer
    if not clip:
        # The last place, which is padding as a rule: that is how SigLIP was trained.
        last = graph.constant(np.array(-1, np.int64))
        pooled = _layers(graph, tower, weights, state, "final_layer_norm", lambda x: _at(graph, x, last))
        return str(graph.add("Add", *linear(graph, weights, "head", pooled)))
    position = graph.add("Unsqueeze", graph.add("Cast", "ends", to=TensorProto.INT64), _axis(graph))
    end = lambda x: str(graph.add("GatherND", x, position, batch_dims=1))  # noqa: E731
    return _layers(graph, tower, weights, state, "final_layer_norm", end, causal=True)


def _vision(graph: Graph, checkpoint: ClipCheckpoint, weights: Weights) -> str:
    import numpy as np

    tower, clip = checkpoint.vision, checkpoint.family == "clip"
    positions = weights["embeddings.position_embedding.weight"]
    side = checkpoint.edge // checkpoint.patch
    if len(positions) != side * side + clip:
        raise ValueError(f"{len(positions)} positions for {side} x {side} patches")
    matrix, shift = _first(checkpoint, weights)
    state = graph.add("MatMul", _patches(graph, checkpoint, side), graph.constant(matrix))
    state = graph.add("Add", state, graph.constant(positions[int(clip) :] + shift))
    if not clip:
        hidden = _layers(graph, tower, weights, state, "post_layernorm")
        return _attended(graph, tower, weights, hidden)
    token = graph.constant((weights["embeddings.class_embedding"] + positions[0])[None, None])
    batch = graph.add("Slice", graph.add("Shape", "pixels"), _axis(graph, 0), _axis(graph))
    ones = graph.constant(np.array([1, 1], np.int64))
    token = graph.add("Expand", token, graph.add("Concat", batch, ones, axis=0))
    state = normed(graph, weights, "pre_layrnorm", graph.add("Concat", token, state, axis=1), tower.epsilon)
    zero = graph.constant(np.array(0, np.int64))
    return _layers(graph, tower, weights, state, "post_layernorm", lambda x: _at(graph, x, zero))


def _first(checkpoint: ClipCheckpoint, weights: Weights) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The convolution as a matrix, with scale, mean and deviation of the pixels worked into it: it takes bytes."""
    import numpy as np

    kernel = weights["embeddings.patch_embedding.weight"].astype(np.float64).transpose(2, 3, 1, 0)
    prepared = checkpoint.preprocessing
    deviation, mean = np.array(prepared.deviation)[:, None], np.array(prepared.mean)[:, None]
    shift = -(kernel * (mean / deviation)).sum(axis=(0, 1, 2))
    shift += weights.get("embeddings.patch_embedding.bias", np.float32(0))
    matrix = (kernel * (prepared.scale / deviation)).reshape(-1, kernel.shape[-1])
    return np.ascontiguousarray(matrix, np.float32), shift.astype(np.float32)


def _patches(graph: Graph, checkpoint: ClipCheckpoint, side: int) -> str:
    """(batch, height, width, 3) -> (batch, patches, pixels of a patch). What is left at the edges belongs to none."""
    import numpy as np
    from onnx import TensorProto

    patch, resolution = checkpoint.patch, side * checkpoint.patch
    pixels = "pixels"
    if resolution != checkpoint.edge:
        ends = graph.constant(np.array([resolution, resolution], np.int64))
        starts, axes = graph.constant(np.array([0, 0], np.int64)), graph.constant(np.array([1, 2], np.int64))
        pixels = graph.add("Slice", pixels, starts, ends, axes)
    cut = graph.constant(np.array([-1, side, patch, side, patch * 3], np.int64))
    rows = graph.add("Transpose", graph.add("Reshape", pixels, cut), perm=[0, 1, 3, 2, 4])
    flat = graph.constant(np.array([-1, side * side, patch * patch * 3], np.int64))
    return str(graph.add("Cast", graph.add("Reshape", rows, flat), to=TensorProto.FLOAT))


def _layers(
    graph: Graph,
    tower: Tower,
    weights: Weights,
    state: str,
    after: str,
    position: Callable[[str], str] | None = None,
    causal: bool = False,
) -> str:
    """All layers, and the norm after them; of the one `place` that is wanted, if one is."""
    for layer in range(tower.layers):
        at = f"encoder.layers.{layer}."
        qkv = [f"{at}self_attn.{which}_proj" for which in "qkv"]
        value = normed(graph, weights, at + "layer_norm1", state, tower.epsilon)
        value = attention(graph, weights, qkv, value, tower.heads, causal=causal)
        if position is not None and layer == tower.layers - 1:
            value, state = position(value), position(state)
        state = summed(graph, state, *linear(graph, weights, at + "self_attn.out_proj", value))
        value = normed(graph, weights, at + "layer_norm2", state, tower.epsilon)
        fed = (at + "mlp.fc1", at + "mlp.fc2")
        state = summed(graph, state, *linear_twice(graph, weights, fed, tower.activation, value))
    return normed(graph, weights, after, state, tower.epsilon)


def _attended(graph: Graph, tower: Tower, weights: Weights, hidden: str) -> str:
    """SigLIP's pooling head: one query for all images, which asks each what it holds.

    The query being constant, its product with the keys' matrix is as well, and values are made of the pooled states
    rather than of all of them. A shift of the keys moves all scores alike and so none.
    """
    import numpy as np

    width, heads = tower.hidden, tower.heads
    matrices = weights["head.attention.in_proj_weight"].reshape(3, heads, width // heads, width)
    shifts = weights["head.attention.in_proj_bias"].reshape(3, heads, width // heads)
    query = matrices[0] @ weights["head.probe"].reshape(width) + shifts[0]
    projected = np.einsum("hd,hdw->wh", query, matrices[1]) / np.sqrt(np.float32(width // heads))
    scores = graph.add("MatMul", hidden, graph.constant(np.ascontiguousarray(projected, np.float32)))
    shares = graph.add("Softmax", graph.add("Transpose", scores, perm=[0, 2, 1]), axis=-1)
    held = graph.add("Unsqueeze", graph.add("MatMul", shares, hidden), graph.constant(np.array([2], np.int64)))
    values = graph.add("MatMul", held, graph.constant(np.ascontiguousarray(matrices[2].transpose(0, 2, 1))))
    joined = graph.add("Reshape", values, graph.constant(np.array([-1, width], np.int64)))
    joined = graph.add("Add", joined, graph.constant(shifts[2].reshape(width)))
    state = graph.add("Add", *linear(graph, weights, "head.attention.out_proj", joined))
    inner = normed(graph, weights, "head.layernorm", state, tower.epsilon)
    fed = linear_twice(graph, weights, ("head.mlp.fc1", "head.mlp.fc2"), tower.activation, inner)
    return str(graph.add("Add", state, graph.add("Add", *fed)))


def _at(graph: Graph, value: str, position: str) -> str:
    return str(graph.add("Gather", value, position, axis=1))


def _axis(graph: Graph, number: int = 1) -> str:
    import numpy as np

    return graph.constant(np.array([number], np.int64))
