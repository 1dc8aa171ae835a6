"""Makes small random checkpoints of late interaction, SPLADE and static models: `make_token_checkpoints.py FOLDER`.

In the layouts of PyLate, Stanford's ColBERT, sentence-transformers 6 and Model2Vec; without PyTorch, deterministic.
"""

from __future__ import annotations

import json
import string
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import make_checkpoints as base
import numpy as np
from make_checkpoints import HIDDEN, RECIPES
from safetensors.numpy import load_file, save_file
from tokenizers import AddedToken, Tokenizer

DIM = 32
_TRANSFORMER = "sentence_transformers.base.modules.transformer.Transformer"
_DENSE = "sentence_transformers.base.modules.dense.Dense"
_MASK = "sentence_transformers.multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask"
_NORMALIZE = "sentence_transformers.base.modules.normalize.Normalize"
_POOLING = "sentence_transformers.multi_vector_encoder.modules.token_pooling.HierarchicalTokenPooling"
_SPLADE = "sentence_transformers.sparse_encoder.modules.splade_pooling.SpladePooling"
_STATIC_QUERY = "sentence_transformers.sparse_encoder.modules.sparse_static_embedding.SparseStaticEmbedding"
_TOKENS = {"module_input_name": "token_embeddings", "module_output_name": "token_embeddings"}
_IDENTITY = "torch.nn.modules.linear.Identity"


def _write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1), "utf-8")


def _modules(folder: Path, *modules: tuple[str, str]) -> None:
    rows = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(modules)]
    _write(folder / "modules.json", rows)


def _transformer(recipe: str, folder: Path, words: Sequence[str] = (), added: Sequence[str] = ()) -> Path:
    """A transformer of that recipe and nothing else, with more words in its vocabulary, and added tokens."""
    at = base.make(recipe, folder)
    for name in ("modules.json", "config_sentence_transformers.json", "1_Pooling/config.json"):
        (at / name).unlink()
    (at / "1_Pooling").rmdir()
    settings = json.loads((at / "tokenizer.json").read_text("utf-8"))
    for word in words:
        settings["model"]["vocab"][word] = len(settings["model"]["vocab"])
    tokenizer = Tokenizer.from_str(json.dumps(settings))
    tokenizer.add_tokens([AddedToken(token, normalized=True) for token in added])
    tokenizer.save(str(at / "tokenizer.json"))
    config = json.loads((at / "config.json").read_text("utf-8"))
    config["vocab_size"] = tokenizer.get_vocab_size()
    _write(at / "config.json", config)
    tensors = base.weights(RECIPES[recipe], config["vocab_size"], config["max_position_embeddings"])
    save_file(tensors, at / "model.safetensors", metadata={"format": "pt"})
    mask = "[MASK]" if tokenizer.token_to_id("[MASK]") is not None else "<mask>"
    own = json.loads((at / "tokenizer_config.json").read_text("utf-8"))
    _write(at / "tokenizer_config.json", own | {"mask_token": mask})
    return at


def _projected(folder: Path, number: int, into: int, out: int, **more: Any) -> tuple[str, str]:
    at = folder / f"{number}_Dense"
    sizes = {"in_features": into, "out_features": out, "bias": False, "activation_function": _IDENTITY}
    _write(at / "config.json", sizes | more)
    random = base._Random(f"projection {number}")
    tensors = {"linear.weight": random("w", out, into)}
    if more.get("use_residual"):
        tensors["residual.weight"] = random("r", out, into)
    save_file(tensors, at / "model.safetensors")
    return at.name, _DENSE


def late(folder: Path) -> None:
    """sentence-transformers: markers are text, the expansion is attended to."""
    expansion = {"strategy": "fixed", "attend": True, "token": "[MASK]", "length": 32}
    at = _transformer("weighted", folder)
    _write(at / "sentence_bert_config.json", {"document_length": 256, "query_expansion": expansion})
    prompts = {"query": "[Q] ", "document": "[D] "}
    _write(at / "config_sentence_transformers.json", {"model_type": "MultiVectorEncoder", "prompts": prompts})
    _write(at / "2_MultiVectorMask" / "config.json", {"skiplist_words": [".", ",", "nowhere"]})
    _write(at / "3_Normalize" / "config.json", _TOKENS)
    dense = _projected(at, 1, HIDDEN, DIM, **_TOKENS)
    _modules(at, ("", _TRANSFORMER), dense, ("2_MultiVectorMask", _MASK), ("3_Normalize", _NORMALIZE))


def pooled(folder: Path) -> None:
    """sentence-transformers: two projections, one of them with a residual; no expansion; pooled by three."""
    at = _transformer("roberta", folder)
    _write(at / "config_sentence_transformers.json", {"model_type": "MultiVectorEncoder", "prompts": {}})
    _write(at / "3_MultiVectorMask" / "config.json", {"skiplist_words": ["."], "skiplist_tasks": ["query", "document"]})
    _write(at / "4_Normalize" / "config.json", _TOKENS)
    _write(at / "5_Pooling" / "config.json", {"pool_factor": 3, "normalize_embeddings": True, "tasks": ["document"]})
    first = _projected(at, 1, HIDDEN, 48, use_residual=True, **_TOKENS)
    second = _projected(at, 2, 48, DIM, **_TOKENS)
    last = (("3_MultiVectorMask", _MASK), ("4_Normalize", _NORMALIZE), ("5_Pooling", _POOLING))
    _modules(at, ("", _TRANSFORMER), first, second, *last)


def pylate(folder: Path) -> None:
    """PyLate 1: markers are tokens of their own, the expansion is not attended to, punctuation is skipped."""
    at = _transformer("bert", folder, added=("[Q] ", "[D] "))
    lengths = {"query_length": 32, "document_length": 256}
    settings = {"model_type": "ColBERT", "query_prefix": "[Q] ", "document_prefix": "[D] ", **lengths}
    settings |= {"attend_to_expansion_tokens": False, "skiplist_words": list(string.punctuation)}
    _write(at / "config_sentence_transformers.json", settings)
    _write(at / "sentence_bert_config.json", {"max_seq_length": 255, "do_lower_case": False})
    name, _ = _projected(at, 1, HIDDEN, DIM)
    _modules(at, ("", "sentence_transformers.models.Transformer"), (name, "pylate.models.Dense.Dense"))


def stanford(folder: Path) -> None:
    """Stanford's ColBERT: markers are unused words, the projection is beside the transformer's weights."""
    at = _transformer("last", folder, words=("[unused0]", "[unused1]"))
    (at / "sentence_bert_config.json").unlink()
    config = json.loads((at / "config.json").read_text("utf-8"))
    _write(at / "config.json", config | {"architectures": ["HF_ColBERT"]})
    _write(at / "artifact.metadata", {"query_maxlen": 24, "doc_maxlen": 256, "attend_to_mask_tokens": False})
    tensors = {f"bert.{name}": value for name, value in load_file(at / "model.safetensors").items()}
    tensors["linear.weight"] = base._Random("stanford")("linear", DIM, HIDDEN)
    save_file(tensors, at / "model.safetensors", metadata={"format": "pt"})


def _language_model(recipe: str, folder: Path, head: str, norm: str, bias: str, architecture: str) -> Path:
    at = _transformer(recipe, folder)
    config = json.loads((at / "config.json").read_text("utf-8"))
    _write(at / "config.json", config | {"architectures": [architecture]})
    random, prefix = base._Random(f"{recipe} words"), config["model_type"].removeprefix("xlm-")
    tensors = load_file(at / "model.safetensors")
    tensors = {f"{prefix}.{name.removeprefix(prefix + '.')}": value for name, value in tensors.items()}
    tensors |= {f"{head}.weight": random("head", HIDDEN, HIDDEN), f"{head}.bias": random("head.b", HIDDEN)}
    tensors |= {f"{norm}.weight": random("norm", HIDDEN, around=1), f"{norm}.bias": random("norm.b", HIDDEN)}
    tensors[bias] = random("bias", config["vocab_size"], scale=3, around=-8)
    save_file(tensors, at / "model.safetensors", metadata={"format": "pt"})
    return at


def splade(folder: Path) -> None:
    at = _language_model(
        "weighted",
        folder,
        "cls.predictions.transform.dense",
        "cls.predictions.transform.LayerNorm",
        "cls.predictions.bias",
        "BertForMaskedLM",
    )
    settings = {"transformer_task": "fill-mask", "module_output_name": "token_embeddings"}
    settings["modality_config"] = {"text": {"method": "forward", "method_output_name": "logits"}}
    _write(at / "sentence_bert_config.json", settings)
    _write(at / "config_sentence_transformers.json", {"model_type": "SparseEncoder", "prompts": {}})
    _write(at / "1_SpladePooling" / "config.json", {"pooling_strategy": "max", "activation_function": "relu"})
    _modules(at, ("", _TRANSFORMER), ("1_SpladePooling", _SPLADE))


def summed(folder: Path) -> None:
    """The layout of sentence-transformers 5, of DistilBERT, adding up what all tokens say."""
    model = ("vocab_transform", "vocab_layer_norm", "vocab_projector.bias", "DistilBertForMaskedLM")
    at = _language_model("distilbert", folder, *model)
    _write(at / "config_sentence_transformers.json", {"model_type": "SparseEncoder", "prompts": {}})
    _write(at / "1_SpladePooling" / "config.json", {"pooling_strategy": "sum", "activation_function": "relu"})
    legacy = "sentence_transformers.sparse_encoder.models"
    _modules(at, ("", f"{legacy}.MLMTransformer"), ("1_SpladePooling", f"{legacy}.SpladePooling"))


def free(folder: Path) -> None:
    """Inference-free: questions are the weights of their tokens."""
    model = ("lm_head.dense", "lm_head.layer_norm", "lm_head.bias", "RobertaForMaskedLM")
    at = _language_model("roberta", folder, *model)
    document, query = at / "document_0_Transformer", at / "query_0_SparseStaticEmbedding"
    document.mkdir()
    query.mkdir()
    vocabulary = json.loads((at / "config.json").read_text("utf-8"))["vocab_size"]
    for path in [path for path in at.iterdir() if path.is_file()]:
        if path.name.startswith("tokenizer"):
            (query / path.name).write_bytes(path.read_bytes())
        path.rename(document / path.name)
    settings = {"transformer_task": "fill-mask", "module_output_name": "token_embeddings"}
    settings["modality_config"] = {"text": {"method": "forward", "method_output_name": "logits"}}
    _write(document / "sentence_bert_config.json", settings)
    weight = np.maximum(base._Random("free")("weight", vocabulary, scale=2, around=1), 0)
    save_file({"weight": weight}, query / "model.safetensors")
    _write(query / "config.json", {"frozen": True})
    pooling = at / "document_1_SpladePooling" / "config.json"
    _write(pooling, {"pooling_strategy": "max", "activation_function": "log1p_relu"})
    types = {query.name: _STATIC_QUERY, document.name: _TRANSFORMER, "document_1_SpladePooling": _SPLADE}
    structure = {"query": [query.name], "document": [document.name, "document_1_SpladePooling"]}
    _write(
        at / "router_config.json",
        {"types": types, "structure": structure, "parameters": {"default_route": "document"}},
    )
    _write(at / "config_sentence_transformers.json", {"model_type": "SparseEncoder", "prompts": {}})
    _modules(at, ("", "sentence_transformers.base.modules.router.Router"))


def static(folder: Path) -> None:
    """Model2Vec: a table of bytes with fewer rows than tokens, and weights."""
    tokenizer, state = base.unigram(), np.random.RandomState(0)
    count = tokenizer.get_vocab_size()
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    tensors = {
        "embeddings": state.randint(-127, 128, (40, DIM)).astype(np.int8),
        "mapping": state.randint(0, 40, count).astype(np.int64),
        "weights": state.uniform(0.2, 2, count).astype(np.float32),
    }
    save_file(tensors, folder / "model.safetensors")
    _write(folder / "config.json", {"normalize": True, "embedding_dtype": "int8", "vocabulary_quantization": 40})


def bag(folder: Path) -> None:
    """StaticEmbedding of sentence-transformers, as it saves it."""
    at, tokenizer = folder / "0_StaticEmbedding", base.wordpiece()
    at.mkdir(parents=True)
    tokenizer.save(str(at / "tokenizer.json"))
    table = base._Random("bag")("table", tokenizer.get_vocab_size(), DIM, scale=1)
    save_file({"embedding.weight": table}, at / "model.safetensors")
    _write(folder / "config_sentence_transformers.json", {"model_type": "SentenceTransformer"})
    _modules(folder, ("0_StaticEmbedding", "sentence_transformers.models.StaticEmbedding"))


LATE: dict[str, Callable[[Path], None]] = {"late": late, "pooled": pooled, "pylate": pylate, "stanford": stanford}
SPARSE: dict[str, Callable[[Path], None]] = {"splade": splade, "summed": summed, "free": free}
STATIC: dict[str, Callable[[Path], None]] = {"static": static, "bag": bag}


def make(name: str, folder: Path) -> Path:
    """The checkpoint of that name in a folder of its own."""
    target, scratch = folder / name, folder / f".{name}"
    {**LATE, **SPARSE, **STATIC}[name](scratch)
    # Those that begin with a transformer are one folder further down.
    inner = [path for path in scratch.iterdir() if path.is_dir() and path.name in RECIPES]
    (inner[0] if inner else scratch).rename(target)
    if inner:
        scratch.rmdir()
    return target


if __name__ == "__main__":
    for each in (*LATE, *SPARSE, *STATIC):
        print(make(each, Path(sys.argv[1])))
