"""Writes tests/data/reference/clip: what transformers makes of pictures and texts. Needs Pillow and the extra `peers`.

python scripts/make_clip_reference.py [TRAINED_CHECKPOINT]
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from random import Random

import numpy as np
import torch
from make_clip_checkpoints import RECIPES, make
from make_shapes import draw, scenes
from PIL import Image
from transformers import AutoModel, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "tests" / "data" / "reference" / "clip"
TRAINED = ROOT / "tests" / "data" / "shapes-clip"
SIZES = [(96, 64), (61, 97), (33, 33), (20, 50), (180, 40), (57, 56), (200, 150), (31, 90)]
TEXTS = [
    "a red circle",
    "two large blue squares",
    "A Photo of an ORANGE star!",
    "the resumed index, and its key",
    "x",
    "naïve café 中",
    "an end <|endoftext|> within",
    "",
]


def pictures() -> list[Path]:
    """Draw shapes, with grain that tells one way of resampling from another."""
    paths = []
    for number, (scene, (width, height)) in enumerate(zip(scenes(Random(7)), SIZES, strict=False)):
        grain = np.random.RandomState(number).randint(-30, 30, (height, width, 3))
        pixels = np.asarray(draw(scene, Random(number), width, height)).astype(int) + grain
        path = TARGET / f"{number}.{'png' if number % 3 == 1 else 'jpg'}"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)
        paths.append(path)
    return paths


def vectors(folder: Path, paths: list[Path], texts: list[str]) -> dict[str, np.ndarray]:
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    siglip = model.config.model_type == "siglip"
    prepare = (SiglipImageProcessorPil if siglip else CLIPImageProcessorPil).from_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    pixels = torch.from_numpy(
        np.stack([prepare(Image.open(path).convert("RGB"))["pixel_values"][0] for path in paths]).astype(np.float32)
    )
    length = model.config.text_config.max_position_embeddings
    tokens = tokenizer(texts, padding="max_length" if siglip else True, max_length=length, return_tensors="pt")
    tokens.pop("token_type_ids", None)
    with torch.inference_mode():
        features = {
            "images": model.get_image_features(pixel_values=pixels).pooler_output,
            "texts": model.get_text_features(**tokens).pooler_output,
        }
    return {name: torch.nn.functional.normalize(value).numpy() for name, value in features.items()}


def main() -> None:
    TARGET.mkdir(parents=True, exist_ok=True)
    paths = pictures()
    (TARGET / "texts.json").write_text(json.dumps(TEXTS, indent=0), "utf-8")
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = {name: make(name, Path(folder)) for name in RECIPES}
        checkpoints["shapes"] = Path(sys.argv[1]) if len(sys.argv) > 1 else TRAINED
        for name, checkpoint in checkpoints.items():
            np.savez_compressed(TARGET / f"{name}.npz", **vectors(checkpoint, paths, TEXTS))
    print(f"{len(paths)} pictures, {len(TEXTS)} texts, {len(RECIPES) + 1} models in {TARGET}")


if __name__ == "__main__":
    main()
