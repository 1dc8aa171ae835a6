"""Models, by their names."""

from __future__ import annotations

from importlib.util import find_spec

from penstock.contracts import Embedder
from penstock.errors import MissingExtra, UsageError

TORCH = "torch:"
"""Before a model's name: run it on PyTorch. It is no part of the name that is kept with an index."""


def from_name(model: str | None) -> Embedder:
    """The embedder of a folder or hub id; none: of the default model."""
    from penstock.embedders.onnx import OnnxEmbedder

    if not model:
        return OnnxEmbedder()
    if model.startswith(TORCH):
        return _by_torch(model.removeprefix(TORCH))
    from penstock.models import sees

    if sees(model):
        from penstock.embedders.clip import ClipEmbedder

        return ClipEmbedder(model)
    return OnnxEmbedder(model)


def _by_torch(model: str) -> Embedder:
    from penstock.embedders.clip import ClipEmbedder
    from penstock.models import sees

    if not sees(model):
        raise UsageError(f"{model!r} is no CLIP or SigLIP model, and no other runs on PyTorch: name it without {TORCH}")
    # Told before anything is begun; the driver itself is imported when the model is opened.
    if find_spec("torch") is None or find_spec("transformers") is None:
        raise MissingExtra(f"{TORCH}{model}", "torch")
    return ClipEmbedder(model, device="best")
