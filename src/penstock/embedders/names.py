"""Embedders by the names of their models."""

from __future__ import annotations

from importlib.util import find_spec

from penstock.core.contracts import Embedder, MultiEmbedder, Reranker
from penstock.core.errors import MissingExtra, UsageError
from penstock.embedders.model_options import parted
from penstock.embedders.prefixes import INT8, M3, SPLADE, TORCH, named_prefix
from penstock.registry import EMBEDDERS, RERANKERS, find


def from_name(model: str | None) -> Embedder | MultiEmbedder:
    """The embedder of a folder or hub id, or of a plug-in by its prefix; none: of the default model."""
    prefix = named_prefix(model or "")
    if prefix:
        embedder: Embedder | MultiEmbedder = find(EMBEDDERS, prefix)(model)
        return embedder
    return _by_onnx(model, exact=True)


def from_name_in_int8(name: str) -> Embedder:
    model = name.removeprefix(INT8)
    _check_alone(INT8, model)
    return _by_onnx(model or None, exact=False)


def from_name_on_torch(name: str) -> Embedder:
    model = name.removeprefix(TORCH)
    _check_alone(TORCH, model)
    return _by_torch(model)


def from_name_as_splade(name: str) -> Embedder:
    return _by_onnx(name, exact=True)


def _check_alone(prefix: str, model: str) -> None:
    if another := next((each for each in (TORCH, INT8, M3) if model.startswith(each)), None):
        raise UsageError(f"{prefix} and {another} do not go together")


def _by_onnx(model: str | None, *, exact: bool) -> Embedder:
    from penstock.embedders.onnx import OnnxEmbedder

    if not model:
        return OnnxEmbedder(exact=exact)
    from penstock.embedders import kinds
    from penstock.embedders.models import kind

    found = kinds.SPARSE if model.startswith(SPLADE) else kind(model)
    name = model.removeprefix(SPLADE)
    _, options = parted(name)
    if found != kinds.LATE and (refused := sorted({"pool", "precision"} & options.keys())):
        raise UsageError(f"{name!r} has one vector a text, and {', '.join(refused)} is for late-interaction models")
    if found in OPTIONS and (refused := sorted(options.keys() - OPTIONS[found])):
        takes = ", ".join(sorted(OPTIONS[found]))
        raise UsageError(f"{model!r} is a model of {found}, which takes {takes}, not {', '.join(refused)}")
    if found == kinds.RERANKER:
        raise UsageError(
            f"{name!r} is a reranker, which makes no vectors: expected a model of another kind here, and this one as"
            " --rerank, or rerank= of a search"
        )
    if found == kinds.IMAGES:
        from penstock.embedders.clip import ClipEmbedder

        return ClipEmbedder(name, exact=exact)
    if found == kinds.LATE:
        from penstock.embedders.colbert import ColbertEmbedder

        return ColbertEmbedder(name, exact=exact)
    if found == kinds.SPARSE:
        from penstock.embedders.splade import SpladeEmbedder

        return SpladeEmbedder(name, exact=exact)
    if found == kinds.STATIC:
        if not exact:
            raise UsageError(
                f"{name!r} is a static model, which has no products to make in 8 bits: name it without {INT8}"
            )
        from penstock.embedders.static import StaticEmbedder

        return StaticEmbedder(name)
    return OnnxEmbedder(name, exact=exact)


OPTIONS = {
    "images": {"revision"},
    "static": {"revision"},
    "sparse": {"revision", "length"},
    "late interaction": {"revision", "length", "pool", "precision"},
}
"""Options that a model's name may have, by its kind; those of dense models are the others."""


def reranker(model: str) -> Reranker:
    """The reranker of a folder or hub id, or of a plug-in by its prefix."""
    if prefix := named_prefix(model):
        found: Reranker = find(RERANKERS, prefix)(model)
        return found
    return _cross_encoder(model, exact=True)


def reranker_in_int8(name: str) -> Reranker:
    return _cross_encoder(name.removeprefix(INT8), exact=False)


def _cross_encoder(name: str, *, exact: bool) -> Reranker:
    from penstock.embedders.cross_encoder import CrossEncoder

    taken = {"revision", "length", "file", "query"}
    if refused := sorted(parted(name)[1].keys() - taken):
        raise UsageError(f"{name!r} is a reranker, which takes {', '.join(sorted(taken))}, not {', '.join(refused)}")
    return CrossEncoder(name, exact=exact)


def _by_torch(model: str) -> Embedder:
    from penstock.embedders.clip import ClipEmbedder
    from penstock.embedders.kinds import IMAGES
    from penstock.embedders.models import kind

    if kind(model) != IMAGES:
        raise UsageError(f"{model!r} is no CLIP or SigLIP model, and no other runs on PyTorch: name it without {TORCH}")
    # Told before anything is begun; the driver itself is imported when the model is opened.
    if find_spec("torch") is None or find_spec("transformers") is None:
        raise MissingExtra(f"{TORCH}{model}", "torch")
    return ClipEmbedder(model, device="best")
