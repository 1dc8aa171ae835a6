"""How fast the embedding model runs by itself: a bare ONNX Runtime loop over ideal batches, no pipeline around it.

    python benchmarks/embed_loop.py                     # its own Markdown-like corpus
    python benchmarks/embed_loop.py --files docs/       # text files cut into chunks of --tokens
    python benchmarks/embed_loop.py --batch-tokens 1024 2048 4096
    python benchmarks/embed_loop.py --int8 --files docs/       # beside the same model with `int8:` before its name

The limit printed beside it is what a plain matrix product of the model's shapes reaches on the same threads:
GFLOP/s are counted as 2 x weights of the dense layers x tokens.
"""

from __future__ import annotations

import argparse
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from figures import record

if TYPE_CHECKING:
    from penstock.embedders.onnx import OnnxEmbedder

_SYLLABLES = "ba con de el fer gra hy in jus ko lan mo nor op pre qui re sta tion un ver wa xe yo ze"
_COMMON = "the of and to a in is for that with on as are by this from be or an it not can will at which"
SYLLABLES, COMMON = _SYLLABLES.split(), _COMMON.split()


def markdown(count: int, seed: int = 0, most: int = 320) -> Iterator[str]:
    """Markdown-like texts of varied length, the same for a seed everywhere."""
    chance = random.Random(seed)
    words = COMMON * 6 + ["".join(chance.choices(SYLLABLES, k=chance.randint(1, 4))) for _ in range(3000)]

    def sentence(n: int) -> str:
        return " ".join(chance.choices(words, k=n)).capitalize() + chance.choice([".", ".", ".", "?", ":"])

    for _ in range(count):
        left, parts = int(most * chance.betavariate(4, 2)) + 1, []
        while left > 0:
            n = min(left, chance.randint(4, 40))
            left -= n
            kind = chance.random()
            if kind < 0.15:
                parts.append("#" * chance.randint(1, 4) + " " + sentence(min(n, 6)))
            elif kind < 0.35:
                parts.append("\n".join(f"- {sentence(6)}" for _ in range(max(1, n // 6))))
            elif kind < 0.45:
                parts.append(
                    f"```python\nresult = {chance.choice(words)}(key={n}, path='/{chance.choice(words)}')\n```"
                )
            else:
                parts.append(f"{sentence(n)} See [{chance.choice(words)}](https://example.org/{n}).")
        yield "\n\n".join(parts)


def bare_loop(token_id_lists: Sequence[Sequence[int]], model: OnnxEmbedder, batch_tokens: int | None = None) -> float:
    """Seconds that the open model takes for these content ids, all sorted by length and cut by tokens."""
    from penstock.embedders.onnx import batches

    tokenizer, session = model.tokenizer, model.session
    assert tokenizer is not None
    assert session is not None
    rows = [[*tokenizer.prefix, *ids, *tokenizer.suffix] for ids in token_id_lists]
    todo = list(batches([len(row) for row in rows], batch_tokens or model.batch_tokens))
    todo.reverse()
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                if not todo:
                    return
                batch = todo.pop()
            session.run([rows[i] for i in batch])

    return _together(work, model.workers)


def _together(work: Callable[[], None], count: int) -> float:
    threads = [threading.Thread(target=work) for _ in range(count)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - start


class Likeness(NamedTuple):
    """Agreement of rounded vectors with exact ones."""

    median: float
    least: float
    """Cosines."""
    same: float
    """Share of a text's ten nearest that are the same."""


def likeness(ids: Sequence[Sequence[int]], model: OnnxEmbedder, rounded: OnnxEmbedder) -> Likeness:
    """Compare the vectors of the two models for the same texts."""
    import numpy as np

    from penstock.core.records import Chunk

    chunks = [Chunk(f"{i:032}", "memory://", i, "", (0, 0), tokens=row) for i, row in enumerate(ids)]
    exact, near = (np.stack([vector.values for vector in by.embed(chunks)]) for by in (model, rounded))
    cosines = (exact * near).sum(axis=1)
    first, second = (np.argsort(2 * np.eye(len(of)) - of @ of.T)[:, :10] for of in (exact, near))
    same = np.mean([len({*a} & {*b}) / 10 for a, b in zip(first, second, strict=True)])
    return Likeness(float(np.median(cosines)), float(cosines.min()), float(same))


def dense_weights(model: OnnxEmbedder) -> tuple[int, int]:
    """Weights of the dense layers, and the hidden size."""
    from penstock.embedders.graph import read_weights

    checkpoint = model.checkpoint
    assert checkpoint is not None
    matrices = [w for name, w in read_weights(checkpoint).items() if ".layer." in name and w.ndim == 2]
    return sum(w.size for w in matrices), checkpoint.hidden


def matrix_limit(hidden: int, threads: int, tokens: int = 1024, seconds: float = 1.0) -> float:
    """GFLOP/s of ONNX Runtime's bare matrix product, (tokens, hidden) x (hidden, 4 hidden), one call a thread."""
    import numpy as np
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    weight = np.random.default_rng(0).standard_normal((hidden, 4 * hidden), np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "limit",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, hidden])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 4 * hidden])],
        [numpy_helper.from_array(weight, "w")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    x = np.ones((tokens, hidden), np.float32)
    counts: list[int] = []

    def work() -> None:
        end, count = time.perf_counter() + seconds, 0
        while time.perf_counter() < end:
            session.run(None, {"x": x})
            count += 1
        counts.append(count)

    took = _together(work, threads)
    return 2 * tokens * hidden * 4 * hidden * sum(counts) / took / 1e9


def rss_mib() -> float:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # Not Linux.
        return float("nan")
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or hub id; the default model if not given")
    parser.add_argument("--int8", action="store_true", help="the model in 8 bits, too")
    parser.add_argument("--chunks", type=int, default=300, help="chunks of the corpus made here (300)")
    parser.add_argument("--files", type=Path, help="a folder of text files to embed instead")
    parser.add_argument("--tokens", type=int, default=254, help="most tokens a chunk (254)")
    parser.add_argument("--batch-tokens", type=int, nargs="+", default=[1024, 2048], help="batch sizes to compare")
    parser.add_argument("--rounds", type=int, default=2, help="interleaved rounds; the best of each is printed (2)")
    options = parser.parse_args()

    from penstock.embedders.onnx import OnnxEmbedder

    before = rss_mib()
    with OnnxEmbedder(options.model) as model, OnnxEmbedder(options.model, exact=False) as rounded:
        model.open()
        if options.int8:
            rounded.open()
        tokenizer = model.tokenizer
        assert tokenizer is not None
        if options.files:
            texts = [path.read_text("utf-8", "replace") for path in sorted(options.files.rglob("*")) if path.is_file()]
        else:
            texts = list(markdown(options.chunks))
        most = min(options.tokens, tokenizer.max_tokens)
        ids = [row[at : at + most] for row in tokenizer.encode(texts) for at in range(0, len(row), most)]
        ids = ids[: options.chunks]
        tokens = sum(map(len, ids)) + len(ids) * (len(tokenizer.prefix) + len(tokenizer.suffix))
        weights, hidden = dense_weights(model)
        models = {"": model, "int8:": rounded} if options.int8 else {"": model}
        for one in models.values():
            bare_loop(ids[:32], one)
        best: dict[tuple[str, int], float] = {}
        limit = 0.0
        for _ in range(options.rounds):
            limit = max(limit, matrix_limit(hidden, model.workers))
            for size in options.batch_tokens:
                for name, one in models.items():
                    best[name, size] = min(best.get((name, size), float("inf")), bare_loop(ids, one, size))
        print(f"{model!r}: {len(ids)} chunks, {tokens / len(ids):.0f} tokens each, {model.workers} threads")
        print(f"bare matrix product: {limit:.0f} GFLOP/s; RSS {before:.0f} MiB before, {rss_mib():.0f} MiB after")
        print(f"{'batch tokens':>12} {'chunks/s':>9} {'tokens/s':>9} {'GFLOP/s':>8} {'of the limit':>12}")
        texts_name = options.files.resolve().name if options.files else "drawn texts"
        corpus = f"at most {options.chunks} chunks of {texts_name}"
        for (name, size), took in best.items():
            rate = 2 * weights * tokens / took / 1e9
            record(f"{name} {corpus}, {size} tokens a batch: rate".lstrip(), len(ids) / took, "chunks/s")
            record(f"{name} {corpus}, {size} tokens a batch: of a bare matrix product".lstrip(), rate / limit)
            print(
                f"{f'{name} {size}':>12} {len(ids) / took:9.1f} {tokens / took:9.0f} {rate:8.0f} {rate / limit:12.0%}"
            )
        if options.int8:
            size = options.batch_tokens[0]
            faster, near = best["", size] / best["int8:", size], likeness(ids, model, rounded)
            print(
                f"int8: / exact {faster:.2f}; cosine {near.median:.4f}, at least {near.least:.4f};"
                f" of the ten nearest {near.same:.1%} are the same"
            )
            record(f"int8 / exact, {corpus}", faster)
            record(f"int8 cosine, {corpus}: median", near.median)
            record(f"int8 cosine, {corpus}: least", near.least)
            record(f"int8 of the ten nearest the same, {corpus}", 100 * near.same, "%")


if __name__ == "__main__":
    main()
