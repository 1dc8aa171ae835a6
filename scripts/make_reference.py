"""Writes tests/data/reference: texts and the vectors sentence-transformers makes of them. Needs the extra `peers`.

python scripts/make_reference.py DEFAULT_MODEL_FOLDER
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from make_checkpoints import RECIPES, make
from sentence_transformers import SentenceTransformer

ROOT = Path(__file__).parent.parent
SMALL = 300
"""Characters that a small checkpoint surely takes whole: its tokens are hardly longer than a letter."""

ODD = [
    "a",
    "?",
    "# Heading",
    "How do I resume after a crash?",
    "Zażółć gęślą jaźń. Straße, naïve café, Ελλάς, Москва.",
    "日本語のテキストと中文文本 mixed with English",
    "emoji 🙂🚀 and\tcontrol\u200b characters\u00a0here",
    "| key | value |\n| --- | --- |\n| a | 1 |\n| b | 2 |",
    "```python\nfor i in range(10):\n    print(i)\n```",
    "x" * 250,
    "  leading and trailing white space \n\n",
    "[CLS] is a special token, and so are [SEP] and <s>.",
]


def main() -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from embed_loop import markdown

    target = ROOT / "tests" / "data" / "reference"
    target.mkdir(parents=True, exist_ok=True)
    default = SentenceTransformer(sys.argv[1], device="cpu")
    room = default.max_seq_length
    drawn = [*ODD, *(text for most in (8, 40, 100, 160) for text in markdown(14, seed=most, most=most))]
    texts = [text for text in drawn if len(default.tokenizer(text)["input_ids"]) <= room]
    (target / "texts.json").write_text(json.dumps(texts, indent=0), "utf-8")
    np.savez_compressed(target / "default.npz", passages=default.encode(texts), queries=default.encode(texts[:8]))
    with tempfile.TemporaryDirectory() as folder:
        for name in RECIPES:
            model = SentenceTransformer(str(make(name, Path(folder))), device="cpu")
            short = [text[:SMALL] for text in texts]
            passages, queries = model.encode_document(short), model.encode_query(short[:8])
            np.savez_compressed(target / f"{name}.npz", passages=passages, queries=queries)
    print(f"{len(texts)} texts, {len(RECIPES) + 1} models in {target}")


if __name__ == "__main__":
    main()
