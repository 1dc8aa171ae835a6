"""The configuration of a late-interaction model in any of its three layouts. Reads no weights.

PyLate                 config_sentence_transformers.json has all; 1_Dense
Stanford's ColBERT     artifact.metadata; linear.weight beside the transformer's
sentence-transformers  MultiVectorMask, sentence_bert_config.json
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from penstock.core.errors import ModelError
from penstock.core.precision import FP32
from penstock.embedders import heads, kinds
from penstock.embedders.checkpoint import (
    ACTIVATIONS,
    SENSELESS,
    Checkpoint,
    inside,
    module_weights,
    read,
    transformer_settings,
)

VERSION = 1
"""Part of a space's fingerprint: raise it when vectors change."""
PUNCTUATION = tuple(string.punctuation)
EXPANDED = 32
"""Tokens of a query with its expansion, where nothing else is set."""


class Projection(NamedTuple):
    """A linear layer of each token."""

    folder: str
    """"": its weights are beside the transformer's."""
    activation: str
    dim: int
    residual: bool


class Expansion(NamedTuple):
    """Tokens that fill a query up: each asks something, too."""

    length: int
    attended: bool
    """Whether the query's own tokens see them."""
    token: str
    """"": the tokenizer's mask, else the end of a text."""


class Pooling(NamedTuple):
    """Reduction of a passage's vectors: penstock.embedders.token_pooling."""

    factor: float
    kept: int
    """Vectors at its beginning that stay as they are."""
    normalize: bool


@dataclass(frozen=True, slots=True)
class ColbertCheckpoint:
    transformer: Checkpoint
    length: int
    expansion: Expansion | None
    skipped: tuple[str, ...]
    """Tokens of passages without a vector."""
    skips_queries: bool
    projections: tuple[Projection, ...]
    normalize: bool
    pooling: Pooling | None
    precision: str
    """In which passages' vectors are kept."""
    markers: tuple[str, ...]
    name: str

    @property
    def folder(self) -> Path:
        return self.transformer.folder

    @property
    def dim(self) -> int:
        return self.projections[-1].dim if self.projections else self.transformer.hidden

    @property
    def files(self) -> tuple[Path, ...]:
        dense = (path for each in self.projections if each.folder for path in module_weights(self.folder, each.folder))
        return (*self.transformer.weights, *dense, self.folder / "tokenizer.json")

    @property
    def traits(self) -> dict[str, Any]:
        own = {key: value for key, value in asdict(self).items() if key not in ("transformer", "name", "length")}
        if self.precision == FP32:
            del own["precision"]  # indexes made before there was another
        return {**self.transformer.traits, **own, "late": VERSION}


def load(folder: Path, name: str) -> ColbertCheckpoint:
    try:
        stanford = "HF_ColBERT" in (read(folder / "config.json").get("architectures") or [])
        checkpoint = _stanford(folder, name) if stanford else _modules(folder, name)
    except SENSELESS as error:
        raise ModelError(f"{folder} has a configuration that makes no sense: {error!r:.300}") from error
    most, expansion = checkpoint.transformer.positions, checkpoint.expansion
    if expansion is not None and not 0 < expansion.length <= most:
        raise ModelError(f"{folder} fills queries up to {expansion.length} tokens; it takes {most}")
    return checkpoint


def _stanford(folder: Path, name: str) -> ColbertCheckpoint:
    settings = kinds.optional(folder / "artifact.metadata")
    prompts = [f"{settings.get(key) or usual} " for key, usual in _MARKERS.items()]
    transformer = heads.transformer(folder, name)
    return ColbertCheckpoint(
        transformer=replace(transformer, query_prompt=prompts[0], passage_prompt=prompts[1]),
        length=min(int(settings.get("doc_maxlen") or transformer.length), transformer.positions),
        expansion=Expansion(
            int(settings.get("query_maxlen") or EXPANDED), bool(settings.get("attend_to_mask_tokens")), ""
        ),
        skipped=PUNCTUATION if settings.get("mask_punctuation", True) else (),
        skips_queries=False,
        projections=(Projection("", "", _rows(transformer.weights, "linear.weight"), residual=False),),
        normalize=True,
        pooling=None,
        precision=FP32,
        markers=tuple(prompts),
        name=name,
    )


_MARKERS = {"query_token_id": "[unused0]", "doc_token_id": "[unused1]"}


def _rows(paths: Sequence[Path], name: str) -> int:
    """The rows of a matrix of weights."""
    from safetensors import SafetensorError, safe_open

    for path in paths:
        try:
            with safe_open(path, framework="numpy") as file:
                if name in file.keys():  # noqa: SIM118
                    return int(file.get_slice(name).get_shape()[0])
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path} cannot be read: {error}") from error
    raise ModelError(f"{paths[0].parent} lacks the weight {name!r}")


def _modules(folder: Path, name: str) -> ColbertCheckpoint:
    settings = kinds.optional(folder / "config_sentence_transformers.json")
    pylate = settings.get("model_type") == "ColBERT"
    own = transformer_settings(folder)
    transformer = heads.transformer(folder, name)
    markers = []
    for marker, prompt in (("query_prefix", "query_prompt"), ("document_prefix", "passage_prompt")):
        if (prefix := settings.get(marker)) is not None:
            markers.append(prefix)
            transformer = replace(transformer, **{prompt: prefix + getattr(transformer, prompt).removeprefix(prefix)})
    projections: list[Projection] = []
    normalize, mask, pooling = pylate, None, None
    for kind, path in kinds.modules(folder)[1:]:
        config = kinds.optional(inside(folder, path) / "config.json")
        if kind == "Dense" and config.get("module_input_name", "token_embeddings") == "token_embeddings":
            projections.append(_projection(folder, path, config))
        elif kind == "Normalize":
            normalize = True
        elif kind == "MultiVectorMask":
            mask = _checked_mask(folder, config)
        elif kind == "HierarchicalTokenPooling":
            pooling = _pooling(folder, config)
        else:
            raise ModelError(f"{folder} has a module that Penstock does not run: {kind:.200}")
    length = own.get("document_length") or settings.get("document_length")
    if mask is None:
        skipped = settings.get("skiplist_words")
        mask = {"skiplist_words": PUNCTUATION if skipped is None else skipped}
    return ColbertCheckpoint(
        transformer=transformer,
        length=min(int(length or transformer.length), transformer.positions),
        expansion=_expansion(own if "query_expansion" in own else settings),
        skipped=tuple(map(str, mask.get("skiplist_words") or ())),
        skips_queries="query" in (mask.get("skiplist_tasks") or ()),
        projections=tuple(projections),
        normalize=normalize,
        pooling=pooling,
        precision=FP32,
        markers=tuple(markers),
        name=name,
    )


_FLAT = frozenset(
    {
        "query_length",
        "document_length",
        "do_query_expansion",
        "attend_to_expansion_tokens",
        "attend_to_mask_tokens",
        "query_prefix",
        "document_prefix",
        "skiplist_words",
    }
)
"""Settings of PyLate: with one of these and none of its own, a query is expanded."""


def _expansion(settings: Mapping[str, Any]) -> Expansion | None:
    if "query_expansion" in settings:
        given = settings["query_expansion"]
        if given is None:
            return None
        return Expansion(int(given["length"]), bool(given.get("attend")), given.get("token") or "")
    if settings.get("do_query_expansion") is False or not _FLAT & set(settings):
        return None
    attended = settings.get("attend_to_expansion_tokens", settings.get("attend_to_mask_tokens"))
    return Expansion(int(settings.get("query_length") or EXPANDED), bool(attended), "")


def _projection(folder: Path, path: str, config: Mapping[str, Any]) -> Projection:
    activation = kinds.class_name(config.get("activation_function") or "Identity")
    if activation not in ACTIVATIONS:
        raise ModelError(f"{folder} has a Dense module that Penstock does not run: {config!s:.300}")
    module_weights(folder, path)
    return Projection(path, ACTIVATIONS[activation], int(config["out_features"]), bool(config.get("use_residual")))


def _checked_mask(folder: Path, config: Mapping[str, Any]) -> Mapping[str, Any]:
    if config.get("keep_only_token_ids"):
        raise ModelError(
            f"{folder} keeps vectors of some tokens only, as models of page images do: it is none of texts"
        )
    return config


def _pooling(folder: Path, config: Mapping[str, Any]) -> Pooling:
    if config.get("tasks", ["document"]) not in (["document"], "document"):
        raise ModelError(f"{folder} pools the tokens of {config['tasks']!s:.100}; Penstock pools those of documents")
    kept, normalize = int(config.get("num_protected_tokens", 1)), bool(config.get("normalize_embeddings"))
    return Pooling(float(config["pool_factor"]), kept, normalize)
