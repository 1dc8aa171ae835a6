"""Embedders by the names of their models."""

from __future__ import annotations

from importlib.util import find_spec

from penstock.core.contracts import Embedder
from penstock.core.errors import MissingExtra, UsageError
from penstock.embedders.prefixes import INT8, TORCH


def from_name(model: str | None) -> Embedder:
    """The embedder of a folder or hub id; none: of the default model."""
    from penstock.embedders.onnx import OnnxEmbedder

    exact = not (model or "").startswith(INT8)
    model = (model or "").removeprefix(INT8)
    if not model:
        return OnnxEmbedder(exact=exact)
    if model.startswith(TORCH):
        if not exact or model.startswith(TORCH + INT8):
            raise UsageError(f"{TORCH} and {INT8} do not go together")
        return _by_torch(model.removeprefix(TORCH))
    from penstock.embedders.models import embeds_images

    if embeds_images(model):
        from penstock.embedders.clip import ClipEmbedder

        return ClipEmbedder(model, exact=exact)
    return OnnxEmbedder(model, exact=exact)


def _by_torch(model: str) -> Embedder:
    from penstock.embedders.clip import ClipEmbedder
    from penstock.embedders.models import embeds_images

    if not embeds_images(model):
        raise UsageError(f"{model!r} is no CLIP or SigLIP model, and no other runs on PyTorch: name it without {TORCH}")
    # Told before anything is begun; the driver itself is imported when the model is opened.
    if find_spec("torch") is None or find_spec("transformers") is None:
        raise MissingExtra(f"{TORCH}{model}", "torch")
    return ClipEmbedder(model, device="best")
