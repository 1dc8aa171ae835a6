"""The configuration of a sentence-transformers checkpoint: family, pooling, prompts, limits. Reads no weights.

modules.json                       Transformer, Pooling, Dense ..., Normalize
config.json                        family and sizes
sentence_bert_config.json          the length it was made for
config_sentence_transformers.json  prompts
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from penstock.core.errors import ModelError

FAMILIES = {
    "bert": "bert",
    "roberta": "roberta",
    "xlm-roberta": "roberta",
    "camembert": "roberta",
    "mpnet": "mpnet",
    "distilbert": "distilbert",
}
"""model_type of config.json -> the family whose graph it shares."""

POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Flags of older 1_Pooling/config.json, in the order their vectors are joined."""

ACTIVATIONS = {"Identity": "", "Tanh": "Tanh", "ReLU": "Relu", "Sigmoid": "Sigmoid"}
"""Activation of a Dense module -> ONNX operator."""

SENSELESS = (KeyError, TypeError, ValueError, AttributeError, OverflowError)
"""What JSON of other types and numbers than expected makes of reading it."""

_LENGTHS = ("bert", "roberta", "distilbert", "camembert", "albert")


@dataclass(frozen=True, slots=True)
class Projection:
    """A Dense module behind the pooling."""

    folder: str
    activation: str
    dim: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    folder: Path
    name: str
    family: str
    """One of FAMILIES' values, or "" where only an ONNX file can run it."""
    hidden: int
    layers: int
    heads: int
    epsilon: float
    activation: str
    pad: int
    offset: int
    """Position of the first token in the position table."""
    positions: int
    """The tokens that the position table holds from there; the most the model can take, special tokens included."""
    length: int
    """The tokens it takes by its authors' setting, special tokens included."""
    pooling: tuple[str, ...]
    projections: tuple[Projection, ...]
    normalize: bool
    lowercase: bool
    passage_prompt: str
    query_prompt: str

    @property
    def dim(self) -> int:
        return self.projections[-1].dim if self.projections else self.hidden * len(self.pooling)

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file besides the configuration that bears on a vector."""
        dense = (self.folder / projection.folder / "model.safetensors" for projection in self.projections)
        return (*self.weights, *dense, self.folder / "tokenizer.json")

    @property
    def fused(self) -> bool:
        """Whether the graph is built from safetensors, not taken as exported."""
        return self.weights[0].suffix == ".safetensors"

    @property
    def weights(self) -> tuple[Path, ...]:
        """The safetensors files, or the ONNX file where there is no graph of ours for the family."""
        if self.family and (found := safetensors(self.folder)):
            return found
        for path in (self.folder / "onnx" / "model.onnx", self.folder / "model.onnx"):
            if path.is_file():
                data = path.with_name(path.name + "_data")
                return (path, data) if data.is_file() else (path,)
        raise ModelError(self._no_weights())

    def _no_weights(self) -> str:
        if not self.family:
            known = ", ".join(sorted(FAMILIES))
            return f"{self.folder}: its type is none of {known}, and there is no onnx/model.onnx to run instead"
        return only_pickle(self.folder) or f"{self.folder} holds neither model.safetensors nor onnx/model.onnx"

    @property
    def traits(self) -> dict[str, Any]:
        """The settings that bear on a vector, besides weights and tokenizer; neither paths nor limits."""
        left_out = {"folder", "name", "length", "positions"}
        return {key: value for key, value in asdict(self).items() if key not in left_out}


def read(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path.parent} is no model: it has no {path.name}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error


def inside(folder: Path, name: str) -> Path:
    """The file of that name in the folder: a checkpoint may name no file outside itself."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ModelError(f"{folder} names a file outside itself: {name!r:.200}")
    return folder / name


def safetensors(folder: Path) -> tuple[Path, ...]:
    """The files that hold a checkpoint's weights, whole or in shards; none where there are none."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return (single,)
    if index.is_file():
        try:
            return tuple(inside(folder, name) for name in sorted(set(read(index)["weight_map"].values())))
        except SENSELESS as error:
            raise ModelError(f"{index} makes no sense: {error!r:.300}") from error
    return ()


def only_pickle(folder: Path) -> str:
    """Why weights are not read that are there, if so."""
    if not (folder / "pytorch_model.bin").is_file():
        return ""
    return (
        f"{folder} has its weights only as pytorch_model.bin, a pickle, which Penstock does not run;"
        " save the model as safetensors or ONNX"
    )


def load(folder: Path, name: str) -> Checkpoint:
    config = read(folder / "config.json")
    try:
        return _load(folder, name, config)
    except SENSELESS as error:
        raise ModelError(f"{folder} has a configuration that makes no sense: {error!r:.300}") from error


def _load(folder: Path, name: str, config: Mapping[str, Any]) -> Checkpoint:
    kind = str(config.get("model_type", ""))
    family = FAMILIES.get(kind, "")
    if config.get("position_embedding_type", "absolute") != "absolute" or config.get("is_decoder"):
        family = ""
    pad = int(config.get("pad_token_id") or 0)
    offset = pad + 1 if family in ("roberta", "mpnet") else 0
    table = int(config.get("max_position_embeddings", 512))
    positions = table - offset
    pooling, projections, normalize = _modules(folder)
    settings = _settings(folder)
    prompts = _prompts(folder)
    length = settings.get("max_seq_length") or _tokenizer_length(folder) or positions
    return Checkpoint(
        folder=folder,
        name=name,
        family=family,
        hidden=int(config.get("hidden_size") or config.get("dim") or config["d_model"]),
        layers=int(config.get("num_hidden_layers") or config["n_layers"]),
        heads=int(config.get("num_attention_heads") or config["n_heads"]),
        epsilon=1e-12 if family == "distilbert" else float(config.get("layer_norm_eps", 1e-12)),
        activation=str(config.get("hidden_act") or config.get("activation") or "gelu"),
        pad=pad,
        offset=offset,
        positions=positions,
        length=min(int(length), positions) if family else int(length),
        pooling=pooling,
        projections=projections,
        normalize=normalize,
        lowercase=bool(settings.get("do_lower_case", False)),
        passage_prompt=prompts[0],
        query_prompt=prompts[1],
    )


def _modules(folder: Path) -> tuple[tuple[str, ...], tuple[Projection, ...], bool]:
    """Poolings, projections and whether vectors are normalized; a bare transformer is mean-pooled, as its peers do."""
    if not (folder / "modules.json").is_file():
        return ("mean",), (), False
    pooling: tuple[str, ...] = ()
    projections: list[Projection] = []
    normalize = False
    for module in read(folder / "modules.json"):
        kind, path = str(module["type"]).rpartition(".")[2], str(module.get("path", ""))
        if kind == "Transformer" and not pooling:
            if path:
                raise ModelError(
                    f"{folder} keeps its transformer in a folder of its own ({path:.200}); Penstock reads it at the top"
                )
        elif kind == "Pooling" and not pooling:
            pooling = _pooling(read(inside(folder, path) / "config.json"), folder)
        elif kind == "Dense" and pooling and not normalize:
            projections.append(_projection(folder, path))
        elif kind == "Normalize" and pooling:
            normalize = True
        else:
            raise ModelError(f"{folder} has a module that Penstock does not run: {module['type']!s:.200}")
    if not pooling:
        raise ModelError(f"{folder} has no pooling: it does not make one vector of a text")
    return pooling, tuple(projections), normalize


def _pooling(config: Mapping[str, Any], folder: Path) -> tuple[str, ...]:
    named = config.get("pooling_mode")
    if named is None:
        modes = tuple(mode for flag, mode in POOLINGS.items() if config.get(flag)) or ("mean",)
    else:
        modes = (named,) if isinstance(named, str) else tuple(named)
    if unknown := set(modes) - set(POOLINGS.values()):
        raise ModelError(f"{folder} pools by {', '.join(sorted(unknown)):.200}, which Penstock does not know")
    if not config.get("include_prompt", True):
        raise ModelError(f"{folder} leaves the prompt out of its pooling, which Penstock does not do")
    return modes


def _projection(folder: Path, path: str) -> Projection:
    config = read(inside(folder, path) / "config.json")
    activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh")).rpartition(".")[2]
    if activation not in ACTIVATIONS or config.get("use_residual"):
        raise ModelError(f"{folder} has a Dense module that Penstock does not run: {config!s:.300}")
    if not (inside(folder, path) / "model.safetensors").is_file():
        raise ModelError(f"{folder}/{path:.200} has no model.safetensors")
    return Projection(path, ACTIVATIONS[activation], int(config["out_features"]))


def _settings(folder: Path) -> Mapping[str, Any]:
    for kind in _LENGTHS:
        path = folder / f"sentence_{kind}_config.json"
        if path.is_file():
            return dict(read(path))
    return {}


def _tokenizer_length(folder: Path) -> int | None:
    path = folder / "tokenizer_config.json"
    length = read(path).get("model_max_length") if path.is_file() else None
    # "No limit" is written as 1e30 by transformers.
    return int(length) if length and length < 1 << 24 else None


def _prompts(folder: Path) -> tuple[str, str]:
    """The prompts of passages and of queries: by their usual names, else the default one."""
    path = folder / "config_sentence_transformers.json"
    config = read(path) if path.is_file() else {}
    prompts: Mapping[str, str] = config.get("prompts") or {}
    usual = str(config.get("default_prompt_name") or "")
    default = prompts.get(usual) or ""
    passages = [prompts[name] for name in ("document", "passage", "corpus") if prompts.get(name) is not None]
    # A default that is the query's own is not meant for passages.
    passage = passages[0] if passages else ("" if usual == "query" else default)
    query = prompts.get("query")
    return passage, default if query is None else query


def fingerprint(traits: Mapping[str, Any], digests: Sequence[str]) -> str:
    """A hash of all that bears on a vector, of which `digests` are those of its files; wherever the model lies."""
    hashed = json.dumps([traits, list(digests)], sort_keys=True)
    return hashlib.sha256(hashed.encode()).hexdigest()[:32]
