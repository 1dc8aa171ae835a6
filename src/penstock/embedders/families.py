"""Families of encoders newer than BERT: what their config.json says, and where their checkpoints keep each weight.

A new family is a table of names in NAMES and a function from config.json to a Design.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Config = Mapping[str, Any]
Names = Mapping[str, tuple[str, ...]]


class Unsupported(ValueError):
    """A choice in config.json for which there is no graph; the message names it."""


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary positions."""

    theta: float
    dims: int
    """Dimensions of a head that are rotated."""
    interleaved: bool = False
    scaling: tuple[tuple[str, Any], ...] = ()
    """The kind of scaling (`rope_type`) and its numbers, sorted."""


@dataclass(frozen=True, slots=True)
class Design:
    """The choices of an architecture, besides the sizes in Checkpoint."""

    groups: int
    """Heads of keys and values, each shared by as many heads of queries."""
    head: int
    """Dimensions of a head."""
    scale: float
    """Factor of the products of queries and keys."""
    norm: str = "layer"
    """`layer`, `rms`, or `rms1`: RMSNorm whose weights are stored less one."""
    before: bool = False
    """Norms precede attention and feed-forward, instead of following the sums."""
    first: bool = True
    """The first layer has a norm before its attention."""
    causal: bool = False
    alibi: bool = False
    embedding_scale: float = 1.0
    rope: Rope | None = None
    """Positions of layers that attend to everything."""
    local_rope: Rope | None = None
    window: int = 0
    """Tokens on each side that local layers attend to."""
    local: tuple[bool, ...] = ()
    """For each layer, whether it is a local one; none: no layer is."""


_LLAMA: Names = {
    "words": ("embed_tokens",),
    "layer": ("layers.{}.",),
    "norm1": ("input_layernorm",),
    "q": ("self_attn.q_proj",),
    "k": ("self_attn.k_proj",),
    "v": ("self_attn.v_proj",),
    "q_norm": ("self_attn.q_norm",),
    "k_norm": ("self_attn.k_norm",),
    "o": ("self_attn.o_proj",),
    "norm2": ("post_attention_layernorm",),
    "gate": ("mlp.gate_proj",),
    "up": ("mlp.up_proj",),
    "down": ("mlp.down_proj",),
    "norm": ("norm",),
}

NAMES: Mapping[str, Names] = {
    "modernbert": {
        "words": ("embeddings.tok_embeddings",),
        "embedded": ("embeddings.norm",),
        "layer": ("layers.{}.",),
        "norm1": ("attn_norm",),
        "qkv": ("attn.Wqkv",),
        "o": ("attn.Wo",),
        "norm2": ("mlp_norm",),
        "gate_up": ("mlp.Wi",),
        "down": ("mlp.Wo",),
        "norm": ("final_norm",),
    },
    "nomic_bert": {
        "words": ("embeddings.word_embeddings",),
        "types": ("embeddings.token_type_embeddings",),
        "embedded": ("emb_ln", "embeddings.LayerNorm"),
        "layer": ("encoder.layers.{}.", "layers.{}."),
        "qkv": ("attn.Wqkv",),
        "q": ("self_attn.q_proj",),
        "k": ("self_attn.k_proj",),
        "v": ("self_attn.v_proj",),
        "o": ("attn.out_proj", "self_attn.o_proj"),
        "norm1": ("norm1", "post_attention_layernorm"),
        "gate": ("mlp.fc12", "mlp.gate_proj"),
        "up": ("mlp.fc11", "mlp.up_proj", "mlp.fc1"),
        "down": ("mlp.fc2", "mlp.down_proj"),
        "norm2": ("norm2", "post_mlp_layernorm"),
    },
    "gte": {
        "words": ("embeddings.word_embeddings",),
        "types": ("embeddings.token_type_embeddings",),
        "embedded": ("embeddings.LayerNorm",),
        "layer": ("encoder.layer.{}.", "layers.{}."),
        "qkv": ("attention.qkv_proj",),
        "q": ("attention.q_proj", "self_attn.q_proj"),
        "k": ("attention.k_proj", "self_attn.k_proj"),
        "v": ("attention.v_proj", "self_attn.v_proj"),
        "o": ("attention.o_proj", "self_attn.o_proj"),
        "norm1": ("attn_ln", "post_attention_layernorm"),
        "up_gate": ("mlp.up_gate_proj",),
        "gate": ("mlp.gate_proj",),
        "up": ("mlp.up_proj",),
        "down": ("mlp.down_proj",),
        "norm2": ("mlp_ln", "post_mlp_layernorm"),
    },
    "jina_bert": {
        "words": ("embeddings.word_embeddings",),
        "types": ("embeddings.token_type_embeddings",),
        "embedded": ("embeddings.LayerNorm",),
        "layer": ("encoder.layer.{}.",),
        "q": ("attention.self.query",),
        "k": ("attention.self.key",),
        "v": ("attention.self.value",),
        "q_norm": ("attention.self.layer_norm_q",),
        "k_norm": ("attention.self.layer_norm_k",),
        "o": ("attention.output.dense",),
        "within": ("attention.output.LayerNorm",),
        "norm1": ("layer_norm_1", "attention.output.LayerNorm"),
        "gate_up": ("mlp.gated_layers",),
        "up_gate": ("mlp.up_gated_layer",),
        "up": ("intermediate.dense", "mlp.up_layer"),
        "down": ("mlp.wo", "mlp.down_layer", "output.dense"),
        "norm2": ("layer_norm_2", "mlp.layernorm", "output.LayerNorm"),
    },
    "gemma3_text": {
        **_LLAMA,
        "attended": ("post_attention_layernorm",),
        "norm2": ("pre_feedforward_layernorm",),
        "fed": ("post_feedforward_layernorm",),
    },
    "qwen3": _LLAMA,
    "eurobert": _LLAMA,
}
"""Where a family keeps its weights, in the order they are looked for. `gate` is what passes the activation; of a
stacked pair the one that comes first is named first. `attended` and `fed` norm what is added to the sum;
`within` norms a sum of its own before that."""


def sizes(config: Config) -> tuple[int, int, int]:
    """Hidden size, layers and heads, under the names that families give them."""

    def number(*names: str) -> int:
        return int(next((config[name] for name in names if config.get(name)), None) or config[names[0]])

    return (
        number("hidden_size", "dim", "d_model", "n_embd"),
        number("num_hidden_layers", "n_layers", "n_layer"),
        number("num_attention_heads", "n_heads", "n_head"),
    )


def _modernbert(config: Config) -> Design:
    head = _head(config)
    every = int(config.get("global_attn_every_n_layers", 3))
    return Design(
        groups=sizes(config)[2],
        head=head,
        scale=head**-0.5,
        before=True,
        first=False,
        rope=_rope(config, head, 160_000.0, kind="full_attention", key="global_rope_theta"),
        local_rope=_rope(config, head, 10_000.0, kind="sliding_attention", key="local_rope_theta"),
        window=int(config.get("local_attention", 128)) // 2,
        local=_local(config, lambda i: i % every != 0),
    )


def _nomic(config: Config) -> Design:
    if config.get("prenorm") or config.get("use_rms_norm") or config.get("num_experts"):
        raise Unsupported("a NomicBERT with prenorm, use_rms_norm or experts")
    fraction = float(config.get("rotary_emb_fraction", 1.0))
    if fraction <= 0:
        raise Unsupported("a NomicBERT without rotary positions")
    head = _head(config)
    rope = _rope(config, int(head * fraction), float(config.get("rotary_emb_base", 1000.0)))
    if config.get("rotary_emb_interleaved"):
        rope = Rope(rope.theta, rope.dims, interleaved=True)
    return Design(groups=sizes(config)[2], head=head, scale=head**-0.5, rope=rope)


def _gte(config: Config) -> Design:
    if config.get("position_embedding_type", "rope") != "rope" or config.get("layer_norm_type", "layer_norm") not in (
        "layer_norm",
        "rms_norm",
    ):
        raise Unsupported(
            f"position_embedding_type {config.get('position_embedding_type')!r:.50}"
            f" with layer_norm_type {config.get('layer_norm_type')!r:.50}"
        )
    if config.get("logn_attention_scale"):
        raise Unsupported("logn_attention_scale")
    head = _head(config)
    return Design(
        groups=sizes(config)[2],
        head=head,
        scale=head**-0.5,
        norm="rms" if config.get("layer_norm_type") == "rms_norm" else "layer",
        rope=_rope(config, head, 160_000.0 if config.get("model_type") == "gte" else 10_000.0),
    )


def _jina(config: Config) -> Design:
    head = _head(config)
    return Design(groups=sizes(config)[2], head=head, scale=head**-0.5, alibi=True)


def _gemma(config: Config) -> Design:
    if config.get("attn_logit_softcapping"):
        raise Unsupported("attn_logit_softcapping")
    heads = sizes(config)[2]
    head, both = int(config.get("head_dim") or 256), bool(config.get("use_bidirectional_attention"))
    every = int(config.get("sliding_window_pattern") or config.get("_sliding_window_pattern") or 6)
    window = int(config.get("sliding_window") or 4096)
    return Design(
        groups=int(config.get("num_key_value_heads") or heads),
        head=head,
        scale=float(config.get("query_pre_attn_scalar", 256)) ** -0.5,
        norm="rms1",
        before=True,
        causal=not both,
        embedding_scale=sizes(config)[0] ** 0.5,
        rope=_rope(config, head, 1_000_000.0, kind="full_attention"),
        local_rope=_rope(config, head, 10_000.0, kind="sliding_attention", key="rope_local_base_freq"),
        # The token itself is one of those in the window.
        window=window // 2 if both else window - 1,
        local=_local(config, lambda i: (i + 1) % every != 0),
    )


def _llama(config: Config) -> Design:
    heads = sizes(config)[2]
    head = int(config.get("head_dim") or (128 if config.get("model_type") == "qwen3" else _head(config)))
    window = int(config.get("sliding_window") or 0) if config.get("use_sliding_window") else 0
    rope = _rope(config, head, 250_000.0 if config.get("model_type") == "eurobert" else 10_000.0)
    return Design(
        groups=int(config.get("num_key_value_heads") or heads),
        head=head,
        scale=head**-0.5,
        norm="rms",
        before=True,
        causal=config.get("model_type") == "qwen3" and bool(config.get("is_causal", True)),
        rope=rope,
        local_rope=rope if window else None,
        window=max(window - 1, 0),
        local=_local(config, lambda i: i >= int(config.get("max_window_layers", 28))) if window else (),
    )


DESIGNS: Mapping[str, Callable[[Config], Design]] = {
    "modernbert": _modernbert,
    "nomic_bert": _nomic,
    "gte": _gte,
    "jina_bert": _jina,
    "gemma3_text": _gemma,
    "qwen3": _llama,
    "eurobert": _llama,
}


def _head(config: Config) -> int:
    hidden, _, heads = sizes(config)
    return int(config.get("head_dim") or hidden // heads)


def _local(config: Config, usual: Callable[[int], bool]) -> tuple[bool, ...]:
    kinds = config.get("layer_types")
    if kinds:
        return tuple(kind == "sliding_attention" for kind in kinds)
    return tuple(usual(i) for i in range(sizes(config)[1]))


_SCALINGS = {
    "default": (),
    # Beyond max_position_embeddings alone, and Penstock takes no texts that long.
    "dynamic": (),
    "linear": ("factor",),
    "ntk": ("factor", "mixed_b"),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": (
        "factor",
        "attention_factor",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
        "original_max_position_embeddings",
        "truncate",
    ),
}


_REQUIRED = {
    "linear": ("factor",),
    "ntk": ("factor",),
    "llama3": _SCALINGS["llama3"],
    "yarn": ("factor", "original_max_position_embeddings"),
}


def _rope(config: Config, dims: int, theta: float, *, kind: str = "", key: str = "rope_theta") -> Rope:
    """Rotary positions of layers of that kind: of transformers 5's `rope_parameters`, else of the older keys."""
    parameters = config.get("rope_parameters") or {}
    parameters = parameters.get(kind, parameters) or {}
    scaling = parameters
    if not parameters:
        scaling = config.get("rope_scaling") or {}
        if kind == "sliding_attention" and config.get("model_type") == "gemma3_text":
            scaling = {}
    name = str(scaling.get("rope_type") or scaling.get("type") or "default")
    if name not in _SCALINGS:
        raise Unsupported(f"rotary positions scaled by {name!r:.50}")
    numbers = {each: float(scaling[each]) for each in _SCALINGS[name] if scaling.get(each) is not None}
    if name == "yarn":
        numbers.setdefault("original_max_position_embeddings", float(config["max_position_embeddings"]))
    if lacking := set(_REQUIRED.get(name, ())) - numbers.keys():
        raise KeyError(f"{', '.join(sorted(lacking))} of the scaling {name}")
    if any(numbers.get(each, 1.0) <= 0 for each in _REQUIRED.get(name, ())):
        raise ValueError(f"scaling {numbers}")
    fallback = config.get("rope_theta") if kind == "full_attention" else None
    return Rope(
        theta=float(parameters.get("rope_theta") or config.get(key) or fallback or theta),
        dims=int(dims * float(parameters.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0)),
        scaling=tuple(sorted({"rope_type": name, **numbers}.items())) if numbers else (),
    )
