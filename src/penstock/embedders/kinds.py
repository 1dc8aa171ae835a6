"""The kind of vectors that a checkpoint makes, by its configuration. Reads no weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from penstock.core.errors import ModelError
from penstock.embedders.checkpoint import SENSELESS, read

DENSE, STATIC, LATE, SPARSE, IMAGES = "dense", "static", "late interaction", "sparse", "images"
RERANKER = "reranker"
"""It makes no vectors."""

SEEING = ("clip", "siglip")
"""Model types that embed images."""

MODULES = {"StaticEmbedding": STATIC, "MultiVectorMask": LATE, "SpladePooling": SPARSE, "SparseStaticEmbedding": SPARSE}
"""Modules of sentence-transformers that no other kind has."""
LIBRARIES = {"ColBERT": LATE, "MultiVectorEncoder": LATE, "SparseEncoder": SPARSE, "CrossEncoder": RERANKER}
"""model_type of config_sentence_transformers.json."""
CLASSIFIER = "ForSequenceClassification"
"""How architectures of cross-encoders end."""
GUESSES = {"clip": IMAGES, "siglip": IMAGES}
"""Words in the name of a model of which nothing can be read."""


def kind_of(folder: Path) -> str:
    try:
        return _kind_of(folder)
    except SENSELESS as error:
        raise ModelError(f"{folder} has a configuration that makes no sense: {error!r:.300}") from error


def guess(name: str) -> str:
    return next((kind for word, kind in GUESSES.items() if word in name.lower()), DENSE)


def _kind_of(folder: Path) -> str:
    config = optional(folder / "config.json")
    architectures = config.get("architectures") or []
    if config.get("model_type") in SEEING:
        return IMAGES
    if "HF_ColBERT" in architectures:
        return LATE
    if library := LIBRARIES.get(str(optional(folder / "config_sentence_transformers.json").get("model_type"))):
        return library
    for module in module_types(folder):
        if found := MODULES.get(module):
            return found
    types = optional(folder / "router_config.json").get("types") or {}
    if any(MODULES.get(class_name(kind)) == SPARSE for kind in types.values()):
        return SPARSE
    # Model2Vec's first releases wrote neither a type nor modules.json.
    marks = {"embedding_dtype", "tokenizer_name", "normalize"} & set(config)
    if config.get("model_type") == "model2vec" or "StaticModel" in architectures:
        return STATIC
    if any(str(each).endswith(CLASSIFIER) for each in architectures) and not module_types(folder):
        return RERANKER
    return STATIC if "model_type" not in config and marks else DENSE


def optional(path: Path) -> Mapping[str, Any]:
    """The mapping in a file of JSON; nothing where there is no file."""
    return dict(read(path)) if path.is_file() else {}


def class_name(path: object) -> str:
    return str(path).rpartition(".")[2]


def modules(folder: Path) -> list[tuple[str, str]]:
    """Class and folder of each module, in order."""
    path = folder / "modules.json"
    listed = read(path) if path.is_file() else []
    return [(class_name(module["type"]), str(module.get("path") or "")) for module in listed]


def module_types(folder: Path) -> list[str]:
    return [kind for kind, _ in modules(folder)]
