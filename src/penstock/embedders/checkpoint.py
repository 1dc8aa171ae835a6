"""The configuration of a sentence-transformers checkpoint: family, pooling, prompts, limits. Reads no weights.

modules.json                       Transformer, Pooling, Dense ..., Normalize
config.json                        family and sizes
sentence_bert_config.json          the length it was made for
config_sentence_transformers.json  prompts
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from penstock.core.errors import ModelError
from penstock.embedders.families import DESIGNS, Design, Unsupported, sizes

FAMILIES = {
    "bert": "bert",
    "roberta": "roberta",
    "xlm-roberta": "roberta",
    "camembert": "roberta",
    "mpnet": "mpnet",
    "distilbert": "distilbert",
    "modernbert": "modernbert",
    "nomic_bert": "nomic_bert",
    "new": "gte",
    "gte": "gte",
    "gemma3_text": "gemma3_text",
    "qwen3": "qwen3",
    "eurobert": "eurobert",
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

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Files of weights: the first one that is there is read."""

SENSELESS = (KeyError, TypeError, ValueError, AttributeError, ArithmeticError)
"""What JSON of other types and numbers than expected makes of reading it."""

MOST_LAYERS, MOST_POSITIONS = 1_000, 1 << 17
"""Of any encoder: what a configuration says is not trusted with more memory than that."""

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
    design: Design | None = None
    """The architecture, of families that are not BERT's."""
    reason: str = ""
    """Why there is no graph of ours for it, where that is not its type alone."""
    cut: int = 0
    """The dimensions of a vector that are kept (Matryoshka); 0: all."""
    file: str = ""
    """The ONNX file to run instead of building a graph."""
    chosen_pooling: bool = False
    """The pooling is an option, not the checkpoint's own."""

    @property
    def dim(self) -> int:
        if self.cut:
            return self.cut
        return self.projections[-1].dim if self.projections else self.hidden * len(self.pooling)

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file besides the configuration that bears on a vector."""
        dense = (path for each in self.projections for path in module_weights(self.folder, each.folder))
        return (*self.weights, *dense, self.folder / "tokenizer.json")

    @property
    def fused(self) -> bool:
        """Whether the graph is built from weights, not taken as exported."""
        return self.weights[0].suffix != ".onnx"

    @property
    def weights(self) -> tuple[Path, ...]:
        """The files of weights, or the ONNX file where there is no graph of ours for the family."""
        if self.file:
            if (path := inside(self.folder, self.file)).suffix != ".onnx" or not path.is_file():
                there = sorted(str(one.relative_to(self.folder)) for one in self.folder.rglob("*.onnx"))
                raise ModelError(
                    f"{self.folder} has no ONNX file {self.file!r:.200}: it has {', '.join(there) or 'none'}"
                )
            return _with_data(path)
        if self.family and (found := weight_files(self.folder)):
            return found
        for path in (self.folder / "onnx" / "model.onnx", self.folder / "model.onnx"):
            if path.is_file():
                return _with_data(path)
        raise ModelError(self._no_weights())

    def _no_weights(self) -> str:
        if not self.family:
            return (
                f"{self.folder}: {self.reason}, and it has no onnx/model.onnx to run instead;"
                f" graphs are built for {', '.join(sorted(FAMILIES))}; others are run from an ONNX export"
                " (optimum-cli export onnx --model NAME --task feature-extraction FOLDER/onnx), or on a server"
            )
        return f"{self.folder} holds none of {', '.join(WEIGHTS)} and onnx/model.onnx"

    @property
    def traits(self) -> dict[str, Any]:
        """The settings that bear on a vector, besides weights and tokenizer; neither paths nor limits."""
        left_out = {"folder", "name", "length", "positions", "reason", "file", "chosen_pooling"}
        # Absent where they are not used: indexes made before there were such settings keep their fingerprint.
        left_out |= {name for name in ("design", "cut") if not getattr(self, name)}
        return {key: value for key, value in asdict(self).items() if key not in left_out}


def _with_data(path: Path) -> tuple[Path, ...]:
    """An ONNX file, and the one of its weights beside it."""
    data = (path.with_name(path.name + ending) for ending in ("_data", ".data"))
    return (path, *(one for one in data if one.is_file()))


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


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The files that hold the weights of a checkpoint or of a module, whole or in shards; none where there are none."""
    for single in WEIGHTS:
        if (folder / single).is_file():
            return (folder / single,)
        if (index := folder / f"{single}.index.json").is_file():
            try:
                return tuple(inside(folder, name) for name in sorted(set(read(index)["weight_map"].values())))
            except SENSELESS as error:
                raise ModelError(f"{index} makes no sense: {error!r:.300}") from error
    return ()


def module_weights(folder: Path, module: str) -> tuple[Path, ...]:
    """The weights of what follows the transformer, in a folder of its own."""
    if found := weight_files(inside(folder, module)):
        return found
    raise ModelError(f"{folder}/{module:.200} has neither of {' and '.join(WEIGHTS)}")


def load(folder: Path, name: str) -> Checkpoint:
    """The checkpoint of a model that makes one vector of a text."""
    encoder = load_encoder(folder, name)
    with _sense(folder):
        pooling, projections, normalize = _modules(folder)
    return replace(encoder, pooling=pooling, projections=projections, normalize=normalize)


def load_encoder(folder: Path, name: str) -> Checkpoint:
    """The encoder of a checkpoint, whatever modules follow it: as if its vectors were the plain mean of the tokens'."""
    config = read(folder / "config.json")
    with _sense(folder):
        return _encoder(folder, name, config)


@contextmanager
def _sense(folder: Path) -> Iterator[None]:
    try:
        yield
    except SENSELESS as error:
        raise ModelError(f"{folder} has a configuration that makes no sense: {error!r:.300}") from error


def _encoder(folder: Path, name: str, config: Mapping[str, Any]) -> Checkpoint:
    pad = int(config.get("pad_token_id") or 0)
    hidden, layers, heads = sizes(config)
    if not 0 < layers <= MOST_LAYERS or not 0 < heads <= hidden:
        raise ValueError(f"{layers} layers, {heads} heads, {hidden} dimensions")
    family, design, reason = _architecture(config)
    offset = pad + 1 if family in ("roberta", "mpnet") else 0
    positions = int(config.get("max_position_embeddings") or config.get("n_positions") or 512) - offset
    if design is not None:
        positions = min(positions, MOST_POSITIONS)
    if config.get("rotary_scaling_factor"):
        # Beyond them NomicBERT's rotation would depend on the longest text of a batch.
        positions = min(positions, int(config.get("max_trained_positions", 2048)))
    settings = transformer_settings(folder)
    prompts = _prompts(folder)
    length = settings.get("max_seq_length") or _tokenizer_length(folder) or positions
    return Checkpoint(
        folder=folder,
        name=name,
        family=family,
        hidden=hidden,
        layers=layers,
        heads=heads,
        epsilon=_epsilon(config, family),
        activation=_activation(config),
        pad=pad,
        offset=offset,
        positions=positions,
        length=min(int(length), positions) if family else int(length),
        pooling=("mean",),
        projections=(),
        normalize=False,
        lowercase=bool(settings.get("do_lower_case", False)),
        passage_prompt=prompts[0],
        query_prompt=prompts[1],
        design=design,
        reason=reason,
    )


def _architecture(config: Mapping[str, Any]) -> tuple[str, Design | None, str]:
    """Family and design, or "" and the reason why there is no graph of ours."""
    kind = str(config.get("model_type", ""))
    embedding = str(config.get("position_embedding_type") or "absolute")
    family = FAMILIES.get(kind, "")
    if not family:
        return "", None, f"its type {kind!r:.50} has no graph of ours"
    if kind == "bert" and embedding == "alibi":
        family = "jina_bert"
    try:
        if family in DESIGNS:
            return family, DESIGNS[family](config), ""
        if embedding != "absolute":
            raise Unsupported(f"position_embedding_type {embedding!r:.50}")
        if config.get("is_decoder"):
            raise Unsupported("is_decoder")
    except Unsupported as error:
        return "", None, f"its type {kind!r:.50} is known, but not with {error}"
    return family, None, ""


def _epsilon(config: Mapping[str, Any], family: str) -> float:
    names = ("layer_norm_eps", "norm_eps", "rms_norm_eps", "layer_norm_epsilon")
    usual = {"modernbert": 1e-5, "eurobert": 1e-5, "qwen3": 1e-6, "gemma3_text": 1e-6}
    if family == "distilbert":
        return 1e-12
    return float(next((config[name] for name in names if name in config), usual.get(family, 1e-12)))


def _activation(config: Mapping[str, Any]) -> str:
    # Qwen3 and EuroBERT name it as BERT does, NomicBERT with the gate.
    names = ("hidden_act", "activation", "hidden_activation", "activation_function")
    usual = {"qwen3": "silu", "eurobert": "silu", "nomic_bert": "silu", "gemma3_text": "gelu_pytorch_tanh"}
    named = next((config[name] for name in names if config.get(name)), None)
    if config.get("feed_forward_type") in ("geglu", "reglu"):
        named = config["feed_forward_type"]
    glu = {"swiglu": "silu", "geglu": "gelu", "reglu": "relu"}
    activation = str(named or usual.get(str(config.get("model_type")), "gelu"))
    return glu.get(activation, activation)


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
    module_weights(folder, path)
    return Projection(path, ACTIVATIONS[activation], int(config["out_features"]))


def transformer_settings(folder: Path) -> Mapping[str, Any]:
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


def _prompt_settings(folder: Path) -> Mapping[str, Any]:
    path = folder / "config_sentence_transformers.json"
    return dict(read(path)) if path.is_file() else {}


def prompt_texts(folder: Path) -> Mapping[str, str]:
    """The prompts of a checkpoint, by name."""
    return dict(_prompt_settings(folder).get("prompts") or {})


def _prompts(folder: Path) -> tuple[str, str]:
    """The prompts of passages and of queries: by their usual names, else the default one."""
    config, prompts = _prompt_settings(folder), prompt_texts(folder)
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
