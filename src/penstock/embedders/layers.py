"""The encoder of a families.Design: embedding, layers of attention and feed-forward, and the norms around them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.embedders.attention import Frame, cut, frame, in_blocks, rope_tables, rotated
from penstock.embedders.blocks import constant, dense, feed_forward, norm, products, shifted
from penstock.embedders.builder import Graph
from penstock.embedders.families import NAMES
from penstock.embedders.weights import Layer

if TYPE_CHECKING:
    from penstock.embedders.blocks import Array
    from penstock.embedders.checkpoint import Checkpoint
    from penstock.embedders.families import Design
    from penstock.embedders.weights import Weights


class Stack:
    """Builds the graph of one encoder."""

    def __init__(self, graph: Graph, checkpoint: Checkpoint, design: Design, weights: Weights) -> None:
        self.graph, self.checkpoint, self.design = graph, checkpoint, design
        self.model = Layer(weights, NAMES[checkpoint.family])
        ropes = {design.rope, design.local_rope} - {None}
        self.tables = {rope: rope_tables(graph, rope, checkpoint.positions) for rope in ropes if rope}

    def hidden(self, types: str = "") -> str:
        """The last hidden states: (batch, length, hidden). `types`: those of the tokens, if there are several."""
        around = frame(self.graph)
        state = self._embedded(around.ids, self.graph.add("Pad", types, around.pads) if types else "")
        for number in range(self.checkpoint.layers):
            state = self._layer(state, self.model.layer(number), number, around)
        if self.design.before:
            state = self._norm(self.model, "norm", state)
        return cut(self.graph, state, around)

    def _embedded(self, ids: str, types: str) -> str:
        words, kinds = self.model.need("words"), self.model.get("types")
        if self.design.embedding_scale != 1:
            words = words * self.design.embedding_scale
        if kinds is not None and not types:
            # Every token is of type 0.
            words = words + kinds[0]
        state = str(self.graph.add("Gather", self.graph.constant(words), ids, axis=0))
        if kinds is not None and types:
            state = str(
                self.graph.add("Add", state, self.graph.add("Gather", self.graph.constant(kinds), types, axis=0))
            )
        return self._norm(self.model, "embedded", state) if self.model.knows("embedded") else state

    def _layer(self, state: str, layer: Layer, number: int, around: Frame) -> str:
        graph, before = self.graph, self.design.before
        value = self._norm(layer, "norm1", state) if before and (number or self.design.first) else state
        value = dense(graph, layer, "o", self._attention(value, layer, number, around))
        # Jina's model for code norms twice; in their others the two are one.
        if layer.knows("within") and layer.need("within") is not layer.need("norm1"):
            value = self._norm(layer, "within", graph.add("Add", state, value))
        if layer.knows("attended"):
            value = self._norm(layer, "attended", value)
        state = graph.add("Add", state, value)
        if not before:
            state = self._norm(layer, "norm1", state)
        value = self._norm(layer, "norm2", state) if before else state
        value = feed_forward(graph, layer, self.checkpoint.activation, value)
        if layer.knows("fed"):
            value = self._norm(layer, "fed", value)
        state = graph.add("Add", state, value)
        return state if before else self._norm(layer, "norm2", state)

    def _attention(self, value: str, layer: Layer, number: int, around: Frame) -> str:
        design, heads = self.design, self.checkpoint.heads
        local = bool(design.local) and design.local[number]
        rope = design.local_rope if local else design.rope
        counts = {"q": heads, "k": design.groups, "v": design.groups}
        result = []
        for part, product in zip(counts, self._qkv(value, layer), strict=True):
            if part != "v":
                product = self._head_norm(product, layer, f"{part}_norm", counts[part])
                if rope is not None:
                    product = rotated(self.graph, product, rope, self.tables[rope], counts[part])
            result.append(product)
        return in_blocks(self.graph, result, around, heads, design, local=local)

    def _qkv(self, value: str, layer: Layer) -> list[str]:
        import numpy as np

        heads, design = self.checkpoint.heads, self.design
        ends = np.array([heads, heads + design.groups]) * design.head
        if (stacked := layer.get("qkv")) is not None:
            matrices = np.split(stacked, ends)
            bias = layer.get("qkv", "bias")
            shifts: list[Array | None] = [None] * 3 if bias is None else [*np.split(bias, ends)]
        else:
            matrices = [layer.need(part) for part in "qkv"]
            shifts = [layer.get(part, "bias") for part in "qkv"]
        values = products(self.graph, value, [matrix.T for matrix in matrices], fine=True)
        return [shifted(self.graph, each, shift) for each, shift in zip(values, shifts, strict=True)]

    def _head_norm(self, value: str, layer: Layer, part: str, heads: int) -> str:
        if (scale := layer.get(part)) is None:
            return value
        graph, head = self.graph, self.design.head
        if len(scale) != head:
            # Of all heads together.
            return self._norm(layer, part, value)
        apart = graph.add("Reshape", value, constant(graph, [0, 0, heads, head]))
        value = norm(graph, self.design.norm, apart, scale, layer.get(part, "bias"), self.checkpoint.epsilon)
        return str(graph.add("Reshape", value, constant(graph, [0, 0, heads * head])))

    def _norm(self, layer: Layer, part: str, value: str) -> str:
        scale = layer.need(part)
        return norm(self.graph, self.design.norm, value, scale, layer.get(part, "bias"), self.checkpoint.epsilon)
