"""What fewer bits of token vectors, and fewer vectors, keep of a search, and what they take on disk.

    python benchmarks/precision.py                                  # this repository's documentation
    python benchmarks/precision.py --folder ~/texts --passages 1000
    python benchmarks/precision.py --passages 40 --questions 10 --stores sqlite

Top-10 agreement is with an exact search of the fp32 vectors, over questions that are sentences of other passages.
The vectors are the default model's token vectors with a random projection to 128 dimensions. `bits, then fp32`: of the
30 best by bits the 10 best by fp32, which then have to be kept elsewhere. Disk is all that the store keeps, texts and
pooled vectors included, against the same in fp32.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from figures import record
from maxsim import K, agreement, texts
from token_vectors import late

from penstock.core.precision import FP32, PRECISIONS, encoded
from penstock.core.records import VECTOR, Chunk, MultiVector, Point
from penstock.core.schema import Manifest, VectorSpec, single
from penstock.embedders.names import from_name
from penstock.embedders.token_pooling import pooled
from penstock.registry import SINKS, find
from penstock.sinks import maxsim

AGREEMENT = {"fp16": 0.99, "int8": 0.97, "pool 2": 0.90}
DISK = {"fp16": 0.52, "int8": 0.27, "pool 2": 0.52}
SHORTLIST = 30
STORES = {"sqlite": "sqlite://{}/a.db", "lance": "lance://{}", "parquet": "parquet://{}", "delta": "delta://{}/a"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parents[1] / "docs", help="of Markdown")
    parser.add_argument("--passages", type=int, default=300)
    parser.add_argument("--questions", type=int, default=60)
    parser.add_argument("--characters", type=int, default=900, help="of a passage (900)")
    parser.add_argument("--stores", nargs="+", choices=STORES, default=list(STORES))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        passages, questions = texts(options.folder, options.passages, options.questions, options.characters)
        with from_name(f"{late(Path(scratch))}?length=512") as model:
            chunks = [Chunk(f"{i:032}", "memory://", i, text, (0, len(text))) for i, text in enumerate(passages)]
            documents: list[Any] = []
            for at in range(0, len(chunks), 64):
                documents += [vector.values for vector in model.embed(chunks[at : at + 64])]
            queries = [MultiVector(vector.values) for vector in model.query(questions)]
    mean = sum(map(len, documents)) / len(documents)
    print(f"{len(documents)} passages of {mean:.0f} vectors, {len(queries)} questions")
    kept = {name: [encoded(each, name) for each in documents] for name in PRECISIONS}
    kept |= {"pool 2": [pooled(each, 2) for each in documents]}
    kept |= {"pool 2, int8": [encoded(each, "int8") for each in kept["pool 2"]]}
    agreements(kept, queries, f"of {options.characters} characters")
    for store in options.stores:
        disk(store, kept, chunks)


def ranked(documents: Sequence[Any], queries: Sequence[MultiVector]) -> list[list[int]]:
    flat, counts = np.concatenate(documents), [len(each) for each in documents]
    scores = (maxsim.Query(query, "cosine", "memory://").scores(flat, counts) for query in queries)
    return [np.argsort(-one, kind="stable").tolist() for one in scores]


def agreements(kept: dict[str, list[Any]], queries: Sequence[MultiVector], passages: str) -> None:
    rankings = {name: ranked(documents, queries) for name, documents in kept.items()}
    exact = [set(one[:K]) for one in rankings[FP32]]
    found = {name: [set(one[:K]) for one in ranking] for name, ranking in rankings.items() if name != FP32}
    found["bits, then fp32"] = [
        set(sorted(few[:SHORTLIST], key=whole.index)[:K])
        for few, whole in zip(rankings["bits"], rankings[FP32], strict=True)
    ]
    for name, sets in found.items():
        share, bar = agreement(exact, sets), AGREEMENT.get(name)
        print(f"{name}: top-{K} agreement {share:.3f}" + (f" (bar: {bar})" if bar else ""))
        record(f"{name}: top-{K} agreement, {passages}", share, bar=bar)


def disk(store: str, kept: dict[str, list[Any]], chunks: Sequence[Chunk]) -> None:
    sizes = {}
    for name, documents in kept.items():
        precision = "int8" if name.endswith("int8") else name if name in PRECISIONS else FP32
        spec = VectorSpec("late", kept[FP32][0].shape[1], "f" * 32, kind="MultiVector")
        with tempfile.TemporaryDirectory() as scratch:
            with find(SINKS, store)(STORES[store].format(scratch)) as sink:
                sink.open(Manifest(single(replace(spec, precision=precision))))
                points = [
                    Point(chunk, {VECTOR: MultiVector(values)}) for chunk, values in zip(chunks, documents, strict=True)
                ]
                for at in range(0, len(points), 256):
                    sink.write(points[at : at + 256])
                sink.flush()
                sink.maintain()
            sizes[name] = sum(path.stat().st_size for path in Path(scratch).rglob("*") if path.is_file())
    for name, size in sizes.items():
        if name != FP32:
            share, bar = size / sizes[FP32], DISK.get(name)
            print(f"{store}, {name}: {share:.1%} of the bytes on disk" + (f" (bar: {bar:.0%})" if bar else ""))
            record(f"{store}, {name}: bytes / fp32", share, bar=bar, better="lower")


if __name__ == "__main__":
    main()
