"""Makes small random checkpoints of every family, tokenizers included: `make_checkpoints.py FOLDER`.

Deterministic, and without PyTorch: numpy's RandomState is frozen for good, and vocabularies are written, not trained.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

HIDDEN, HEADS, LAYERS, INNER, POSITIONS = 64, 4, 2, 128, 512
_SEQUENCE = "the a of to and in is that it for on with as be this resume run index file table key ing ed er tion re un"
WORDS = _SEQUENCE.split()
LETTERS = [chr(c) for c in range(33, 127)] + list("äöüßéèñçøåéñ中文日本語")


@dataclass(frozen=True)
class Recipe:
    """How a checkpoint differs from the others."""

    kind: str
    tokenizer: Callable[[], Tokenizer]
    pooling: dict[str, Any]
    modules: tuple[str, ...] = ()
    prompts: dict[str, str] = field(default_factory=dict)
    prefix: str = ""
    activation: str = "gelu"


def _template(tokenizer: Tokenizer, first: str, last: str) -> Tokenizer:
    ids = [(first, tokenizer.token_to_id(first)), (last, tokenizer.token_to_id(last))]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{first} $A {last}", special_tokens=ids)
    return tokenizer


def wordpiece(first: str = "[CLS]", last: str = "[SEP]", specials: tuple[str, ...] = ()) -> Tokenizer:
    small = sorted(set("".join(LETTERS).lower()))
    names = [*(specials or ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")), *WORDS, *small]
    names += ["##" + piece for piece in [*WORDS, *small]]
    vocab = {name: i for i, name in enumerate(dict.fromkeys(names))}
    unknown = "[UNK]" if "[UNK]" in vocab else "<unk>"
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token=unknown, max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens([name for name in names[:5] if name[0] in "[<"])
    return _template(tokenizer, first, last)


def mpnet_wordpiece() -> Tokenizer:
    return wordpiece("<s>", "</s>", ("<s>", "<pad>", "</s>", "<unk>", "<mask>"))


def bytes_bpe() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("i", "n"), ("in", "g"), ("e", "r"), ("Ġ", "a"), ("o", "n")]
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *alphabet, *("".join(pair) for pair in merges)]
    tokenizer = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    return _template(tokenizer, "<s>", "</s>")


def unigram() -> Tokenizer:
    pieces = dict.fromkeys(["▁", *("▁" + word for word in WORDS), *WORDS, *LETTERS])
    vocab = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocab += [(piece, -2.0 - 3.0 / len(piece) - i / 1000) for i, piece in enumerate(pieces)]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=3, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(" {2,}", " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    return _template(tokenizer, "<s>", "</s>")


MEAN = {"pooling_mode_mean_tokens": True}
RECIPES = {
    "bert": Recipe("bert", wordpiece, {"pooling_mode_cls_token": True}, ("Dense", "Normalize")),
    "roberta": Recipe("roberta", bytes_bpe, MEAN, ("Normalize",), prefix="roberta."),
    "xlm-roberta": Recipe(
        "xlm-roberta", unigram, {"pooling_mode": "mean"}, (), {"query": "query: ", "document": "passage: "}
    ),
    "mpnet": Recipe("mpnet", mpnet_wordpiece, MEAN, ("Normalize",)),
    "distilbert": Recipe("distilbert", wordpiece, {"pooling_mode_max_tokens": True}),
    "last": Recipe(
        "bert",
        wordpiece,
        {"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": True},
        prompts={"query": "the key: ", "document": "in the file: "},
        activation="gelu_new",
    ),
    "weighted": Recipe(
        "bert", wordpiece, {"pooling_mode_weightedmean_tokens": True, "pooling_mode_mean_sqrt_len_tokens": True}
    ),
}


class _Random:
    """Weights by name: the same for a name, whatever precedes it."""

    def __init__(self, seed: str) -> None:
        self.seed = seed

    def __call__(self, name: str, *shape: int, scale: float = 0.15, around: float = 0.0) -> np.ndarray:
        state = np.random.RandomState(crc32(f"{self.seed}/{name}".encode()))
        return (state.standard_normal(shape) * scale + around).astype(np.float32)


def weights(recipe: Recipe, vocabulary: int, table: int) -> dict[str, np.ndarray]:
    random = _Random(recipe.kind)
    tensors: dict[str, np.ndarray] = {}

    def linear(name: str, out: int, into: int) -> None:
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = random(name, out, into), random(name + ".b", out)

    def norm(name: str) -> None:
        tensors[f"{name}.weight"] = random(name, HIDDEN, around=1.0)
        tensors[f"{name}.bias"] = random(name + ".b", HIDDEN)

    for name, rows in {"word": vocabulary, "position": table, "token_type": 2}.items():
        if name == "token_type" and recipe.kind in ("distilbert", "mpnet"):
            continue
        rows = 1 if name == "token_type" and "roberta" in recipe.kind else rows
        tensors[f"embeddings.{name}_embeddings.weight"] = random(name, rows, HIDDEN, scale=1.0)
    norm("embeddings.LayerNorm")
    attention, out = "attention.self.query attention.self.key attention.self.value", "attention.output.dense"
    norms, up, down = ("attention.output.LayerNorm", "output.LayerNorm"), "intermediate.dense", "output.dense"
    at = "encoder.layer"
    if recipe.kind == "mpnet":
        attention, out = "attention.attn.q attention.attn.k attention.attn.v", "attention.attn.o"
        norms = ("attention.LayerNorm", "output.LayerNorm")
        tensors["encoder.relative_attention_bias.weight"] = random("relative", 32, HEADS, scale=1.0)
    elif recipe.kind == "distilbert":
        attention, out = "attention.q_lin attention.k_lin attention.v_lin", "attention.out_lin"
        norms, up, down, at = ("sa_layer_norm", "output_layer_norm"), "ffn.lin1", "ffn.lin2", "transformer.layer"
    for layer in range(LAYERS):
        for name in [*attention.split(), out]:
            linear(f"{at}.{layer}.{name}", HIDDEN, HIDDEN)
        linear(f"{at}.{layer}.{up}", INNER, HIDDEN)
        linear(f"{at}.{layer}.{down}", HIDDEN, INNER)
        for name in norms:
            norm(f"{at}.{layer}.{name}")
    return {recipe.prefix + name: np.ascontiguousarray(value) for name, value in tensors.items()}


def configuration(recipe: Recipe, vocabulary: int, table: int, pad: int) -> dict[str, Any]:
    config: dict[str, Any] = {"model_type": recipe.kind, "vocab_size": vocabulary, "pad_token_id": pad}
    config |= {"max_position_embeddings": table}
    if recipe.kind == "distilbert":
        return config | {
            "dim": HIDDEN,
            "n_heads": HEADS,
            "n_layers": LAYERS,
            "hidden_dim": INNER,
            "activation": recipe.activation,
            "architectures": ["DistilBertModel"],
        }
    names = {"bert": "BertModel", "roberta": "RobertaModel", "xlm-roberta": "XLMRobertaModel", "mpnet": "MPNetModel"}
    return config | {
        "architectures": [names[recipe.kind]],
        "hidden_size": HIDDEN,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "intermediate_size": INNER,
        "hidden_act": recipe.activation,
        "layer_norm_eps": 1e-5,
        "type_vocab_size": 1 if "roberta" in recipe.kind else 2,
        "relative_attention_num_buckets": 32,
    }


def make(name: str, folder: Path) -> Path:
    """The checkpoint of that name in a folder of its own."""
    recipe = RECIPES[name]
    folder = folder / name
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = recipe.tokenizer()
    bertish = tokenizer.token_to_id("[PAD]") is not None
    pad = tokenizer.token_to_id("[PAD]" if bertish else "<pad>")
    table = POSITIONS + (0 if bertish else pad + 1)
    vocabulary = tokenizer.get_vocab_size()
    specials = ("[PAD]", "[UNK]", "[CLS]", "[SEP]") if bertish else ("<pad>", "<unk>", "<s>", "</s>")
    tokens = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), specials, strict=True))

    def write(path: str, value: object) -> None:
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(json.dumps(value, indent=1), "utf-8")

    tokenizer.save(str(folder / "tokenizer.json"))
    write(
        "tokenizer_config.json",
        tokens
        | {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": POSITIONS,
            "model_input_names": ["input_ids", "attention_mask"],
        },
    )
    write("config.json", configuration(recipe, vocabulary, table, pad))
    write("sentence_bert_config.json", {"max_seq_length": POSITIONS, "do_lower_case": False})
    write("config_sentence_transformers.json", {"prompts": recipe.prompts, "default_prompt_name": None})
    write("1_Pooling/config.json", {"word_embedding_dimension": HIDDEN} | recipe.pooling)
    modules = ["models.Transformer", "models.Pooling", *(f"models.{module}" for module in recipe.modules)]
    write(
        "modules.json",
        [
            {
                "idx": i,
                "name": str(i),
                "path": "" if i == 0 else f"{i}_{module.rpartition('.')[2]}",
                "type": f"sentence_transformers.{module}",
            }
            for i, module in enumerate(modules)
        ],
    )
    if "Dense" in recipe.modules:
        out = 48
        tanh = "torch.nn.modules.activation.Tanh"
        write(
            "2_Dense/config.json",
            {"in_features": HIDDEN, "out_features": out, "bias": True, "activation_function": tanh},
        )
        random = _Random("dense")
        dense = {"linear.weight": random("w", out, HIDDEN), "linear.bias": random("b", out)}
        save_file(dense, folder / "2_Dense" / "model.safetensors")
    save_file(weights(recipe, vocabulary, table), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


if __name__ == "__main__":
    for each in RECIPES:
        print(make(each, Path(sys.argv[1])))
