"""Trains the tests' small CLIP on drawn shapes: `make_clip.py FOLDER [STEPS]`. Needs Pillow and the extra `peers`.

A real model, small: 690,000 weights, 56 pixels a side, taught in seven minutes on two busy cores. Saved as Hugging
Face's `CLIPModel` saves itself, in half precision.
"""

from __future__ import annotations

import json
import math
import sys
import time
from dataclasses import astuple
from pathlib import Path
from random import Random

import numpy as np
import torch
from make_clip_tokenizer import END, START, clip_tokenizer
from make_shapes import COLOURS, NUMBERS, SHAPES, SIZES, draw, scenes
from PIL import Image
from tokenizers import Tokenizer
from transformers import CLIPConfig, CLIPModel

EDGE, PATCH, WIDTH, LAYERS, LENGTH = 56, 14, 96, 3, 32
PICTURES, BATCH, STEPS = 16_000, 128, 2_000
RATE = 1.5e-3
SEEN = (list(COLOURS), list(SHAPES), list(NUMBERS), list(SIZES))
MEAN, STD = [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]
PLURALS = [shape + ("es" if shape == "cross" else "s") for shape in SHAPES]
WORDS = [*COLOURS, *SHAPES, *PLURALS, *NUMBERS.values(), *filter(None, SIZES), "an", "the", "of", "photo", "picture"]


def configuration(tokenizer: Tokenizer) -> CLIPConfig:
    ends = {"bos_token_id": tokenizer.token_to_id(START), "eos_token_id": tokenizer.token_to_id(END)}
    shared = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": 3, "projection_dim": 64}
    text = {"vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": LENGTH, "num_hidden_layers": 2}
    vision = {"image_size": EDGE, "patch_size": PATCH, "num_hidden_layers": LAYERS}
    pad = {"pad_token_id": ends["eos_token_id"]}
    return CLIPConfig(text_config=shared | text | ends | pad, vision_config=shared | vision, projection_dim=64)


def pixels(image: Image.Image) -> np.ndarray:
    """As the checkpoint's preprocessor_config.json says."""
    scale = EDGE / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - EDGE) // 2, (image.height - EDGE) // 2
    return np.asarray(image.crop((left, top, left + EDGE, top + EDGE)))


def pictures(count: int, random: Random) -> tuple[np.ndarray, list[str], list[list[int]]]:
    """Draw images, with their captions and classes: colour, shape, number and size."""
    images, captions, seen = [], [], []
    for _, scene in zip(range(count), scenes(random), strict=False):
        width, height = random.choice(((80, 80), (107, 80), (80, 107), (120, 68)))
        images.append(pixels(draw(scene, random, width, height)))
        said = scene.caption
        if scene.size and random.random() < 0.3:
            said = said.replace(scene.size + " ", "").replace("a orange", "an orange")
        captions.append(random.choice(("", "", "", "a photo of ", "a picture of ")) + said)
        seen.append([names.index(it) for names, it in zip(SEEN, astuple(scene), strict=True)])
    return np.stack(images), captions, seen


def train(model: CLIPModel, tokenizer: Tokenizer, steps: int) -> None:
    started = time.monotonic()
    images, captions, classes = pictures(PICTURES, Random(1))
    print(f"{PICTURES} pictures drawn in {time.monotonic() - started:.0f} s", flush=True)
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id(END), pad_token=END)
    rows = torch.tensor([encoding.ids for encoding in tokenizer.encode_batch(captions)])
    tokenizer.no_padding()
    kinds = {caption: number for number, caption in enumerate(dict.fromkeys(captions))}
    labels = torch.tensor([kinds[caption] for caption in captions])
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (MEAN, STD))
    seen = torch.tensor(classes)
    # Naming what is to be seen, besides, teaches the image tower its shapes much sooner. These heads are thrown away.
    heads = torch.nn.ModuleList(torch.nn.Linear(WIDTH, len(names)) for names in SEEN)
    optimizer = torch.optim.AdamW(
        [*model.parameters(), *heads.parameters()], lr=RATE, weight_decay=0.05, betas=(0.9, 0.98)
    )
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, step / 100) * (0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2)
    )
    chance = np.random.RandomState(1)
    model.train()
    for step in range(steps):
        chosen = torch.from_numpy(chance.choice(PICTURES, BATCH, replace=False))
        shown = torch.from_numpy(images[chosen.numpy()]).permute(0, 3, 1, 2).float() / 255
        shown = (shown + 0.02 * torch.randn_like(shown)).clamp(0, 1)
        shown = shown.flip(-1) if step % 2 else shown
        shown = shown.roll(tuple(int(by) for by in chance.randint(-4, 5, 2)), dims=(2, 3))
        output = model(input_ids=rows[chosen], pixel_values=(shown - mean) / std)
        # Several pictures of a batch may have the same caption: each is right for all of them.
        same = (labels[chosen][:, None] == labels[chosen][None]).float()
        wanted = same / same.sum(dim=1, keepdim=True)
        logits = output.logits_per_image
        loss = sum(-(wanted * way.log_softmax(dim=1)).sum(dim=1).mean() for way in (logits, logits.T)) / 2
        pooled = output.vision_model_output.last_hidden_state[:, 0]
        pooled = model.vision_model.post_layernorm(pooled)
        named = [head(pooled) for head in heads]
        right = [round((guess.argmax(1) == seen[chosen, i]).float().mean().item(), 2) for i, guess in enumerate(named)]
        loss = loss + sum(torch.nn.functional.cross_entropy(guess, seen[chosen, i]) for i, guess in enumerate(named))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rate.step()
        if step % 50 == 0 or step == steps - 1:
            took = time.monotonic() - started
            print(f"step {step}: loss {loss.item():.3f}, {took:.0f} s; named right: {right}", flush=True)


def save(model: CLIPModel, tokenizer: Tokenizer, folder: Path) -> None:
    model.half().save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)

    def write(name: str, value: object) -> None:
        (folder / name).write_text(json.dumps(value, indent=1) + "\n", "utf-8")

    tokens = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
    write("tokenizer_config.json", tokens | {"tokenizer_class": "CLIPTokenizer", "model_max_length": LENGTH})
    write(
        "preprocessor_config.json",
        {
            "image_processor_type": "CLIPImageProcessor",
            "do_resize": True,
            "size": {"shortest_edge": EDGE},
            "resample": 3,
            "do_center_crop": True,
            "crop_size": {"height": EDGE, "width": EDGE},
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": MEAN,
            "image_std": STD,
            "do_convert_rgb": True,
        },
    )


def main() -> None:
    torch.manual_seed(1)
    torch.set_num_threads(2)
    folder, steps = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else STEPS
    tokenizer = clip_tokenizer(WORDS)
    model = CLIPModel(configuration(tokenizer))
    print(f"{sum(weight.numel() for weight in model.parameters()):,} weights")
    train(model, tokenizer, steps)
    save(model, tokenizer, folder)


if __name__ == "__main__":
    main()
