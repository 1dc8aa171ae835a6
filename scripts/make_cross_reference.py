"""Writes what sentence-transformers' CrossEncoder makes of some pairs into tests/data/reference/cross.npz.

python scripts/make_cross_reference.py    # the extra `peers`
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
from make_cross_encoders import RECIPES, make
from sentence_transformers import CrossEncoder

REFERENCE = Path(__file__).parent.parent / "tests" / "data" / "reference"
QUESTIONS = ("the key", "how do I resume a run in the file?")
SHORT = 200
"""Characters that a model of 512 tokens takes whole with a question."""


def passages(texts: list[str], positions: int) -> list[str]:
    """Short ones, and where the model takes them, some of up to a few thousand tokens."""
    joined = " ".join(texts)
    some = [*(text[:SHORT] for text in texts[:12]), joined[:700], joined[300:2000], joined[1000:5000]]
    return some[: 12 if positions < 2048 else 14 if positions == 2048 else 15]


def main() -> None:
    texts = json.loads((REFERENCE / "texts.json").read_text("utf-8"))
    kept = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in RECIPES:
            model = CrossEncoder(str(make(name, Path(scratch))), device="cpu", model_kwargs={"dtype": "float32"})
            positions = json.loads(Path(scratch, name, "config.json").read_text("utf-8"))["max_position_embeddings"]
            some = passages(texts, positions)
            pairs = [(question, text) for question in QUESTIONS for text in some]
            kept[name] = np.asarray(model.predict(pairs), np.float32)
            print(name, kept[name].shape, kept[name].min(), kept[name].max())
    np.savez_compressed(REFERENCE / "cross.npz", **kept)


if __name__ == "__main__":
    main()
