"""How fast a reranker is in a search, against the bare loop over its batches.

    python benchmarks/rerank.py                              # 12 searches of 50 hits each, three rounds
    python benchmarks/rerank.py --searches 2 --rounds 1

The model has the shape of ms-marco-MiniLM-L6, with the default model's weights and a random head; the hits are chunks
of Markdown. The loop runs the same batches on as many threads, without tokens to make and hits to order.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from embed_loop import markdown
from figures import record
from safetensors.numpy import load_file, save_file
from token_vectors import together

from penstock.core.records import Chunk, Hit
from penstock.embedders import models
from penstock.embedders.cross_encoder import CrossEncoder
from penstock.jobs.pages import Page
from penstock.jobs.queries import Query
from penstock.jobs.rerank import AMONG, reranked

BAR = 0.95
QUESTION = "how do I resume an interrupted run where it stopped?"


def checkpoint(folder: Path) -> Path:
    """Make the model."""
    target = folder / "cross-encoder"
    shutil.copytree(models.resolve(), target)
    for extra in ("modules.json", "sentence_bert_config.json"):
        (target / extra).unlink()
    config = json.loads((target / "config.json").read_text("utf-8"))
    config |= {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}}
    (target / "config.json").write_text(json.dumps(config), "utf-8")
    random, size = np.random.default_rng(0), config["hidden_size"]
    shapes = {"pooler.dense.weight": (size, size), "pooler.dense.bias": (size,)}
    shapes |= {"classifier.weight": (1, size), "classifier.bias": (1,)}
    head = {name: random.standard_normal(shape, np.float32) * 0.05 for name, shape in shapes.items()}
    save_file({**load_file(target / "model.safetensors"), **head}, target / "model.safetensors")
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searches", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # threads are ours, on both sides
    texts = list(markdown(AMONG, most=120))[:AMONG]
    hits = [Hit(0.0, Chunk(f"{i:032}", "memory://", i, text, (0, len(text)))) for i, text in enumerate(texts)]
    query = Query(text=QUESTION, k=10)
    with tempfile.TemporaryDirectory() as scratch, CrossEncoder(checkpoint(Path(scratch))) as model:
        batches = model.batches(QUESTION, texts) * options.searches
        tokens = sum(len(pair.ids) for batch in batches for pair in batch)
        model.run(batches[0])
        ratios, seconds = [], []
        for _ in range(options.rounds):
            began = time.perf_counter()
            for _ in range(options.searches):
                reranked(model, query, Page(hits, [1] * len(hits), None))
            took = time.perf_counter() - began
            ratios.append(together(model.run, batches, model.workers) / took)
            seconds.append(took / options.searches)
    print(f"{len(texts)} hits of {tokens / options.searches / len(texts):.0f} tokens: {min(seconds):.2f} s a search")
    ratio = statistics.median(ratios)
    name = f"rerank / bare loop over {options.searches} searches"
    print(f"{name}: {ratio:.3f} (bar: {BAR:g})")
    record(name, ratio, bar=BAR)
    record(f"reranking {len(texts)} hits", min(seconds), "s", better="lower")


if __name__ == "__main__":
    main()
