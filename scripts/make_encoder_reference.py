"""Writes tests/data/reference/NAME.npz: the vectors of sentence-transformers for the checkpoints of make_encoders.py.

Needs the extra `peers`. `make_encoder_reference.py [NAME ...]`
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from make_encoders import RECIPES, make, rows
from sentence_transformers import SentenceTransformer

DATA = Path(__file__).parent.parent / "tests" / "data" / "reference"


def main() -> None:
    texts = json.loads((DATA / "texts.json").read_text("utf-8"))
    short = [text[:300] for text in texts[:12]]
    with tempfile.TemporaryDirectory() as folder:
        for name in sys.argv[1:] or RECIPES:
            model = SentenceTransformer(str(make(name, Path(folder))), device="cpu", model_kwargs={"dtype": "float32"})
            vectors = []
            for row in rows(name, model[0].auto_model.config.vocab_size):
                features = {
                    "input_ids": torch.tensor([row]),
                    "attention_mask": torch.ones(1, len(row), dtype=torch.long),
                }
                with torch.no_grad():
                    vectors.append(model(features)["sentence_embedding"][0].numpy())
            passages, queries = model.encode_document(short), model.encode_query(short)
            np.savez_compressed(DATA / f"{name}.npz", rows=np.array(vectors), passages=passages, queries=queries)
            print(DATA / f"{name}.npz")


if __name__ == "__main__":
    main()
