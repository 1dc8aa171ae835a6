"""Attention: ONNX Runtime's fused operator for short texts, and blocks of queries for texts of any length.

In blocks, the products of all queries and keys never exist at once, and of a local layer only those in its window
are computed. Ids are padded so that all blocks are of one size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from penstock.embedders.blocks import constant, product
from penstock.embedders.builder import Graph

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from penstock.embedders.families import Design, Rope
    from penstock.embedders.weights import Weights

BLOCK = 128
"""The most queries of a block."""
NOTHING = -1e30
"""Added to the product with a key that is not attended to. Finite: of a row of padding no key may be left."""


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
    """Multi-head attention in one; `names` are the layers of queries, keys and values."""
    import numpy as np

    matrix = np.concatenate([weights[f"{name}.weight"].T for name in names], axis=1)
    shift = graph.constant(np.concatenate([weights[f"{name}.bias"] for name in names]))
    options: dict[str, Any] = {"fused": True, "num_heads": heads, "unidirectional": int(causal)}
    if graph.exact:
        return str(graph.add("Attention", state, graph.constant(matrix), shift, lengths, "", bias, **options))
    sizes = graph.constant(np.full(3, matrix.shape[1] // 3, np.int64))
    qkv = graph.add("Split", product(graph, state, matrix, fine=True), sizes, outputs=3, axis=-1)
    return str(graph.add("MultiHeadAttention", *qkv, shift, lengths, bias, **options))


@dataclass(frozen=True, slots=True)
class Frame:
    """The division of a batch into blocks: names of values in the graph."""

    ids: str
    """Ids, padded."""
    pads: str
    """Of the operator Pad, for other values of every token."""
    length: str
    """The length of the longest row before that, as an array of one."""
    width: str
    size: str
    """Queries of a block."""
    indexes: str
    keys: str
    """What is added for each key: (batch, 1, 1, 1, width)."""


def frame(graph: Graph) -> Frame:
    """Pad `ids` to blocks of one size."""
    import numpy as np
    from onnx import TensorProto

    one, zero = constant(graph, 1), constant(graph, 0)
    length = graph.add("Gather", graph.add("Shape", "ids"), one, axis=0)

    def upwards(value: str, by: str) -> str:
        return str(graph.add("Div", graph.add("Sub", graph.add("Add", value, by), one), by))

    count = upwards(length, constant(graph, BLOCK))
    size = upwards(length, count)
    width = graph.add("Mul", count, size)
    axis0 = constant(graph, [0])
    missing = graph.add("Unsqueeze", graph.add("Sub", width, length), axis0)
    pads = graph.add("Concat", constant(graph, [0, 0, 0]), missing, axis=0)
    ids = graph.add("Pad", "ids", pads)
    positions = graph.add("Range", zero, width, one)
    lengths = graph.add("Cast", graph.add("Unsqueeze", "lengths", constant(graph, [1])), to=TensorProto.INT64)
    none, all_ = graph.constant(np.array(NOTHING, np.float32)), graph.constant(np.array(0, np.float32))
    keys = graph.add("Where", graph.add("Less", positions, lengths), all_, none)
    return Frame(
        ids=ids,
        pads=pads,
        length=graph.add("Unsqueeze", length, axis0),
        width=width,
        size=size,
        indexes=graph.add("Range", zero, count, one),
        keys=graph.add("Unsqueeze", keys, constant(graph, [1, 2, 3])),
    )


def cut(graph: Graph, state: str, frame: Frame) -> str:
    """The state without the padding of the frame."""
    return str(graph.add("Slice", state, constant(graph, [0]), frame.length, constant(graph, [1])))


def in_blocks(graph: Graph, qkv: Sequence[str], frame: Frame, heads: int, design: Design, *, local: bool) -> str:
    """Attention of queries (batch, width, heads x head) to keys and values (batch, width, groups x head)."""
    groups, head = design.groups, design.head
    q, k, v = (
        graph.add(
            "Transpose",
            graph.add("Reshape", value, constant(graph, [0, 0, groups, each, head])),
            perm=[0, 2, 3, 1, 4],
        )
        for value, each in zip(qkv, (heads // groups, 1, 1), strict=True)
    )
    body = graph.body("index")
    zero, one = constant(graph, 0), constant(graph, 1)
    start = body.add("Mul", "index", frame.size)
    end = body.add("Add", start, frame.size)
    q, mask, first, last = _rows(body, q, start, end, 3), frame.keys, zero, frame.width
    window = constant(graph, design.window)
    if local:
        first = body.add("Max", body.add("Sub", start, window), zero)
        last = body.add("Min", body.add("Add", end, window), frame.width)
    if design.causal:
        last = end
    if local or design.causal:
        k, v, mask = _rows(body, k, first, last, 3), _rows(body, v, first, last, 3), _rows(body, mask, first, last, 4)
    if local or design.causal or design.alibi:
        rows = body.add("Unsqueeze", body.add("Range", start, end, one), constant(graph, [1]))
        mask = _by_distance(
            body, mask, body.add("Sub", body.add("Range", first, last, one), rows), heads, design, local
        )
    scores = body.add("FusedMatMul", q, k, fused=True, transB=1, alpha=design.scale)
    shares = body.add("Softmax", body.add("Add", scores, mask), axis=-1)
    joined = body.add("Transpose", body.add("MatMul", shares, v), perm=[0, 3, 1, 2, 4])
    body.add("Reshape", joined, constant(graph, [0, 0, heads * head]))
    blocks = graph.scan(body, frame.indexes, axis=1)
    return str(graph.add("Reshape", blocks, constant(graph, [0, -1, heads * head])))


def _rows(body: Graph, value: str, start: str, end: str, axis: int) -> str:
    axis0 = constant(body, [0])
    bounds = (body.add("Unsqueeze", bound, axis0) for bound in (start, end))
    return str(body.add("Slice", value, *bounds, constant(body, [axis])))


def _by_distance(body: Graph, mask: str, distances: str, heads: int, design: Design, local: bool) -> str:
    """The mask, with what is added for the distance of a key from a query."""
    import numpy as np
    from onnx import TensorProto

    far = body.add("Abs", distances)
    if local or design.causal:
        near = body.add("LessOrEqual", far, constant(body, design.window)) if local else ""
        if design.causal:
            past = body.add("LessOrEqual", distances, constant(body, 0))
            near = body.add("And", near, past) if near else past
        all_, none = (body.constant(np.array(value, np.float32)) for value in (0, NOTHING))
        mask = body.add("Add", mask, body.add("Where", near, all_, none))
    if design.alibi:
        slopes = body.constant(-_slopes(heads).reshape(design.groups, -1, 1, 1))
        mask = body.add("Add", mask, body.add("Mul", slopes, body.add("Cast", far, to=TensorProto.FLOAT)))
    return mask


def _slopes(heads: int) -> NDArray[np.float32]:
    """ALiBi's slope of each head: a geometric series; for what is no power of two, every other one of the next."""
    import numpy as np

    whole = 1 << (heads.bit_length() - 1)
    slopes = [2 ** (-8 * (i + 1) / whole) for i in range(whole)]
    slopes += [2 ** (-4 * (2 * i + 1) / whole) for i in range(heads - whole)]
    return np.array(slopes, np.float32)


def rotated(graph: Graph, value: str, rope: Rope, tables: tuple[str, str], heads: int) -> str:
    """Queries or keys (batch, width, heads x head), rotated by their position."""
    return str(
        graph.add(
            "RotaryEmbedding",
            value,
            constant(graph, [0]),
            *tables,
            fused=True,
            interleaved=int(rope.interleaved),
            num_heads=heads,
            rotary_embedding_dim=rope.dims,
        )
    )


def rope_tables(graph: Graph, rope: Rope, positions: int) -> tuple[str, str]:
    """Cosines and sines of every position, those of a frame's padding included."""
    import numpy as np

    positions += positions // BLOCK + 1
    frequencies, factor = _frequencies(rope)
    angles = np.outer(np.arange(positions, dtype=np.float32), frequencies.astype(np.float32))
    cosines, sines = np.cos(angles) * factor, np.sin(angles) * factor
    return graph.constant(cosines.astype(np.float32)), graph.constant(sines.astype(np.float32))


def _frequencies(rope: Rope) -> tuple[NDArray[np.float64], float]:
    """Radians that a position turns each pair of dimensions by, and a factor of the rotated values."""
    import numpy as np

    numbers: Mapping[str, Any] = dict(rope.scaling)
    kind, factor = numbers.get("rope_type", "default"), float(numbers.get("factor") or 1)
    steps = np.arange(0, rope.dims, 2) / rope.dims
    theta = rope.theta * factor if kind == "ntk" and "mixed_b" not in numbers else rope.theta
    plain = 1.0 / theta**steps
    if kind == "linear":
        return plain / factor, 1.0
    if kind == "ntk":
        if "mixed_b" not in numbers:
            return plain / factor ** (2 / rope.dims), 1.0
        b = float(numbers["mixed_b"])
        grown = math.log(factor) / (rope.dims / 2) ** b * np.arange(1, rope.dims // 2 + 1) ** b
        return plain / np.exp(grown), 1.0
    if kind == "llama3":
        low, high = float(numbers["low_freq_factor"]), float(numbers["high_freq_factor"])
        turns = float(numbers["original_max_position_embeddings"]) * plain / (2 * math.pi)
        smooth = np.clip((turns - low) / (high - low), 0, 1)
        return (1 - smooth) * plain / factor + smooth * plain, 1.0
    if kind == "yarn":
        return _yarn(rope, plain, factor, numbers)
    return plain, 1.0


def _yarn(
    rope: Rope, plain: NDArray[np.float64], factor: float, numbers: Mapping[str, Any]
) -> tuple[NDArray[np.float64], float]:
    import numpy as np

    def dimension(turns: float) -> float:
        positions = float(numbers["original_max_position_embeddings"])
        return rope.dims * math.log(positions / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    def grown(scale: float) -> float:
        return 0.1 * scale * math.log(factor) + 1 if factor > 1 else 1.0

    low = dimension(float(numbers.get("beta_fast") or 32))
    high = dimension(float(numbers.get("beta_slow") or 1))
    if numbers.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.dims - 1)
    ramp = np.clip((np.arange(rope.dims // 2) - low) / (max(high - low, 0.001)), 0, 1)
    attention = numbers.get("attention_factor")
    if attention is None:
        scale, all_ = numbers.get("mscale"), numbers.get("mscale_all_dim")
        attention = grown(float(scale)) / grown(float(all_)) if scale and all_ else grown(1.0)
    return plain / factor * ramp + plain * (1 - ramp), float(attention)
