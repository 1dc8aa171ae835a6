"""A checkpoint's own ONNX file, pooled, projected and normalized here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from penstock.core.errors import ModelError
from penstock.embedders.checkpoint import Checkpoint, module_weights
from penstock.embedders.rows import padded
from penstock.embedders.runtime import run, session
from penstock.embedders.weights import read_tensors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

INPUTS = {"input_ids", "attention_mask", "token_type_ids", "position_ids"}
POOLED = ("sentence_embedding", "pooler_output", "text_embeds", "embeddings")
"""Names of outputs that are vectors of whole texts, the likeliest first."""


class Exported:
    """Runs the file on rows of token ids."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._path = checkpoint.weights[0]
        self._session = session(self._path)
        self._inputs = {node.name for node in self._session.get_inputs()}
        self._check_inputs()
        shapes = {node.name: len(node.shape) for node in self._session.get_outputs()}
        tokens = [name for name, axes in shapes.items() if axes == 3]
        pooled = sorted(
            (name for name, axes in shapes.items() if axes == 2),
            key=lambda name: POOLED.index(name) if name in POOLED else len(POOLED),
        )
        if not tokens and (not pooled or checkpoint.chosen_pooling):
            given = ", ".join(f"{name} ({axes} axes)" for name, axes in shapes.items())
            asked = "pooling= needs" if checkpoint.chosen_pooling else "Penstock needs"
            raise ModelError(f"{self._path} gives {given}: {asked} vectors of tokens, an output of 3 axes")
        self.pooled = not tokens
        self._output = (tokens or pooled)[0]
        self._projections = [
            (read_tensors(module_weights(checkpoint.folder, one.folder)), one.activation)
            for one in (() if self.pooled else checkpoint.projections)
        ]

    def _check_inputs(self) -> None:
        unknown = sorted(self._inputs - INPUTS)
        if any(name.startswith(("past_key_values", "past_key", "past")) for name in unknown):
            raise ModelError(
                f"{self._path} wants past_key_values: it was exported to write text, with a cache;"
                " export it to embed (optimum-cli export onnx --task feature-extraction), or name another file (?file=)"
            )
        if unknown:
            raise ModelError(
                f"{self._path} wants {', '.join(unknown)}, which Penstock does not give: expected an export"
                f" with no inputs but {', '.join(sorted(INPUTS))}; name another file (?file=)"
            )

    def run(self, ids: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        import numpy as np

        filled, lengths = padded(ids, self._checkpoint.pad)
        positions = np.arange(filled.shape[1])
        mask = (positions < lengths[:, None]).astype(np.int64)
        inputs = {
            "input_ids": filled.astype(np.int64),
            "attention_mask": mask,
            "token_type_ids": np.zeros_like(mask),
            # Of padding as well, where a table may have no more rows: those of what is masked count for nothing.
            "position_ids": (positions + self._checkpoint.offset) * mask,
        }
        found = run(self._session, {name: inputs[name] for name in self._inputs}, [self._output])
        found = np.asarray(found, np.float32)
        if not self.pooled:
            pooled = [pool(mode, found, mask, lengths) for mode in self._checkpoint.pooling]
            found = np.concatenate(pooled, axis=1)
        return self._headed(found)

    def _headed(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        import numpy as np

        for tensors, activation in self._projections:
            vectors = vectors @ tensors["linear.weight"].T + tensors.get("linear.bias", np.float32(0))
            vectors = _activated(activation, vectors)
        if self._checkpoint.cut:
            vectors = vectors[:, : self._checkpoint.cut]
        if vectors.shape[1] != self._checkpoint.dim:
            raise ModelError(
                f"{self._path} makes vectors of {vectors.shape[1]} dimensions, expected {self._checkpoint.dim}"
                " by the checkpoint's configuration"
            )
        if self._checkpoint.normalize:
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return np.ascontiguousarray(vectors, np.float32)


def _activated(activation: str, values: Any) -> Any:
    import numpy as np

    if activation == "Tanh":
        return np.tanh(values)
    if activation == "Relu":
        return np.maximum(values, 0)
    return 1 / (1 + np.exp(-values)) if activation == "Sigmoid" else values


def pool(mode: str, hidden: Any, mask: Any, lengths: Any) -> Any:
    """(batch, length, hidden) -> (batch, hidden)."""
    import numpy as np

    if mode == "cls":
        return hidden[:, 0]
    if mode == "lasttoken":
        return hidden[np.arange(len(lengths)), lengths - 1]
    if mode == "max":
        return np.where(mask[:, :, None] > 0, hidden, -np.inf).max(axis=1)
    weight = mask * np.arange(1, mask.shape[1] + 1) if mode == "weightedmean" else mask
    total = weight.sum(axis=1, keepdims=True).astype(np.float32)
    if mode == "mean_sqrt_len_tokens":
        total = np.sqrt(total)
    return np.einsum("bl,blh->bh", weight.astype(np.float32), hidden) / total
