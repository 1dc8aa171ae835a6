"""How fast the pipeline is by itself: everything but a model and a store.

    python benchmarks/throughput.py              # 160 MB in characters, 32 MB in tokens, three rounds
    python benchmarks/throughput.py --mb 8 --rounds 1

Files are listed, opened, detected, parsed, chunked, named, packed, "embedded" by a table look-up, "written" to a sink
that only counts, and recorded in a ledger. In tokens it is held against a bare `encode_batch_fast` over the same text
in blocks of 32 kB on as many threads. Bars: 15 MB/s in characters; half the bare tokenizer's rate in tokens.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from corpus import make
from figures import record

from penstock import OnnxEmbedder, Pipeline
from penstock.testing.embedders import NothingEmbedder
from penstock.testing.sinks import NothingSink

BAR_CHARACTERS, BAR_TOKENS = 15.0, 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=float, default=160.0, help="size of the corpus in MB; tokens take a fifth of it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", default="64MiB")
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # threads are ours, on both sides
    gc.set_threshold(50_000, 20, 50)  # as the command line does
    model = OnnxEmbedder()
    model.open()
    tokenizer: Any = model.tokenizer
    model.close()
    threads = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        large, small = Path(folder, "large"), Path(folder, "small")
        make(large, int(options.mb * 1e6))
        make(small, int(options.mb * 1e6 / 5))
        blocks = [text[at : at + 32_768] for text in texts(small) for at in range(0, len(text), 32_768)]
        rates: dict[str, list[float]] = {"characters": [], "tokens": [], "bare tokenizer": []}
        for _ in range(options.rounds):
            rates["characters"].append(ingest(large, NothingEmbedder(), "1000 characters", options.memory))
            rates["tokens"].append(ingest(small, NothingEmbedder(tokenizer=tokenizer), "254 tokens", options.memory))
            rates["bare tokenizer"].append(bare(blocks, tokenizer, threads))
    print(f"{'':16}{'MB/s':>8}   rounds")
    for name, seen in rates.items():
        print(f"{name:16}{statistics.median(seen):>8.2f}   {' '.join(f'{rate:.2f}' for rate in seen)}")
    ratio = statistics.median(a / b for a, b in zip(rates["tokens"], rates["bare tokenizer"], strict=True))
    print(f"\ncharacters: {statistics.median(rates['characters']):.1f} MB/s (bar: {BAR_CHARACTERS})")
    print(f"tokens / bare tokenizer: {ratio:.2f} (bar: {BAR_TOKENS})")
    record(f"characters over {options.mb:g} MB", statistics.median(rates["characters"]), "MB/s", bar=BAR_CHARACTERS)
    record(f"tokens over {options.mb / 5:g} MB", statistics.median(rates["tokens"]), "MB/s")
    record(f"tokens / bare tokenizer over {options.mb / 5:g} MB", ratio, bar=BAR_TOKENS)


def texts(folder: Path) -> list[str]:
    return [path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*.md"))]


def ingest(docs: Path, embedder: NothingEmbedder, chunk: str, memory: str) -> float:
    with tempfile.TemporaryDirectory() as state:
        began = time.perf_counter()
        report = Pipeline(
            docs, into=NothingSink(), model=embedder, chunk=chunk, memory=memory, state=Path(state, "ledger.db")
        ).run()
        seconds = time.perf_counter() - began
    assert report.ok
    return report.bytes / seconds / 1e6


def bare(blocks: list[str], tokenizer: Any, threads: int) -> float:
    todo = list(blocks)
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                if not todo:
                    return
                block = todo.pop()
            tokenizer.encode_uncached([block])

    size = sum(len(block.encode()) for block in blocks)
    workers = [threading.Thread(target=work) for _ in range(threads)]
    began = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return size / (time.perf_counter() - began) / 1e6


if __name__ == "__main__":
    sys.exit(main())
