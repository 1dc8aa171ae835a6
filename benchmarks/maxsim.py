"""How fast MaxSim is by ourselves, and how much a shortlist by pooled vectors loses.

    python benchmarks/maxsim.py                                  # 600 passages of this repository's documentation
    python benchmarks/maxsim.py --folder ~/texts --passages 3000
    python benchmarks/maxsim.py --passages 60 --questions 10 --rounds 1

Scores are held against a bare matrix product of the same floats in numpy: CPU time of one thread each, unless
OPENBLAS_NUM_THREADS says otherwise, and then seconds. The searches are those of SQLite: of a shortlist, and with
`?exact`. The vectors are the default model's token vectors with a random projection to 128 dimensions.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from figures import record
from token_vectors import late

from penstock.core.precision import PRECISIONS, encoded
from penstock.core.records import VECTOR, Chunk, MultiVector, Point
from penstock.core.schema import Manifest, VectorSpec, single
from penstock.embedders.names import from_name
from penstock.sinks import maxsim
from penstock.sinks.sqlite import SqliteIndex, SqliteSink

BAR_PRODUCT, BAR_RECALL, BAR_TIME = 0.6, 0.98, 0.25
K = 10
THREADS = "OPENBLAS_NUM_THREADS"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parents[1] / "docs", help="of Markdown")
    parser.add_argument("--passages", type=int, default=600)
    parser.add_argument("--questions", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if THREADS not in os.environ:  # it is read as numpy is loaded
        os.environ[THREADS] = "1"
        os.execv(sys.executable, [sys.executable, *sys.argv])
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        passages, questions = texts(options.folder, options.passages, options.questions)
        with from_name(late(folder)) as model:
            chunks = [Chunk(f"{i:032}", "memory://", i, text, (0, len(text))) for i, text in enumerate(passages)]
            documents: list[Any] = []
            for at in range(0, len(chunks), 64):
                documents += [vector.values for vector in model.embed(chunks[at : at + 64])]
            queries = [vector.values for vector in model.query(questions)]
        products(np.concatenate(documents), [len(each) for each in documents], queries[0], options.rounds)
        shortlists(folder, chunks, documents, queries)


def texts(folder: Path, passages: int, questions: int, characters: int = 300) -> tuple[list[str], list[str]]:
    """Passages, and sentences of other ones as questions."""
    whole = "\n".join(path.read_text("utf-8", "ignore") for path in sorted(folder.rglob("*.md")))
    pieces = [whole[at : at + characters] for at in range(0, len(whole), characters)]
    pieces = list(dict.fromkeys(piece for piece in pieces if sum(map(str.isalpha, piece)) > 0.6 * characters))
    random.Random(0).shuffle(pieces)
    if len(pieces) < 2 * questions:
        raise SystemExit(f"{folder} has too little text: {len(pieces)} passages of {characters} characters")
    passages = min(passages, len(pieces) - questions)
    sentences = (re.split(r"(?<=[.?!])\s", piece) for piece in pieces[passages:])
    return pieces[:passages], [max(each, key=len)[:110] for each in sentences][:questions]


def seconds(work: Callable[[], object]) -> float:
    clock = time.thread_time if os.environ[THREADS] == "1" else time.perf_counter
    began = clock()
    work()
    return clock() - began


def products(flat: Any, counts: list[int], query: Any, rounds: int) -> None:
    repeat = max(1, 200_000 // len(flat))
    flat, counts = np.tile(flat, (repeat, 1)), counts * repeat
    columns = np.ascontiguousarray(query.T)
    kinds = {name: encoded(flat, name) for name in PRECISIONS}
    unit = {name: maxsim.known_unit(maxsim.packed(values), name) for name, values in kinds.items()}
    for metric in ("dot", "cosine"):
        ask = maxsim.Query(MultiVector(query), metric, "memory://")
        for name, values in kinds.items():
            pairs = [
                (
                    seconds(lambda: flat @ columns),
                    seconds(lambda n=name, v=values, a=ask: a.scores(v, counts, unit=unit[n])),  # type: ignore[misc]
                )
                for _ in range(rounds)
            ]
            ratio = statistics.median(bare / ours for bare, ours in pairs)
            print(f"{name}, {metric}: {ratio:.2f} of a bare matrix product (bar: {BAR_PRODUCT})")
            record(f"MaxSim of {name}, {metric} / bare product", ratio, bar=BAR_PRODUCT)


def agreement(wanted: Sequence[set[int]], found: Sequence[set[int]]) -> float:
    return statistics.mean(len(one & other) / len(one) for one, other in zip(wanted, found, strict=True))


def shortlists(folder: Path, chunks: list[Chunk], documents: list[Any], queries: list[Any]) -> None:
    url = f"sqlite://{folder}/late.db"
    spec = VectorSpec("late", documents[0].shape[1], "f" * 32, kind="MultiVector")
    with SqliteSink(url) as sink, SqliteIndex(url) as index, SqliteIndex(f"{url}?exact") as exact:
        sink.open(Manifest(single(spec)))
        for at in range(0, len(chunks), 256):
            some = zip(chunks[at : at + 256], documents[at : at + 256], strict=True)
            sink.write([Point(chunk, {VECTOR: MultiVector(values)}) for chunk, values in some])
        index.open()
        exact.open()
        compared = maxsim.shortlist(len(chunks), K)
        found: list[tuple[set[int], set[int], float]] = []
        for query in queries:
            results, times = [], []
            for one in (index, exact):
                began = time.perf_counter()
                results.append({hit.chunk.ordinal for hit in one.search(MultiVector(query), K)})
                times.append(time.perf_counter() - began)
            found.append((results[0], results[1], times[0] / times[1]))
    recall = agreement([whole for _, whole, _ in found], [few for few, _, _ in found])
    share = statistics.median(ratio for _, _, ratio in found)
    print(f"shortlist of {compared} of {len(chunks)}: recall@{K} {recall:.3f} (bar: {BAR_RECALL})")
    print(f"its time: {share:.0%} of that of comparing all (bar: {BAR_TIME:.0%})")
    record(f"recall@{K} of a shortlist of {compared} of {len(chunks)}", recall, bar=BAR_RECALL)
    record("time of a shortlist / of all", share, bar=BAR_TIME, better="lower")


if __name__ == "__main__":
    main()
