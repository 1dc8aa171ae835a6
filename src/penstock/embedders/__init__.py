"""Models, by their names."""

from __future__ import annotations

from penstock.contracts import Embedder


def from_name(model: str | None) -> Embedder:
    """The embedder of a folder or hub id; none: of the default model."""
    from penstock.embedders.onnx import OnnxEmbedder

    if not model:
        return OnnxEmbedder()
    from penstock.models import sees

    if sees(model):
        from penstock.embedders.clip import ClipEmbedder

        return ClipEmbedder(model)
    return OnnxEmbedder(model)
