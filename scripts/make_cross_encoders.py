"""Makes small random cross-encoders of every family: `make_cross_encoders.py FOLDER`.

The encoders are those of make_checkpoints.py and make_encoders.py, with heads, and with tokenizers that write pairs.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import make_checkpoints
import make_encoders
import numpy as np
from make_checkpoints import HIDDEN, _Random
from safetensors.numpy import load_file, save_file
from tokenizers import AddedToken, Tokenizer, processors

PAIRS = {
    "[CLS]": "[CLS] $A [SEP] $B:1 [SEP]:1",
    "<s>": "<s> $A </s> </s> $B </s>",
}
"""How a pair is written, by the first special token."""
ONCE = "<s> $A </s> $B </s>"
IDENTITY, SIGMOID = "torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Sigmoid"
CHAT = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct"
    " provided."
    ' Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n<Instruct>: '
    "{{ messages | selectattr('role', 'eq', 'system') | map(attribute='content') | first | default('Given a web search"
    " query, retrieve relevant passages that answer the query') }}\n<Query>: {{ messages | selectattr('role', 'eq',"
    " 'query') | map(attribute='content') | first }}\n<Document>: {{ messages | selectattr('role', 'eq', 'document') |"
    " map(attribute='content') | first }}<|im_end|>\n<|im_start|>assistant\n{{ '<think>\\n\\n</think>\\n\\n' }}"
)
"""The template of Qwen3-Reranker. Jinja drops a newline at its end, but not of a string."""


@dataclass(frozen=True)
class Recipe:
    encoder: str
    """Of make_checkpoints or make_encoders."""
    architecture: str
    layers: tuple[str, ...] = ("pooler.dense", "classifier")
    """Linear layers of the head, the last one with one row."""
    prefix: str = ""
    """Before the names of the encoder's weights."""
    norm: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] | None = None
    """config_sentence_transformers.json, if there is one."""
    pair: str = ""


ROBERTA = ("classifier.dense", "classifier.out_proj")
RECIPES = {
    # As ms-marco-MiniLM says it, and as older ones do.
    "bert": Recipe("weighted", "Bert", prefix="bert.", config={"sentence_transformers": {"activation_fn": IDENTITY}}),
    "roberta": Recipe("roberta", "Roberta", ROBERTA, config={"sbert_ce_default_activation_function": IDENTITY}),
    "xlm-roberta": Recipe("xlm-roberta", "XLMRoberta", ROBERTA, prefix="roberta."),
    "xlm-roberta-long": Recipe("xlm-roberta-long", "XLMRoberta", ROBERTA, prefix="roberta."),
    "mpnet": Recipe("mpnet", "MPNet", ROBERTA, prefix="mpnet."),
    "distilbert": Recipe("distilbert", "DistilBert", ("pre_classifier", "classifier"), prefix="distilbert."),
    "modernbert": Recipe(
        "modernbert", "ModernBert", ("head.dense", "classifier"), "model.", "head.norm", pair=ONCE,
        settings={"model_type": "CrossEncoder", "activation_fn": SIGMOID},
    ),
    "modernbert-mean": Recipe(
        "modernbert", "ModernBert", ("head.dense", "classifier"), "model.", "head.norm", pair=ONCE,
        config={"classifier_pooling": "mean", "sentence_transformers": {"activation_fn": IDENTITY}},
    ),
    "gte": Recipe("gte", "Gte", prefix="gte."),
    "nomic_bert": Recipe("nomic_bert", "NomicBert", prefix="nomic_bert."),
    "eurobert": Recipe(
        "eurobert", "EuroBert", ("dense", "classifier"), "model.", pair=ONCE, config={"classifier_pooling": "mean"}
    ),
    "qwen3": Recipe("qwen3", "Qwen3", ()),
}  # fmt: skip


def make(name: str, folder: Path) -> Path:
    """The checkpoint of that name in a folder of its own."""
    recipe, target = RECIPES[name], folder / name
    maker = make_encoders if recipe.encoder in make_encoders.RECIPES else make_checkpoints
    scratch = maker.make(recipe.encoder, folder / f".{name}")
    for extra in ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"):
        (scratch / extra).unlink()
    for extra in [*scratch.glob("*_Pooling"), *scratch.glob("*_Dense")]:
        shutil.rmtree(extra)
    scratch.rename(target)
    (folder / f".{name}").rmdir()
    config = json.loads((target / "config.json").read_text("utf-8"))
    (_answering if name == "qwen3" else _classifying)(recipe, target, config)
    if recipe.settings is not None:
        (target / "config_sentence_transformers.json").write_text(json.dumps(recipe.settings), "utf-8")
    return target


def _classifying(recipe: Recipe, target: Path, config: dict[str, Any]) -> None:
    # transformers has a prefix of its own for GTE, where the authors' code has `new.`.
    own = {
        name.replace("new.", recipe.prefix): value for name, value in load_file(target / "model.safetensors").items()
    }
    tensors = {
        recipe.prefix + name.removeprefix(recipe.prefix): value.astype(np.float32) for name, value in own.items()
    }
    random = _Random(f"cross {recipe.encoder}")
    at = recipe.prefix if recipe.layers[0] == "pooler.dense" else ""
    for i, name in enumerate(recipe.layers):
        name = at + name if i == 0 else name
        tensors[f"{name}.weight"] = random(name, HIDDEN if i == 0 else 1, HIDDEN, scale=0.3)
        if name != "head.dense":  # ModernBERT's has none
            tensors[f"{name}.bias"] = random(f"{name}.b", HIDDEN if i == 0 else 1)
    if recipe.norm:
        tensors[f"{recipe.norm}.weight"] = random("norm", HIDDEN, around=1)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    labels = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    own = {"architectures": [f"{recipe.architecture}ForSequenceClassification"]}
    _write(target / "config.json", config | labels | own | recipe.config)
    tokenizer = Tokenizer.from_file(str(target / "tokenizer.json"))
    first = "[CLS]" if tokenizer.token_to_id("[CLS]") is not None else "<s>"
    last = "[SEP]" if first == "[CLS]" else "</s>"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=recipe.pair or PAIRS[first],
        special_tokens=[(each, tokenizer.token_to_id(each)) for each in (first, last)],
    )
    tokenizer.save(str(target / "tokenizer.json"))
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if first == "[CLS]" else [])]
    if recipe.encoder == "distilbert":
        names.pop()
    settings = json.loads((target / "tokenizer_config.json").read_text("utf-8"))
    _write(target / "tokenizer_config.json", settings | {"model_input_names": names})


def _answering(recipe: Recipe, target: Path, config: dict[str, Any]) -> None:
    """Qwen3-Reranker: answers are words of its vocabulary."""
    settings = json.loads((target / "tokenizer.json").read_text("utf-8"))
    for word in ("yes", "no"):
        settings["model"]["vocab"][word] = len(settings["model"]["vocab"])
    settings["post_processor"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    tokenizer = Tokenizer.from_str(json.dumps(settings))
    marks = ("<|im_start|>", "<|im_end|>", "<think>", "</think>")
    tokenizer.add_tokens([AddedToken(mark, special=True, normalized=False) for mark in marks])
    tokenizer.save(str(target / "tokenizer.json"))
    count = tokenizer.get_vocab_size()
    tensors = make_encoders.weights(make_encoders.RECIPES["qwen3"], count)
    tensors["lm_head.weight"] = _Random("cross qwen3")("lm_head", count, HIDDEN)
    make_encoders.save(tensors, target / "model.safetensors")
    own = {"architectures": ["Qwen3ForCausalLM"], "tie_word_embeddings": False, "vocab_size": count}
    _write(target / "config.json", config | own)
    (target / "chat_template.jinja").write_text(CHAT, "utf-8")


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1), "utf-8")


if __name__ == "__main__":
    making: Callable[[str, Path], Path] = make
    for each in RECIPES:
        print(making(each, Path(sys.argv[1])))
