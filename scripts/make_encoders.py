"""Makes small random checkpoints of the encoders newer than BERT: `make_encoders.py FOLDER`.

As make_checkpoints.py: deterministic, without PyTorch. Names of weights and settings are those of the checkpoints on
the model hub, not of the classes in transformers.
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
from make_checkpoints import _Random, bytes_bpe, unigram, wordpiece
from safetensors.numpy import save_file
from tokenizers import Tokenizer

HIDDEN, HEADS, INNER, POSITIONS = 64, 4, 96, 8192
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Recipe:
    """A family's configuration, and the shapes of its weights for a layer and around the layers."""

    tokenizer: Callable[[], Tokenizer]
    config: dict[str, Any]
    around: Shapes
    layer: Shapes
    at: str
    """The name of a layer."""
    pooling: str = "mean"
    layers: int = 3
    words: str = "embed_tokens"
    first: str = ""
    """A norm that the first layer lacks."""
    dense: tuple[int, ...] = ()
    """Widths of the Dense modules."""
    prompts: dict[str, str] = field(default_factory=dict)
    positions: int = POSITIONS
    around_norms: float = 1.0
    """About what the weights of norms lie."""
    prefix: str = ""
    half: str = ""
    """`bf16` or `fp16`: how the weights are kept."""


NORM = (HIDDEN,)
SIZES = {"hidden_size": HIDDEN, "num_attention_heads": HEADS, "intermediate_size": INNER}


def _llama(head: int, groups: int, *, heads: bool = False) -> Shapes:
    shapes: Shapes = {
        "input_layernorm.weight": NORM,
        "self_attn.q_proj.weight": (HEADS * head, HIDDEN),
        "self_attn.k_proj.weight": (groups * head, HIDDEN),
        "self_attn.v_proj.weight": (groups * head, HIDDEN),
        "self_attn.o_proj.weight": (HIDDEN, HEADS * head),
        "post_attention_layernorm.weight": NORM,
        "mlp.gate_proj.weight": (INNER, HIDDEN),
        "mlp.up_proj.weight": (INNER, HIDDEN),
        "mlp.down_proj.weight": (HIDDEN, INNER),
    }
    norms: Shapes = {"self_attn.q_norm.weight": (head,), "self_attn.k_norm.weight": (head,)}
    return shapes | (norms if heads else {})


def _biased(shapes: Shapes) -> Shapes:
    """The same with biases."""
    return shapes | {f"{name.removesuffix('.weight')}.bias": shape[:1] for name, shape in shapes.items()}


MODERNBERT = Recipe(
    bytes_bpe,
    SIZES
    | {
        "model_type": "modernbert",
        "hidden_activation": "gelu",
        "norm_eps": 1e-5,
        "global_attn_every_n_layers": 3,
        "local_attention": 128,
        "global_rope_theta": 160000.0,
        "local_rope_theta": 10000.0,
        "max_position_embeddings": POSITIONS,
        "architectures": ["ModernBertModel"],
    },
    {"embeddings.norm.weight": NORM, "final_norm.weight": NORM},
    {
        "attn_norm.weight": NORM,
        "attn.Wqkv.weight": (3 * HIDDEN, HIDDEN),
        "attn.Wo.weight": (HIDDEN, HIDDEN),
        "mlp_norm.weight": NORM,
        "mlp.Wi.weight": (2 * INNER, HIDDEN),
        "mlp.Wo.weight": (HIDDEN, INNER),
    },
    "layers.{}.",
    words="embeddings.tok_embeddings",
    first="attn_norm.weight",
    layers=4,
    pooling="cls",
)
NOMIC = Recipe(
    wordpiece,
    {
        "model_type": "nomic_bert",
        "n_embd": HIDDEN,
        "hidden_size": HIDDEN,
        "n_head": HEADS,
        "num_attention_heads": HEADS,
        "n_inner": INNER,
        "intermediate_size": INNER,
        "activation_function": "swiglu",
        "hidden_act": "silu",
        "layer_norm_epsilon": 1e-12,
        "rotary_emb_fraction": 1.0,
        "rotary_emb_base": 1000,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0},
        "max_position_embeddings": 2048,
        "type_vocab_size": 2,
        "architectures": ["NomicBertModel"],
    },
    {"embeddings.token_type_embeddings.weight": (2, HIDDEN)} | _biased({"emb_ln.weight": NORM}),
    _biased({"norm1.weight": NORM, "norm2.weight": NORM})
    | {
        "attn.Wqkv.weight": (3 * HIDDEN, HIDDEN),
        "attn.out_proj.weight": (HIDDEN, HIDDEN),
        "mlp.fc11.weight": (INNER, HIDDEN),
        "mlp.fc12.weight": (INNER, HIDDEN),
        "mlp.fc2.weight": (HIDDEN, INNER),
    },
    "encoder.layers.{}.",
    words="embeddings.word_embeddings",
    positions=2048,
    prompts={"query": "the query: ", "document": "the text: ", "clustering": "a cluster: "},
)
GTE = Recipe(
    unigram,
    SIZES
    | {
        "model_type": "gte",
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "position_embedding_type": "rope",
        "rope_theta": 20000.0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 20000.0},
        "max_position_embeddings": POSITIONS,
        "type_vocab_size": 1,
        "architectures": ["GteModel"],
    },
    {"embeddings.token_type_embeddings.weight": (1, HIDDEN)} | _biased({"embeddings.LayerNorm.weight": NORM}),
    _biased(
        {
            "attn_ln.weight": NORM,
            "mlp_ln.weight": NORM,
            "attention.qkv_proj.weight": (3 * HIDDEN, HIDDEN),
            "attention.o_proj.weight": (HIDDEN, HIDDEN),
            "mlp.down_proj.weight": (HIDDEN, INNER),
        }
    )
    | {"mlp.up_gate_proj.weight": (2 * INNER, HIDDEN)},
    "encoder.layer.{}.",
    words="embeddings.word_embeddings",
    pooling="cls",
    prefix="new.",
    half="fp16",
)
GEMMA = Recipe(
    unigram,
    SIZES
    | {
        "model_type": "gemma3_text",
        "num_key_value_heads": 1,
        "head_dim": 32,
        "query_pre_attn_scalar": 32,
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": 1e-6,
        "sliding_window": 100,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0,
        "max_position_embeddings": 2048,
        "use_bidirectional_attention": True,
        "architectures": ["Gemma3TextModel"],
    },
    {"norm.weight": NORM},
    _llama(32, 1, heads=True) | {"pre_feedforward_layernorm.weight": NORM, "post_feedforward_layernorm.weight": NORM},
    "layers.{}.",
    dense=(128, HIDDEN),
    prompts={"query": "task: search result | query: ", "document": "title: none | text: "},
    positions=2048,
    around_norms=0.0,
    half="bf16",
)
QWEN3 = Recipe(
    bytes_bpe,
    SIZES
    | {
        "model_type": "qwen3",
        "num_key_value_heads": 2,
        "head_dim": 32,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000,
        "rope_scaling": None,
        "max_position_embeddings": POSITIONS,
        "use_sliding_window": False,
        "architectures": ["Qwen3Model"],
    },
    {"norm.weight": NORM},
    _llama(32, 2, heads=True),
    "layers.{}.",
    pooling="lasttoken",
    prompts={"query": "Instruct: Given a question, find the text\nQuery:", "document": ""},
    prefix="model.",
    half="bf16",
)
EUROBERT = Recipe(
    bytes_bpe,
    SIZES
    | {
        "model_type": "eurobert",
        "num_key_value_heads": 2,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 250000,
        "max_position_embeddings": POSITIONS,
        "architectures": ["EuroBertModel"],
    },
    {"norm.weight": NORM},
    _llama(16, 2),
    "layers.{}.",
    prefix="model.",
)
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 1024,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 2048,
}
JINA = Recipe(
    wordpiece,
    SIZES
    | {
        "model_type": "bert",
        "position_embedding_type": "alibi",
        "feed_forward_type": "geglu",
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": POSITIONS,
        "type_vocab_size": 2,
        "architectures": ["JinaBertModel"],
    },
    {"embeddings.token_type_embeddings.weight": (2, HIDDEN)} | _biased({"embeddings.LayerNorm.weight": NORM}),
    _biased(
        {
            "attention.self.query.weight": (HIDDEN, HIDDEN),
            "attention.self.key.weight": (HIDDEN, HIDDEN),
            "attention.self.value.weight": (HIDDEN, HIDDEN),
            "attention.output.dense.weight": (HIDDEN, HIDDEN),
            "attention.output.LayerNorm.weight": NORM,
            "mlp.wo.weight": (HIDDEN, INNER),
            "mlp.layernorm.weight": NORM,
        }
    )
    | {"mlp.gated_layers.weight": (2 * INNER, HIDDEN)},
    "encoder.layer.{}.",
    words="embeddings.word_embeddings",
)
JINA_CODE = Recipe(
    wordpiece,
    JINA.config,
    JINA.around,
    _biased(
        {
            "attention.self.query.weight": (HIDDEN, HIDDEN),
            "attention.self.key.weight": (HIDDEN, HIDDEN),
            "attention.self.value.weight": (HIDDEN, HIDDEN),
            "attention.self.layer_norm_q.weight": NORM,
            "attention.self.layer_norm_k.weight": NORM,
            "attention.output.dense.weight": (HIDDEN, HIDDEN),
            "attention.output.LayerNorm.weight": NORM,
            "layer_norm_1.weight": NORM,
            "mlp.down_layer.weight": (HIDDEN, INNER),
            "layer_norm_2.weight": NORM,
        }
    )
    | {"mlp.up_gated_layer.weight": (2 * INNER, HIDDEN)},
    "encoder.layer.{}.",
    words="embeddings.word_embeddings",
)
LONG = Recipe(
    unigram,
    SIZES
    | {
        "model_type": "xlm-roberta",
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "pad_token_id": 1,
        "max_position_embeddings": POSITIONS + 2,
        "type_vocab_size": 1,
        "architectures": ["XLMRobertaModel"],
    },
    {
        "embeddings.position_embeddings.weight": (POSITIONS + 2, HIDDEN),
        "embeddings.token_type_embeddings.weight": (1, HIDDEN),
    }
    | _biased({"embeddings.LayerNorm.weight": NORM}),
    _biased(
        {
            "attention.self.query.weight": (HIDDEN, HIDDEN),
            "attention.self.key.weight": (HIDDEN, HIDDEN),
            "attention.self.value.weight": (HIDDEN, HIDDEN),
            "attention.output.dense.weight": (HIDDEN, HIDDEN),
            "attention.output.LayerNorm.weight": NORM,
            "intermediate.dense.weight": (INNER, HIDDEN),
            "output.dense.weight": (HIDDEN, INNER),
            "output.LayerNorm.weight": NORM,
        }
    ),
    "encoder.layer.{}.",
    words="embeddings.word_embeddings",
    pooling="cls",
)


def _with(recipe: Recipe, **settings: Any) -> Recipe:
    return Recipe(**{**recipe.__dict__, "config": recipe.config | settings})


RECIPES = {
    "modernbert": MODERNBERT,
    "nomic_bert": NOMIC,
    "gte": GTE,
    "gemma3_text": GEMMA,
    "qwen3": QWEN3,
    "eurobert": EUROBERT,
    "eurobert-llama3": _with(EUROBERT, rope_scaling=LLAMA3, rope_parameters=LLAMA3),
    "qwen3-yarn": _with(QWEN3, rope_scaling=YARN, rope_parameters=YARN),
    "gemma3-causal": _with(GEMMA, use_bidirectional_attention=False),
    "xlm-roberta-long": LONG,
}
"""Those that transformers runs as well."""
OURS = {
    "jina_bert": JINA,
    "jina-code": JINA_CODE,
    # Alibaba's own code has a scaling that transformers has not.
    "gte-ntk": _with(
        GTE,
        model_type="new",
        rope_theta=500000,
        rope_parameters=None,
        rope_scaling={"type": "ntk", "factor": 2.0},
        type_vocab_size=0,
    ),
    "nomic-interleaved": _with(NOMIC, rotary_emb_interleaved=True, rotary_emb_fraction=0.5, rope_parameters=None),
}
"""Those that it does not: compared with a definition in numpy (tests/embedders/plain.py)."""


LENGTHS = (1, 2, 3, 17, 128, 129, 300, 513, 2048)


def rows(name: str, vocabulary: int) -> list[list[int]]:
    """Token ids of texts of many lengths, to the model's most."""
    random = np.random.RandomState(crc32(name.encode()))
    most = (RECIPES | OURS)[name].positions
    lengths = [*LENGTHS, *([most] if most > LENGTHS[-1] else [])]
    return [[int(i) for i in random.randint(5, vocabulary, length)] for length in lengths]


def weights(recipe: Recipe, vocabulary: int) -> dict[str, np.ndarray]:
    random = _Random(str(recipe.config["model_type"]))
    shapes = {f"{recipe.words}.weight": (vocabulary, HIDDEN)} | recipe.around
    for i in range(recipe.layers):
        own = {name: shape for name, shape in recipe.layer.items() if i or name != recipe.first}
        shapes |= {recipe.at.format(i) + name: shape for name, shape in own.items()}
    if not recipe.config.get("type_vocab_size"):
        shapes = {name: shape for name, shape in shapes.items() if "token_type" not in name}
    tensors = {}
    for name, shape in shapes.items():
        scale = recipe.around_norms if len(shape) == 1 and name.endswith("weight") else 0.0
        large = 1.0 if name == f"{recipe.words}.weight" else 0.15
        tensors[recipe.prefix + name] = random(name, *shape, scale=large, around=scale)
    return tensors


def halved(value: np.ndarray) -> np.ndarray:
    """The upper halves of float32: bfloat16, cut off."""
    return (value.view(np.uint32) >> 16).astype(np.uint16)


def save(tensors: dict[str, np.ndarray], path: Path, half: str = "") -> None:
    if half != "bf16":
        kept = {name: value.astype(np.float16 if half else np.float32) for name, value in tensors.items()}
        save_file(kept, path, metadata={"format": "pt"})
        return
    # safetensors writes what numpy has a type for.
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, value in tensors.items():
        end = start + 2 * value.size
        header[name] = {"dtype": "BF16", "shape": list(value.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    parts = (halved(value).tobytes() for value in tensors.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(parts))


def make(name: str, folder: Path) -> Path:
    """The checkpoint of that name in a folder of its own."""
    recipe = (RECIPES | OURS)[name]
    folder = folder / name
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = recipe.tokenizer()
    bertish = tokenizer.token_to_id("[PAD]") is not None
    pad = tokenizer.token_to_id("[PAD]" if bertish else "<pad>")

    def write(path: str, value: object) -> None:
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(json.dumps(value, indent=1), "utf-8")

    tokenizer.save(str(folder / "tokenizer.json"))
    specials = ("[PAD]", "[UNK]", "[CLS]", "[SEP]") if bertish else ("<pad>", "<unk>", "<s>", "</s>")
    tokens = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), specials, strict=True))
    write(
        "tokenizer_config.json",
        tokens | {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": recipe.positions},
    )
    config = recipe.config | {"vocab_size": tokenizer.get_vocab_size(), "pad_token_id": pad}
    write("config.json", config | {"n_layer": recipe.layers, "num_hidden_layers": recipe.layers})
    write("sentence_bert_config.json", {"max_seq_length": recipe.positions, "do_lower_case": False})
    write("config_sentence_transformers.json", {"prompts": recipe.prompts, "default_prompt_name": None})
    write("1_Pooling/config.json", {"word_embedding_dimension": HIDDEN, "pooling_mode": recipe.pooling})
    modules = ["models.Transformer", "models.Pooling", *["models.Dense"] * len(recipe.dense), "models.Normalize"]
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
    width = HIDDEN
    for i, out in enumerate(recipe.dense, 2):
        identity = "torch.nn.modules.linear.Identity"
        sizes = {"in_features": width, "out_features": out, "bias": False, "activation_function": identity}
        write(f"{i}_Dense/config.json", sizes)
        save(
            {"linear.weight": _Random("dense")(str(i), out, width)},
            folder / f"{i}_Dense/model.safetensors",
            recipe.half,
        )
        width = out
    save(weights(recipe, tokenizer.get_vocab_size()), folder / "model.safetensors", recipe.half)
    return folder


if __name__ == "__main__":
    for each in RECIPES | OURS:
        print(make(each, Path(sys.argv[1])))
