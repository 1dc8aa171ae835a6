"""Cost of the pipeline beside the model: a whole ingest against a bare loop over the same token ids.

    python benchmarks/overhead.py                # 1 MB of Markdown, three rounds of each, in turn
    python benchmarks/overhead.py --mb 0.1 --rounds 1

Both start with the model loaded. The ingest reads, detects, parses, chunks, names, embeds, writes to a sink that does
nothing and keeps its ledger; the loop gets the finished ids, all sorted at once, and throws its vectors away.
The bar: at least 0.95 of the loop's rate.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from corpus import make
from embed_loop import bare_loop
from figures import record

from penstock import OnnxEmbedder, Pipeline, TextChunker
from penstock.core.records import Block, Upsert
from penstock.parsers import Parsers
from penstock.sources import from_url
from penstock.testing.sinks import NothingSink

BAR = 0.95


class Loaded(OnnxEmbedder):
    """Stays loaded from one run to the next."""

    def close(self) -> None: ...


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", help="default: the default model")
    options = parser.parse_args()
    model = Loaded(options.model)
    model.open()
    with tempfile.TemporaryDirectory() as folder:
        docs = Path(folder, "docs")
        make(docs, int(options.mb * 1e6))
        ids = token_ids(docs, model)
        tokens = sum(map(len, ids))
        print(f"{len(ids)} chunks, {tokens} tokens, {model.workers} threads")
        loops, runs = [], []
        for number in range(options.rounds):
            loops.append(bare_loop(ids, model))
            began = time.perf_counter()
            report = Pipeline(docs, into=NothingSink(), model=model, state=Path(folder, f"{number}.db")).run()
            runs.append(time.perf_counter() - began)
            assert report.embedded == len(ids), "the pipeline cut other chunks than the loop was given"
            print(f"round {number + 1}: bare loop {tokens / loops[-1]:,.0f} tokens/s, ingest {tokens / runs[-1]:,.0f}")
    ratios = [loop / run for loop, run in zip(loops, runs, strict=True)]
    print(f"\n{'':14}{'chunks/s':>10}{'tokens/s':>10}")
    for name, seconds in (("bare loop", loops), ("whole ingest", runs)):
        middle = statistics.median(seconds)
        print(f"{name:14}{len(ids) / middle:>10.1f}{tokens / middle:>10,.0f}")
        record(f"{name} over {options.mb:g} MB", tokens / middle, "tokens/s")
    print(f"\ningest / loop: {statistics.median(ratios):.3f} (bar: {BAR})")
    record(f"ingest / bare loop over {options.mb:g} MB", statistics.median(ratios), bar=BAR)


def token_ids(docs: Path, model: OnnxEmbedder) -> list[list[int]]:
    assert model.tokenizer is not None
    chunker = TextChunker(min(256, model.tokenizer.max_tokens), tokenizer=model.tokenizer)
    ids = []
    with Parsers() as parsers:
        for change in from_url(docs).changes():
            if isinstance(change, Upsert):
                blocks = (block for block in parsers.parse(change.item).blocks if isinstance(block, Block))
                ids += [list(piece.tokens or ()) for piece in chunker(blocks)]
    return ids


if __name__ == "__main__":
    main()
