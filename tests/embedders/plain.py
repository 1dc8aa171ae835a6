"""Encoders that transformers lacks, in numpy, each written out from its definition: no code is shared with Penstock.

JinaBERT (arXiv 2310.19923; ALiBi, arXiv 2108.12409) for text and for code, GTE with fixed NTK scaling (arXiv
2407.19669), and NomicBERT (arXiv 2402.01613) with interleaved rotation of half a head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import erf
from typing import Any

import numpy as np

HEADS = 4
Array = Any
Tensors = Mapping[str, Array]


def _norm(x: Array, w: Tensors, name: str) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-12)
    return centred / deviation * w[f"{name}.weight"] + w[f"{name}.bias"]


def _dense(x: Array, w: Tensors, name: str) -> Array:
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)


def _gelu(x: Array) -> Array:
    return x * 0.5 * (1 + np.vectorize(erf)(x / np.sqrt(2)))


def _silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def _attend(q: Array, k: Array, v: Array, bias: Array | None = None) -> Array:
    """(length, hidden) each."""
    length, hidden = q.shape
    q, k, v = (x.reshape(length, HEADS, hidden // HEADS).transpose(1, 0, 2) for x in (q, k, v))
    scores = q @ k.transpose(0, 2, 1) / np.sqrt(hidden // HEADS)
    scores = scores if bias is None else scores + bias
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    return (shares @ v).transpose(1, 0, 2).reshape(length, hidden)


def jina_bert(w: Tensors, ids: Sequence[int]) -> Array:
    x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.token_type_embeddings.weight"][0]
    x = _norm(x, w, "embeddings.LayerNorm")
    slopes = np.array([2.0 ** (-8 * (head + 1) / HEADS) for head in range(HEADS)])
    places = np.arange(len(ids))
    bias = -slopes[:, None, None] * np.abs(places[:, None] - places[None, :])
    for i in range(3):
        at = f"encoder.layer.{i}."
        q, k, v = (_dense(x, w, f"{at}attention.self.{name}") for name in ("query", "key", "value"))
        code = f"{at}layer_norm_1.weight" in w
        if code:
            q, k = _norm(q, w, f"{at}attention.self.layer_norm_q"), _norm(k, w, f"{at}attention.self.layer_norm_k")
        out = _dense(_attend(q, k, v, bias), w, f"{at}attention.output.dense")
        out = _norm(x + out, w, f"{at}attention.output.LayerNorm")
        if code:
            x = _norm(x + out, w, f"{at}layer_norm_1")
            up, gate = np.split(_dense(x, w, f"{at}mlp.up_gated_layer"), 2, axis=-1)
            x = _norm(x + _dense(_gelu(gate) * up, w, f"{at}mlp.down_layer"), w, f"{at}layer_norm_2")
        else:
            gate, up = np.split(_dense(out, w, f"{at}mlp.gated_layers"), 2, axis=-1)
            x = _norm(out + _dense(_gelu(gate) * up, w, f"{at}mlp.wo"), w, f"{at}mlp.layernorm")
    return x


def gte_ntk(w: Tensors, ids: Sequence[int]) -> Array:
    """theta 500,000, factor 2: the base is multiplied by it, and what is left is divided by factor^(2/d)."""
    w = {name.removeprefix("new."): value for name, value in w.items()}
    x = _norm(w["embeddings.word_embeddings.weight"][ids], w, "embeddings.LayerNorm")
    size = x.shape[1] // HEADS
    turns = (500000.0 * 2) ** (-np.arange(0, size, 2) / size) / 2 ** (2 / size)
    angles = np.outer(np.arange(len(ids)), np.concatenate([turns, turns]))

    def rotate(y: Array) -> Array:
        heads = y.reshape(len(ids), HEADS, size)
        other = np.concatenate([-heads[..., size // 2 :], heads[..., : size // 2]], axis=-1)
        turned = heads * np.cos(angles)[:, None] + other * np.sin(angles)[:, None]
        return turned.reshape(y.shape)

    for i in range(3):
        at = f"encoder.layer.{i}."
        q, k, v = np.split(_dense(x, w, f"{at}attention.qkv_proj"), 3, axis=-1)
        x = _norm(x + _dense(_attend(rotate(q), rotate(k), v), w, f"{at}attention.o_proj"), w, f"{at}attn_ln")
        up, gate = np.split(_dense(x, w, f"{at}mlp.up_gate_proj"), 2, axis=-1)
        x = _norm(x + _dense(up * _gelu(gate), w, f"{at}mlp.down_proj"), w, f"{at}mlp_ln")
    return x


def nomic_interleaved(w: Tensors, ids: Sequence[int]) -> Array:
    x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.token_type_embeddings.weight"][0]
    x = _norm(x, w, "emb_ln")
    size = x.shape[1] // HEADS
    turned = size // 2
    angles = np.outer(np.arange(len(ids)), 1000.0 ** (-np.arange(0, turned, 2) / turned))
    cosine, sine = np.cos(angles)[:, None], np.sin(angles)[:, None]

    def rotate(y: Array) -> Array:
        heads = y.reshape(len(ids), HEADS, size).copy()
        even, odd = heads[..., 0:turned:2].copy(), heads[..., 1:turned:2].copy()
        heads[..., 0:turned:2], heads[..., 1:turned:2] = even * cosine - odd * sine, odd * cosine + even * sine
        return heads.reshape(y.shape)

    for i in range(3):
        at = f"encoder.layers.{i}."
        q, k, v = np.split(_dense(x, w, f"{at}attn.Wqkv"), 3, axis=-1)
        x = _norm(x + _dense(_attend(rotate(q), rotate(k), v), w, f"{at}attn.out_proj"), w, f"{at}norm1")
        inner = _dense(x, w, f"{at}mlp.fc11") * _silu(_dense(x, w, f"{at}mlp.fc12"))
        x = _norm(x + _dense(inner, w, f"{at}mlp.fc2"), w, f"{at}norm2")
    return x


ENCODERS = {"jina_bert": jina_bert, "jina-code": jina_bert, "gte-ntk": gte_ntk, "nomic-interleaved": nomic_interleaved}
