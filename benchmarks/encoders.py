"""An encoder of ModernBERT-base's shape, with random weights, against sentence-transformers; and its memory.

    python benchmarks/encoders.py                       # texts of 512 tokens, both in turns
    python benchmarks/encoders.py --tokens 8192 --texts 2 --memory

Needs the extra `peers`, but with --memory, which runs Penstock alone and tells its peak.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from figures import record

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))

BASE = {"hidden_size": 768, "intermediate_size": 1152, "num_attention_heads": 12}
VOCABULARY = 50368


def checkpoint(folder: Path, layers: int) -> Path:
    """Make the checkpoint."""
    from make_encoders import make, save

    folder = make("modernbert", folder)
    config = json.loads((folder / "config.json").read_text()) | BASE
    config |= {"vocab_size": VOCABULARY, "num_hidden_layers": layers}
    (folder / "config.json").write_text(json.dumps(config))
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    shapes = {"embeddings.tok_embeddings.weight": (VOCABULARY, hidden)}
    shapes |= {"embeddings.norm.weight": (hidden,), "final_norm.weight": (hidden,)}
    layer = {
        "attn_norm.weight": (hidden,),
        "attn.Wqkv.weight": (3 * hidden, hidden),
        "attn.Wo.weight": (hidden, hidden),
        "mlp_norm.weight": (hidden,),
        "mlp.Wi.weight": (2 * inner, hidden),
        "mlp.Wo.weight": (hidden, inner),
    }
    for i in range(config["num_hidden_layers"]):
        shapes |= {f"layers.{i}.{name}": shape for name, shape in layer.items() if i or name != "attn_norm.weight"}
    random = np.random.default_rng(0)
    tensors = {
        name: np.ones(shape, np.float32) if len(shape) == 1 else random.standard_normal(shape, np.float32) * 0.02
        for name, shape in shapes.items()
    }
    save(tensors, folder / "model.safetensors")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--texts", type=int, default=8)
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--memory", action="store_true", help="Penstock alone, with its peak of memory")
    args = parser.parse_args()

    from penstock.embedders.onnx import OnnxEmbedder

    random = np.random.default_rng(1)
    rows = random.integers(5, 200, (args.texts, args.tokens)).tolist()
    with tempfile.TemporaryDirectory() as scratch, OnnxEmbedder(checkpoint(Path(scratch), args.layers)) as embedder:
        os.environ["PENSTOCK_CACHE"] = f"{scratch}/cache"
        embedder.open()
        session = embedder.session
        assert session is not None
        session.run([rows[0][:8]])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

        def ours() -> np.ndarray:
            with ThreadPoolExecutor(embedder.workers) as pool:
                return np.concatenate(list(pool.map(lambda row: session.run([row]), rows)))

        if args.memory:
            start = time.perf_counter()
            ours()
            seconds = time.perf_counter() - start
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(f"{args.texts} texts of {args.tokens} tokens, {embedder.workers} at once: {seconds:.1f} s")
            print(f"peak {peak:.0f} MiB; {before:.0f} MiB before (the graph was built in this process)")
            record(f"peak of a text of {args.tokens} tokens", peak, "MiB", better="lower")
            return
        import torch
        from sentence_transformers import SentenceTransformer

        peer = SentenceTransformer(str(embedder.model), device="cpu")
        features = {
            "input_ids": torch.tensor(rows),
            "attention_mask": torch.ones((len(rows), args.tokens), dtype=torch.long),
        }

        def theirs() -> np.ndarray:
            with torch.inference_mode():
                return np.asarray(peer(dict(features))["sentence_embedding"])

        times: dict[str, list[float]] = {"penstock": [], "sentence-transformers": []}
        vectors = {}
        for _ in range(args.turns):
            for name, run in (("penstock", ours), ("sentence-transformers", theirs)):
                start = time.perf_counter()
                vectors[name] = run()
                times[name].append(time.perf_counter() - start)
    for name, seconds_of in times.items():
        print(f"{name}: {args.texts / min(seconds_of):.2f} texts/s of {args.tokens} tokens")
    worst = (vectors["penstock"] * vectors["sentence-transformers"]).sum(axis=1).min()
    ratio = min(times["sentence-transformers"]) / min(times["penstock"])
    print(f"ratio {ratio:.2f}, least cosine {worst:.6f}")
    record(f"ModernBERT-base, {args.tokens} tokens, against sentence-transformers", ratio, "x", bar=1.5)
    record("its least cosine", worst, bar=0.9999)


if __name__ == "__main__":
    main()
