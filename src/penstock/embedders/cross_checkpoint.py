"""The configuration of a cross-encoder: its head, its activation, how a pair is written. Reads no weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from penstock.core.errors import ModelError
from penstock.embedders import kinds
from penstock.embedders.checkpoint import ACTIVATIONS, SENSELESS, Checkpoint, inside, load_encoder, prompt_texts
from penstock.embedders.variants import with_options

VERSION = 1
"""Part of the name of a cached graph: raise it when scores change."""
WRITER = "ForCausalLM"
"""How architectures of models end that answer with a word."""
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
BEFORE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct"
    " provided."
    ' Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
AFTER = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
"""Of Qwen3-Reranker, around question and passage."""


class Answers(NamedTuple):
    """Tokens whose logits, the first less the second, are the score of a model that answers with a word."""

    yes: int | str
    no: int | str | None


@dataclass(frozen=True, slots=True)
class CrossCheckpoint:
    transformer: Checkpoint
    activation: str
    """ONNX operator that makes a score of the logit; nothing: the logit is the score."""
    pooling: str
    inner: str
    """Activation within the head, where the configuration names it."""
    typed: bool
    """Tokens of question and passage are of different types, if the tokenizer says so."""
    answers: Answers | None
    instruction: str
    """What is put before a question; of a model that answers with a word, its task."""
    name: str

    dim = 1

    @property
    def folder(self) -> Path:
        return self.transformer.folder

    @property
    def files(self) -> tuple[Path, ...]:
        return self.transformer.files

    @property
    def traits(self) -> dict[str, Any]:
        own = {key: value for key, value in asdict(self).items() if key not in ("transformer", "name", "instruction")}
        return {**self.transformer.traits, **own, "cross-encoder": VERSION}


def load(folder: Path, name: str, options: Mapping[str, Any]) -> CrossCheckpoint:
    """The cross-encoder in a folder; of `options`, `query` is put before a question. Raises ModelError."""
    try:
        return _load(folder, name, options)
    except SENSELESS as error:
        raise ModelError(f"{folder} has a configuration that makes no sense: {error!r:.300}") from error


def _load(folder: Path, name: str, options: Mapping[str, Any]) -> CrossCheckpoint:
    config, settings = (kinds.optional(folder / each) for each in ("config.json", _SETTINGS))
    modules = kinds.modules(folder)
    for kind, path in modules[:1]:
        if kind != "Transformer" or path:
            raise ModelError(f"{folder} keeps its transformer in {path or kind:.200}; Penstock reads it at the top")
    score = next((inside(folder, path) for kind, path in modules[1:] if kind == "LogitScore"), None)
    if unknown := [kind for kind, _ in modules[1:] if kind != "LogitScore"]:
        raise ModelError(f"{folder} is no reranker that Penstock runs: it has a module {unknown[0]:.200}")
    architecture = str((config.get("architectures") or [""])[0])
    answers = _answers(folder, config, score) if architecture.endswith(WRITER) else None
    if answers is None:
        _check_labels(folder, config, architecture)
    prompts, usual = prompt_texts(folder), str(settings.get("default_prompt_name") or "")
    if answers is None and prompts.get(usual):
        raise ModelError(f"{folder} has a default prompt, {usual!r:.50}, which Penstock does not put before pairs")
    instruction = options.get("query") or prompts.get(usual) or (INSTRUCTION if answers else "")
    encoder = load_encoder(folder, name)
    own = {key: value for key, value in options.items() if key in ("length", "file")}
    return CrossCheckpoint(
        transformer=replace(with_options(encoder, own), passage_prompt="", query_prompt=""),
        activation=_activation(folder, config, settings),
        pooling=_pooling(folder, config) if answers is None else "lasttoken",
        inner=str(config.get("classifier_activation") or "gelu"),
        typed=int(config.get("type_vocab_size") or 0) > 1 and _gives_types(folder),
        answers=answers,
        instruction=instruction,
        name=name,
    )


_SETTINGS = "config_sentence_transformers.json"


def _answers(folder: Path, config: Mapping[str, Any], score: Path | None) -> Answers:
    if config.get("model_type") != "qwen3":
        raise ModelError(
            f"{folder} answers with a word, and is a {config.get('model_type')!s:.50}: of such rerankers Penstock runs"
            " Qwen3-Reranker; expected it, or a cross-encoder (ForSequenceClassification)"
        )
    if score is None:
        return Answers("yes", "no")
    tokens = kinds.optional(score / "config.json")
    no = tokens.get("false_token_id")
    return Answers(int(tokens["true_token_id"]), None if no is None else int(no))


def _check_labels(folder: Path, config: Mapping[str, Any], architecture: str) -> None:
    if not architecture.endswith(kinds.CLASSIFIER):
        raise ModelError(
            f"{folder} is no reranker: its architecture is {architecture or 'unknown':.100}; expected a cross-encoder"
            f" (one that ends with {kinds.CLASSIFIER}), or Qwen3-Reranker"
        )
    if config.get("model_type") == "qwen3":
        raise ModelError(
            f"{folder} is a Qwen3 with a classifier, whose text around a pair is not known: use the reranker that it"
            " was made of (Qwen3ForCausalLM)"
        )
    labels = config.get("id2label")
    count = len(labels) if labels is not None else int(config.get("num_labels") or 2)
    if count != 1:
        raise ModelError(f"{folder} tells {count} labels apart: expected a reranker, which has one")


def _pooling(folder: Path, config: Mapping[str, Any]) -> str:
    named = str(config.get("classifier_pooling") or "cls")
    pooling = {"bos": "cls"}.get(named, named)
    if pooling not in ("cls", "mean"):
        raise ModelError(f"{folder} classifies by {named!r:.50}, which Penstock does not know: expected cls or mean")
    return pooling


def _activation(folder: Path, config: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    named = (
        settings.get("activation_fn")
        or (config.get("sentence_transformers") or {}).get("activation_fn")
        or config.get("sbert_ce_default_activation_function")
        or "Sigmoid"
    )
    last = kinds.class_name(named)
    if last not in ACTIVATIONS:
        raise ModelError(f"{folder} has an activation that Penstock does not know: {named!s:.100}")
    return ACTIVATIONS[last]


def _gives_types(folder: Path) -> bool:
    names = kinds.optional(folder / "tokenizer_config.json").get("model_input_names")
    return names is None or "token_type_ids" in names
