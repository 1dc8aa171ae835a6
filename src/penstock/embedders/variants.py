"""A checkpoint with the options of its model's name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from penstock.core.errors import ModelError
from penstock.embedders.checkpoint import POOLINGS, Checkpoint, prompt_texts


def with_options(checkpoint: Checkpoint, options: Mapping[str, Any]) -> Checkpoint:
    """The checkpoint with options of its name (model_options). Raises ModelError for one that it cannot have."""
    changes: dict[str, Any] = {}
    if (pooling := options.get("pooling")) is not None:
        if pooling not in POOLINGS.values():
            raise ModelError(f"invalid pooling {pooling!r:.50}: expected one of {', '.join(POOLINGS.values())}")
        if checkpoint.projections and len(checkpoint.pooling) > 1:
            raise ModelError(f"{checkpoint.name}: its Dense modules need its own pooling, {checkpoint.pooling}")
        changes |= {"pooling": (pooling,), "chosen_pooling": True}
    if (prompt := options.get("prompt")) is not None:
        prompts = prompt_texts(checkpoint.folder)
        if prompt not in prompts:
            raise ModelError(
                f"{checkpoint.name} has no prompt {prompt!r:.50}: it has {', '.join(map(repr, prompts)) or 'none'};"
                " name one of them, or give the text as passage= or query="
            )
        changes |= {"passage_prompt": prompts[prompt], "query_prompt": prompts[prompt]}
    texts = {"passage": "passage_prompt", "query": "query_prompt"}
    changes |= {field: options[name] for name, field in texts.items() if options.get(name) is not None}
    changes |= {name: options[name] for name in ("length", "file") if options.get(name) is not None}
    result = replace(checkpoint, **changes)
    if (dim := options.get("dim")) is not None:
        if dim > result.dim:
            raise ModelError(f"invalid dim {dim}: vectors of {checkpoint.name} have {result.dim} dimensions")
        result = replace(result, cut=dim)
    return result
