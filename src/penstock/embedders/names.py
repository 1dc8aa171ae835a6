"""Embedders by the names of their models."""

from __future__ import annotations

import os
import re
from importlib.util import find_spec

from penstock.core.contracts import Embedder, MultiEmbedder
from penstock.core.errors import MissingExtra, UsageError
from penstock.embedders.model_options import parted
from penstock.embedders.prefixes import INT8, TORCH
from penstock.registry import EMBEDDERS, find


def from_name(model: str | None) -> Embedder | MultiEmbedder:
    """The embedder of a folder or hub id, or of a plug-in by its prefix; none: of the default model."""
    prefix = _prefix(model or "")
    if prefix:
        embedder: Embedder | MultiEmbedder = find(EMBEDDERS, prefix)(model)
        return embedder
    return _by_onnx(model, exact=True)


def _prefix(model: str) -> str:
    """What stands before the colon, unless it is the path of a folder."""
    match = re.match(r"([a-z][a-z0-9+._-]*):(?!//)", model)
    return match[1] if match and not os.path.exists(model) else ""


def from_name_in_int8(name: str) -> Embedder:
    model = name.removeprefix(INT8)
    if model.startswith(TORCH):
        raise _together()
    return _by_onnx(model or None, exact=False)


def from_name_on_torch(name: str) -> Embedder:
    model = name.removeprefix(TORCH)
    if model.startswith(INT8):
        raise _together()
    return _by_torch(model)


def _together() -> UsageError:
    return UsageError(f"{TORCH} and {INT8} do not go together")


def _by_onnx(model: str | None, *, exact: bool) -> Embedder:
    from penstock.embedders.onnx import OnnxEmbedder

    if not model:
        return OnnxEmbedder(exact=exact)
    from penstock.embedders.models import embeds_images

    if embeds_images(model):
        from penstock.embedders.clip import ClipEmbedder

        _, options = parted(model)
        if refused := sorted(options.keys() - {"revision"}):
            raise UsageError(f"{model!r} embeds images and takes no option but revision, not {', '.join(refused)}")
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
