"""Targets of checkpoints that somebody gives: configurations, tokenizers and weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from penstock.core.errors import EmbedError, ModelError
from penstock.core.records import Chunk
from penstock.embedders import checkpoint, clip_checkpoint, cross_checkpoint, models
from tests.attack.fuzz.stored import _fresh
from tests.attack.fuzz.target import Target, allowed


def _written(data: bytes, name: str) -> Path | None:
    """A checkpoint's folder by a mapping of its files' names to their JSON, or a text."""
    try:
        files = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(files, dict):
        return None
    folder = _fresh(name)
    for path, content in files.items():
        if ".." in path or path.startswith("/") or "\0" in path or not path or len(path) > 100:
            continue
        try:
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content if isinstance(content, str) else json.dumps(content))
        except (OSError, ValueError):
            continue
    return folder


def _configuration(data: bytes) -> None:
    folder = _written(data, "checkpoint")
    if folder is None:
        return
    with allowed(ModelError):
        models.kind(str(folder))
    with allowed(ModelError):
        loaded = checkpoint.load(folder, "fuzz")
        json.dumps([loaded.traits, loaded.dim, [str(one) for one in loaded.files]])
    with allowed(ModelError):
        seeing = clip_checkpoint.load(folder, "fuzz")
        json.dumps([seeing.traits, [str(one) for one in seeing.files]])
    with allowed(ModelError):
        crossed = cross_checkpoint.load(folder, "fuzz", {})
        json.dumps([crossed.traits, [str(one) for one in crossed.files]])


def _tokenizer(data: bytes) -> None:
    from penstock.embedders.tokenize import HFTokenizer

    path = _fresh("tokenizer") / "tokenizer.json"
    path.write_bytes(data)
    with allowed(ModelError, EmbedError):
        tokenizer = HFTokenizer(path, 64)
        tokenizer.encode(["a text of words", "", "é"])
        tokenizer.pair()


def _weights(data: bytes) -> None:
    """A whole checkpoint, from its files as JSON, and the header of its weights: what the header has no bytes for, is
    zeros. It is built, opened, and embeds."""
    from penstock.embedders.onnx import OnnxEmbedder

    try:
        files = json.loads(data)
        header = files.pop("weights")
        size = min(int(files.pop("bytes")), 1 << 22)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        return
    folder = _written(json.dumps(files).encode(), "weights")
    if folder is None:
        return
    text: Any = header if isinstance(header, str) else json.dumps(header)
    raw = text.encode("utf-8", "surrogatepass")
    (folder / "model.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(max(size, 0)))
    with allowed(ModelError, EmbedError), OnnxEmbedder(folder, workers=1) as model:
        for text in ("a b", "a b a b a b"):
            model.embed([Chunk("0" * 32, "memory://x", 0, text, (0, len(text)))])
        model.query(["a"])


TARGETS = (
    Target("checkpoint", _configuration, "json", ("penstock.embedders",), memory=4 << 30),
    Target("tokenizer", _tokenizer, "json", ("penstock.embedders",), memory=4 << 30),
    Target("weights", _weights, "json", ("penstock.embedders",), memory=6 << 30, seconds=15),
)
