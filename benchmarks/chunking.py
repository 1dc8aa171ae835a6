"""How fast text is cut into chunks: bare tokenization of 32 kB blocks against chunks of so many tokens or characters;
how well these are filled, and how many of them an edit changes.

    python benchmarks/chunking.py                  # 4 MB of the benchmarks' own Markdown
    python benchmarks/chunking.py --files docs/    # Markdown files of your own
    python benchmarks/chunking.py --mb 16 --repeat 5
    python benchmarks/chunking.py --edits 1000     # more random edits

All ways run in turn, --repeat times; the table has each way's best. `bare` is the share of bare tokenization that is
reached, by wall clock and by CPU time. The tokenizer is the default model's; RAYON_NUM_THREADS
says how many threads it uses. A chunk's fill is what it has of its size, or of the tokens that the model takes if that
is more; the bar, from 1 MB on, is 0.75 without overlap. An edit inserts, removes or replaces 1 to 200 characters
anywhere in a document of 16 kB; counted are the chunks whose text is new.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from corpus import Writer
from figures import MISSED, record

from penstock.chunkers.sizes import Chunking
from penstock.chunkers.text import TextChunker
from penstock.core.records import Block, Piece
from penstock.embedders.onnx import OnnxEmbedder
from penstock.parsers.markdown import outlined

BLOCK = 32_768
DOCUMENT = 16_384
FILL = 0.75
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


def parsed(text: str) -> list[Block]:
    return list(outlined(iter([text[at : at + BLOCK] for at in range(0, len(text), BLOCK)])))


def fill(how: Chunking, pieces: Sequence[Piece], most: int) -> float:
    """On average."""
    size, unit, _ = how
    tokens = [len(piece.tokens or ()) / (size if unit == "tokens" else most) for piece in pieces]
    shares = [len(piece.text) / size for piece in pieces] if unit == "characters" else tokens
    return statistics.mean(map(max, tokens, shares))


def changed(chunker: TextChunker, documents: Sequence[str], edits: int) -> list[int]:
    """Chunks that are new after each of so many edits, fewest first."""
    draw = random.Random(1)
    counts = []
    for _ in range(edits):
        document = draw.choice(documents)
        at, length = draw.randrange(len(document)), draw.choice((1, 20, 200))
        new = " ".join(draw.choices(document.split(), k=length))[:length]
        removed, inserted = draw.choice(((0, new), (length, ""), (length, new)))
        edited = document[:at] + inserted + document[at + removed :]
        before, after = ({piece.text for piece in chunker(parsed(text))} for text in (document, edited))
        counts.append(len(after - before))
    return sorted(counts)


def ways(text: str, model: OnnxEmbedder) -> Iterator[tuple[str, Callable[[], list[Piece]]]]:
    tokenizer = model.tokenizer
    assert tokenizer is not None
    blocks = parsed(text)  # parsing itself is not what is measured here

    def bare() -> list[Piece]:
        tokenizer.encode_uncached([text[at : at + BLOCK] for at in range(0, len(text), BLOCK)])
        return []

    yield "encode_batch_fast", bare
    for how in WAYS:
        chunker = TextChunker(*how, tokenizer=tokenizer)
        yield str(how), lambda chunker=chunker: list(chunker(blocks))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=Path, help="a folder of Markdown files (a made corpus)")
    parser.add_argument("--mb", type=float, default=4, help="how much of it (4)")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each way (3)")
    parser.add_argument("--edits", type=int, default=200, help="edits for each way of cutting (200)")
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
        assert model.tokenizer is not None
        most = model.tokenizer.max_tokens
        documents = [text[at : at + DOCUMENT] for at in range(0, len(text), DOCUMENT)]
        chunkers = {str(how): TextChunker(*how, tokenizer=model.tokenizer) for how in WAYS}
        edited = {name: changed(one, documents, options.edits) for name, one in chunkers.items()}
    bare = best["encode_batch_fast"]
    corpus_name = f"{options.mb:g} MB of " + (options.files.resolve().name if options.files else "drawn Markdown")
    print(
        f"{size:.1f} MB of Markdown, best of {options.repeat}; chunks that are new after each of {options.edits} edits"
    )
    print(
        f"{'':28}{'MB/s':>8}{'bare':>7}{'MB/CPU-s':>10}{'bare':>7}{'chunks':>9}{'most':>6}{'fill':>7}"
        f"{'new: mean':>11}{'p95':>5}"
    )
    missed = False
    for name, (wall, cpu, pieces) in best.items():
        row = f"{name:28}{size / wall:8.2f}{bare.wall / wall:7.2f}{size / cpu:10.2f}{bare.cpu / cpu:7.2f}"
        if pieces:
            how, counts = chunkers[name].chunking, edited[name]
            lengths = [len(piece.text if how.unit == "characters" else piece.tokens or ()) for piece in pieces]
            share, p95 = fill(how, pieces, most), counts[len(counts) * 95 // 100]
            row += f"{len(pieces):9}{max(lengths):6}{share:7.3f}{statistics.mean(counts):11.2f}{p95:5}"
            record(f"{name}, {corpus_name}: mean fill", share)
            record(f"{name}, {corpus_name}: chunks that an edit changes", statistics.mean(counts), better="lower")
            missed = missed or (not how.overlap and share < FILL)
        print(row)
        record(f"{name}, {corpus_name}: rate", size / wall, "MB/s")
        record(f"{name}, {corpus_name}: of bare tokenization", bare.wall / wall)
        record(f"{name}, {corpus_name}: of bare tokenization by CPU time", bare.cpu / cpu)
    if missed and size >= 1:
        print(f"chunks without overlap are filled by less than {FILL}")
        return MISSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
