"""Time of a search in a large index, alone, by HTTP and among many clients.

    python benchmarks/serve.py                       # 100,000 vectors
    python benchmarks/serve.py --vectors 1000000

Vectors of 512 dimensions around a few thousand centres, as those of images are, in LanceDB with the ANN index that a
run builds at its end; queries are fresh ones around the same centres. No model is involved: by HTTP a search is asked
by vector, and in the crowd by words, with an embedder that does nothing. Recall is measured against comparing with all.
Bar: a median below 15 ms in a million vectors, and 200 clients at once without an error other than 429.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from figures import record

from penstock.compose import open_index
from penstock.core.records import VECTOR, Chunk, Dense, Point
from penstock.core.schema import Manifest, single
from penstock.jobs.search import OpenIndex
from penstock.sinks.lance import LanceIndex, LanceSink
from penstock.support.process import configure
from penstock.testing.embedders import NothingEmbedder

CENTRES, K = 4096, 20
BAR = 15.0
"""Milliseconds of the median search."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--each", type=int, default=10, help="requests that each of the clients makes")
    parser.add_argument("--folder", type=Path, help="keep the index here, and use it if it is there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = options.folder or Path(name)
        url = f"lance://{folder}/serve-{options.vectors}-{options.dim}"
        clouds = Clouds(options.dim)
        build(url, clouds, options.vectors)
        queries = clouds.draw(options.queries, seed=1 << 40)
        print(f"\n{'':34}{'p50 ms':>9}{'p99 ms':>9}")
        index_alone(url, clouds, queries, options.vectors)
        with_server(url, queries, options)


class Clouds:
    """Points around centres, the same for the same seed."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._centres = np.random.default_rng(0).standard_normal((CENTRES, dim), np.float32)

    def draw(self, count: int, seed: int) -> Any:
        random = np.random.default_rng(seed)
        around = self._centres[random.integers(0, CENTRES, count)]
        vectors = around + 0.8 * random.standard_normal((count, self.dim), np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def pages(self, count: int) -> Iterator[Any]:
        for start in range(0, count, 1024):
            yield self.draw(min(1024, count - start), seed=start + 1)


def build(url: str, clouds: Clouds, count: int) -> None:
    began = time.perf_counter()
    sink = LanceSink(url)
    if sink.manifest() is not None:
        return
    with sink:
        sink.open(Manifest(single(NothingEmbedder(clouds.dim).describe())))
        number = 0
        for page in clouds.pages(count):
            points = []
            for row in page:
                chunk = Chunk(f"{number:032x}", f"file:///images/{number}.jpg", 0, f"image {number}", (0, 0))
                points.append(Point(chunk, {VECTOR: Dense(row)}))
                number += 1
            sink.write(points)
        sink.flush()
        loaded = time.perf_counter() - began
        sink.maintain()
    indexed = time.perf_counter() - began - loaded
    print(f"{count:,} vectors loaded in {loaded:.0f} s, compacted and indexed in {indexed:.0f} s", flush=True)


def row(what: str, seconds: Sequence[float], vectors: int, bar: float | None = None) -> None:
    p50 = statistics.median(seconds) * 1e3
    p99 = sorted(seconds)[min(len(seconds) - 1, round(0.99 * len(seconds)))] * 1e3
    print(f"{what:34}{p50:>9.1f}{p99:>9.1f}", flush=True)
    record(f"{what}, {vectors:,} vectors: p50", p50, "ms", bar=bar, better="lower")
    record(f"{what}, {vectors:,} vectors: p99", p99, "ms", better="lower")


def index_alone(url: str, clouds: Clouds, queries: Any, count: int) -> None:
    with LanceIndex(url) as index:
        index.open()
        seconds, answers = [], []
        for query in queries:
            began = time.perf_counter()
            hits = index.search(Dense(query), K)
            seconds.append(time.perf_counter() - began)
            answers.append({int(hit.chunk.id, 16) for hit in hits})
    row("search of the index", seconds[10:] or seconds, count, BAR)
    some = queries[:20]
    true = nearest(clouds, some, count)
    shares = [len(set(t.tolist()) & f) / len(t) for t, f in zip(true, answers[: len(some)], strict=True)]
    recall = statistics.mean(shares)
    print(f"{'':4}recall of the first 10: {recall:.1%}")
    record(f"recall of the first 10, {count:,} vectors", 100 * recall, "%")


def nearest(clouds: Clouds, queries: Any, count: int) -> Any:
    """Numbers of the true nearest 10, by comparing with all, a page at a time."""
    best, names = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    start = 0
    for page in clouds.pages(count):
        numbers = np.broadcast_to(np.arange(start, start + len(page)), (len(queries), len(page)))
        scores, names = np.hstack([best, queries @ page.T]), np.hstack([names, numbers])
        order = np.argsort(-scores, axis=1)[:, :10]
        best, names = np.take_along_axis(scores, order, 1), np.take_along_axis(names, order, 1)
        start += len(page)
    return names


def with_server(url: str, queries: Any, options: argparse.Namespace) -> None:
    process = multiprocessing.get_context("spawn")
    addresses = process.Queue()
    server = process.Process(target=run, args=(url, options.dim, addresses), daemon=True)
    server.start()
    at = addresses.get(timeout=120)
    vectors = options.vectors
    try:
        with httpx.Client(base_url=at, trust_env=False, timeout=60) as client:
            whole, inside = [], []
            for query in queries:
                began = time.perf_counter()
                answer = client.post("/v1/search", json={"vector": query.tolist(), "k": K})
                whole.append(time.perf_counter() - began)
                inside.append(answer.raise_for_status().json()["took"]["search"] / 1e3)
            row("by HTTP: the search", inside[10:] or inside, vectors)
            row("by HTTP: the whole request", whole[10:] or whole, vectors)
        statuses, seconds, wall = asyncio.run(crowd(at, options.clients, options.each))
        crowded = f"{options.clients} clients at once"
        row(crowded, seconds, vectors)
        counted = ", ".join(f"{count} x {status}" for status, count in sorted(statuses.items()))
        print(f"{'':4}{counted}; {sum(statuses.values()) / wall:,.0f} requests/s")
        errors = sum(count for status, count in statuses.items() if status not in (200, 429))
        record(f"{crowded}, {vectors:,} vectors: rate", sum(statuses.values()) / wall, "requests/s")
        record(f"{crowded}, {vectors:,} vectors: errors other than 429", errors, bar=0, better="lower")
    finally:
        server.terminate()
        server.join()


def opened(url: str, dim: int) -> OpenIndex:
    return open_index(url, NothingEmbedder(dim))


def run(url: str, dim: int, addresses: Any) -> None:
    from penstock.server.server import serve
    from penstock.server.settings import Settings

    configure(long=True, serves=True)  # as the command line does
    settings = Settings(port=0, drain=0.0, seconds=30.0)
    serve(url, settings, opener=lambda url: opened(url, dim), started=lambda _, at: addresses.put(at))


async def crowd(url: str, clients: int, each: int) -> tuple[Counter[int], list[float], float]:
    limits = httpx.Limits(max_connections=clients)
    statuses: Counter[int] = Counter()
    seconds: list[float] = []
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=60, trust_env=False) as client:

        async def one(number: int) -> None:
            for turn in range(each):
                began = time.perf_counter()
                answer = await client.post("/v1/search", json={"text": f"{number} {turn}", "k": K})
                seconds.append(time.perf_counter() - began)
                statuses[answer.status_code] += 1

        began = time.perf_counter()
        await asyncio.gather(*map(one, range(clients)))
        return statuses, seconds, time.perf_counter() - began


if __name__ == "__main__":
    main()
