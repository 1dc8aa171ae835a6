"""Makes small random checkpoints of the CLIP family, without PyTorch: `make_clip_checkpoints.py FOLDER`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from make_checkpoints import WORDS, unigram
from make_clip_tokenizer import END, START, clip_tokenizer
from safetensors.numpy import save_file
from tokenizers import Tokenizer, processors


@dataclass(frozen=True)
class Recipe:
    """How a checkpoint differs from the others."""

    family: str
    activation: str
    edge: int
    patch: int
    size: Any
    crop: int | None = None
    end: int | None = None
    """What the configuration says of the token that ends a text; None: the truth."""
    length: int = 40
    hidden: int = 32
    inner: int = 64
    layers: int = 2
    heads: int = 4
    dim: int = 24
    more: dict[str, Any] = field(default_factory=dict)
    """Of the preprocessing."""


RECIPES = {
    "clip-quick": Recipe("clip", "quick_gelu", 32, 8, {"shortest_edge": 32}, 32),
    "clip-gelu": Recipe("clip", "gelu", 30, 8, {"shortest_edge": 36}, 30, more={"resample": 2}),
    "clip-legacy": Recipe("clip", "quick_gelu", 28, 14, 28, 28, end=2),
    "clip-padded": Recipe("clip", "gelu_pytorch_tanh", 32, 16, {"shortest_edge": 24}, 32, more={"do_normalize": False}),
    "siglip": Recipe("siglip", "gelu_pytorch_tanh", 32, 8, {"height": 32, "width": 32}),
    "siglip-odd": Recipe("siglip", "gelu", 42, 12, {"height": 42, "width": 42}, length=36, more={"resample": 1}),
}

LARGE = {
    "vit-b-32": Recipe(
        "clip", "quick_gelu", 224, 32, {"shortest_edge": 224}, 224, None, 77, 768, 3072, layers=12, heads=12, dim=512
    )
}
"""As large as a published one, to measure speed with."""


def tokenizer_of(recipe: Recipe) -> Tokenizer:
    if recipe.family == "clip":
        return clip_tokenizer([word for word in WORDS if len(word) > 1])
    tokenizer = unigram()
    end = tokenizer.token_to_id("</s>")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", end)])
    return tokenizer


def weights(seed: str, recipe: Recipe, vocabulary: int) -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = {}
    hidden = recipe.hidden

    def random(name: str, *shape: int, scale: float = 0.15, around: float = 0.0) -> None:
        state = np.random.RandomState(crc32(f"{seed}/{name}".encode()))
        tensors[name] = np.array(state.standard_normal(shape) * scale + around, np.float32)

    def linear(name: str, out: int, into: int) -> None:
        random(f"{name}.weight", out, into)
        random(f"{name}.bias", out)

    def norm(name: str) -> None:
        random(f"{name}.weight", hidden, around=1.0)
        random(f"{name}.bias", hidden)

    def mlp(name: str) -> None:
        linear(f"{name}.fc1", recipe.inner, hidden)
        linear(f"{name}.fc2", hidden, recipe.inner)

    siglip = recipe.family == "siglip"
    patches = (recipe.edge // recipe.patch) ** 2
    random("vision_model.embeddings.patch_embedding.weight", hidden, 3, recipe.patch, recipe.patch, scale=0.1)
    random("vision_model.embeddings.position_embedding.weight", patches + (not siglip), hidden, scale=0.5)
    random("text_model.embeddings.token_embedding.weight", vocabulary, hidden, scale=1.0)
    random("text_model.embeddings.position_embedding.weight", recipe.length, hidden, scale=0.5)
    for tower in ("vision_model", "text_model"):
        for layer in range(recipe.layers):
            at = f"{tower}.encoder.layers.{layer}"
            for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
                linear(f"{at}.self_attn.{part}", hidden, hidden)
            mlp(f"{at}.mlp")
            norm(f"{at}.layer_norm1")
            norm(f"{at}.layer_norm2")
    norm("vision_model.post_layernorm")
    norm("text_model.final_layer_norm")
    if siglip:
        random("vision_model.embeddings.patch_embedding.bias", hidden)
        random("vision_model.head.probe", 1, 1, hidden, scale=1.0)
        random("vision_model.head.attention.in_proj_weight", 3 * hidden, hidden)
        random("vision_model.head.attention.in_proj_bias", 3 * hidden)
        linear("vision_model.head.attention.out_proj", hidden, hidden)
        norm("vision_model.head.layernorm")
        mlp("vision_model.head.mlp")
        linear("text_model.head", hidden, hidden)
        random("logit_bias", 1)
    else:
        random("vision_model.embeddings.class_embedding", hidden)
        norm("vision_model.pre_layrnorm")
        random("visual_projection.weight", recipe.dim, hidden)
        random("text_projection.weight", recipe.dim, hidden)
    random("logit_scale", *(1 for _ in range(siglip)))
    return tensors


def configuration(recipe: Recipe, tokenizer: Tokenizer) -> dict[str, Any]:
    clip = recipe.family == "clip"
    shared = {
        "hidden_size": recipe.hidden,
        "intermediate_size": recipe.inner,
        "num_hidden_layers": recipe.layers,
        "num_attention_heads": recipe.heads,
        "hidden_act": recipe.activation,
    }
    text = {"vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": recipe.length}
    if clip:
        text |= {"bos_token_id": tokenizer.token_to_id(START), "eos_token_id": recipe.end or tokenizer.token_to_id(END)}
    config = {
        "model_type": recipe.family,
        "architectures": ["CLIPModel" if clip else "SiglipModel"],
        "text_config": shared | text,
        "vision_config": shared | {"image_size": recipe.edge, "patch_size": recipe.patch},
    }
    return config | ({"projection_dim": recipe.dim} if clip else {})


def make(name: str, folder: Path) -> Path:
    """The checkpoint of that name in a folder of its own."""
    recipe = RECIPES.get(name) or LARGE[name]
    folder = folder / name
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tokenizer_of(recipe)
    clip = recipe.family == "clip"

    def write(path: str, value: object) -> None:
        (folder / path).write_text(json.dumps(value, indent=1), "utf-8")

    tokenizer.save(str(folder / "tokenizer.json"))
    tokens = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
    if not clip:
        tokens = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    write(
        "tokenizer_config.json",
        tokens
        | {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": recipe.length,
            "model_input_names": ["input_ids", "attention_mask"] if clip else ["input_ids"],
        },
    )
    write("config.json", configuration(recipe, tokenizer))
    prepared = {"image_processor_type": "CLIPImageProcessor" if clip else "SiglipImageProcessor", "size": recipe.size}
    prepared |= {"crop_size": recipe.crop} if recipe.crop else {}
    write("preprocessor_config.json", prepared | recipe.more)
    save_file(weights(name, recipe, tokenizer.get_vocab_size()), folder / "model.safetensors", {"format": "pt"})
    return folder


if __name__ == "__main__":
    for each in RECIPES:
        print(make(each, Path(sys.argv[1])))
