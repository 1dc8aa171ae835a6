"""How fast text is cut into chunks: bare tokenization of 32 kB blocks against chunks of so many tokens or characters.

    python benchmarks/chunking.py                  # 4 MB of the benchmarks' own Markdown
    python benchmarks/chunking.py --files docs/    # Markdown files of your own
    python benchmarks/chunking.py --mb 16 --repeat 5

All ways run in turn, --repeat times; the table has each way's best. `bare` is the share of bare tokenization that is
reached, by wall clock and by CPU time. The tokenizer is the default model's; RAYON_NUM_THREADS
says how many threads it uses.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from corpus import Writer
from figures import record

from penstock.chunkers.sizes import Chunking
from penstock.chunkers.text import TextChunker
from penstock.core.records import Piece
from penstock.embedders.onnx import OnnxEmbedder
from penstock.parsers.markdown import outlined

BLOCK = 32_768
WAYS = [
    Chunking(128),
    Chunking(256),
    Chunking(510),
    Chunking(256, "tokens", 32),
    Chunking(1000, "characters"),
    Chunking(1000, "characters", 100),
]


class Result(NamedTuple):
    wall: float
    cpu: float
    pieces: list[Piece]


def timed(way: Callable[[], list[Piece]]) -> Result:
    wall, cpu = time.perf_counter(), time.process_time()
    pieces = way()
    return Result(time.perf_counter() - wall, time.process_time() - cpu, pieces)


def corpus(files: Path | None, size: int) -> str:
    if files is None:
        return b"".join(Writer().pieces("chunking", size)).decode()
    return "\n\n".join(path.read_text(errors="replace") for path in sorted(files.rglob("*.md")))[:size]


def ways(text: str, model: OnnxEmbedder) -> Iterator[tuple[str, Callable[[], list[Piece]]]]:
    tokenizer = model.tokenizer
    assert tokenizer is not None
    # Blocks as a parser gives them: parsing itself is not what is measured here.
    blocks = list(outlined(iter([text[at : at + BLOCK] for at in range(0, len(text), BLOCK)])))

    def bare() -> list[Piece]:
        tokenizer.encode_uncached([text[at : at + BLOCK] for at in range(0, len(text), BLOCK)])
        return []

    yield "encode_batch_fast", bare
    for how in WAYS:
        chunker = TextChunker(*how, tokenizer=tokenizer)
        yield str(how), lambda chunker=chunker: list(chunker(blocks))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=Path, help="a folder of Markdown files (a made corpus)")
    parser.add_argument("--mb", type=float, default=4, help="how much of it (4)")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each way (3)")
    options = parser.parse_args()
    text = corpus(options.files, int(options.mb * 1e6))
    if not text:
        parser.error(f"{options.files} has no Markdown files")
    size = len(text.encode()) / 1e6
    best: dict[str, Result] = {}
    with OnnxEmbedder(length=512) as model:
        model.open()
        for _ in range(options.repeat):
            for name, way in ways(text, model):
                new, old = timed(way), best.get(name)
                best[name] = Result(min(new.wall, old.wall), min(new.cpu, old.cpu), new.pieces) if old else new
    bare = best["encode_batch_fast"]
    corpus_name = f"{options.mb:g} MB of " + (options.files.resolve().name if options.files else "drawn Markdown")
    print(f"{size:.1f} MB of Markdown, best of {options.repeat}")
    print(f"{'':28}{'MB/s':>8}{'bare':>7}{'MB/CPU-s':>10}{'bare':>7}{'chunks':>9}{'mean':>7}{'most':>6}")
    for name, (wall, cpu, pieces) in best.items():
        row = f"{name:28}{size / wall:8.2f}{bare.wall / wall:7.2f}{size / cpu:10.2f}{bare.cpu / cpu:7.2f}"
        if pieces:
            fill = [len(piece.text if piece.tokens is None else piece.tokens) for piece in pieces]
            row += f"{len(fill):9}{sum(fill) / len(fill):7.0f}{max(fill):6}"
        print(row)
        record(f"{name}, {corpus_name}: rate", size / wall, "MB/s")
        record(f"{name}, {corpus_name}: of bare tokenization", bare.wall / wall)
        record(f"{name}, {corpus_name}: of bare tokenization by CPU time", bare.cpu / cpu)


if __name__ == "__main__":
    main()
