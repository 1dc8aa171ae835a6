"""Milliseconds of a filtered search, of facets and of reading one point back, in a large index.

    python benchmarks/filters.py                                        # 1,000,000 points in the default store
    python benchmarks/filters.py --points 100000
    python benchmarks/filters.py --read-only --sinks lance parquet pgvector

Each of 100 departments has 1 % of the points, and each of 35 years 3 %. Vectors are those of serve.py. A search with a
filter is measured as the first one of its department, and as those that follow, with other queries. Recall is measured
against comparing with all points that pass. Bars: 1.5 times the unfiltered search with a recall of 98 %, facets of a
field within 100 ms, a point by its id within 20 ms. With --read-only nothing but the last is measured.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from figures import MISSED, record
from serve import Clouds

from penstock.compose import make_index, make_sink
from penstock.core.records import VECTOR, Chunk, Dense, Point
from penstock.core.schema import Manifest, single
from penstock.testing.embedders import NothingEmbedder
from penstock.testing.postgres import running

DEPARTMENTS, YEARS = 100, 35
K = 10
BATCH = 1024
SMALL = 100_000
"""With fewer points it is a trial: bars do not count."""
BAR_RATIO, BAR_RECALL, BAR_FACETS, BAR_READ = 1.5, 0.98, 100.0, 20.0


def metadata(number: int) -> dict[str, Any]:
    """Of a point; those of one department are all over the index."""
    return {"department": f"department {number * 7919 % DEPARTMENTS}", "year": 1990 + number % YEARS, "name": "a.md"}


def build(url: str, clouds: Clouds, count: int) -> None:
    began = time.perf_counter()
    with make_sink(url) as sink:
        sink.open(Manifest(single(NothingEmbedder(clouds.dim).describe())))
        number = 0
        for page in clouds.pages(count):
            points = []
            for vector in page:
                chunk = Chunk(
                    f"{number:032x}", f"file:///{number}", 0, f"text {number}", (0, 9), metadata=metadata(number)
                )
                points.append(Point(chunk, {VECTOR: Dense(vector)}))
                number += 1
            sink.write(points)
        sink.flush()
        written = time.perf_counter() - began
        if not url.startswith("pgvector:"):  # whose index of the vectors takes long, and says nothing of ids
            sink.maintain()
    print(
        f"{url.partition(':')[0]}: {count:,} points written in {written:.0f} s, maintained in "
        f"{time.perf_counter() - began - written:.0f} s",
        flush=True,
    )


def timed(calls: Sequence[Callable[[], Any]]) -> list[float]:
    seconds = []
    for call in calls:
        began = time.perf_counter()
        call()
        seconds.append(1e3 * (time.perf_counter() - began))
    return seconds


def row(what: str, milliseconds: Sequence[float], count: int, bar: float | None = None) -> float:
    p50 = statistics.median(milliseconds)
    print(f"{what:44}{p50:>9.1f}{max(milliseconds):>9.1f}", flush=True)
    record(f"{what}, {count:,} points: p50", p50, "ms", bar=bar, better="lower")
    return p50


def searches(url: str, clouds: Clouds, count: int, queries: Any) -> bool:
    print(f"\n{'':44}{'p50 ms':>9}{'max ms':>9}")
    with make_index(url) as index:
        index.open()

        def search(query: Any, where: Any = None) -> list[Any]:
            return index.search(Dense(query), K, where)

        def in_department(number: int) -> dict[str, Any]:
            return {"department": f"department {number}"}

        search(queries[0])
        free = row("search without a filter", timed([lambda q=q: search(q) for q in queries]), count)
        first = [lambda q=q, n=n: search(q, in_department(n)) for n, q in enumerate(queries[:20])]
        row("first search in a department (1 %)", timed(first), count)
        narrow = row("search in a department", timed([lambda q=q: search(q, in_department(3)) for q in queries]), count)
        found = [search(query, in_department(3)) for query in queries]
        share = recall(clouds, count, queries, found, lambda number: metadata(number)["department"] == "department 3")
        tenth = {"department": [f"department {number}" for number in range(10)]}
        row("search in ten departments (10 %)", timed([lambda q=q: search(q, tenth) for q in queries]), count)
        wide = [search(query, tenth) for query in queries]
        names = set(tenth["department"])
        share10 = recall(clouds, count, queries, wide, lambda number: metadata(number)["department"] in names)
        facets = row("facets of a field", timed([lambda: index.facets(["department"])] * 10), count, BAR_FACETS)
        some = {"year": {"$gte": 2000}}
        row("facets of a field, filtered", timed([lambda: index.facets(["department"], some)] * 10), count)
    print(f"search in a department / without: {narrow / free:.2f}; recall {share:.1%}, in ten {share10:.1%}")
    record(f"filtered / unfiltered search, {count:,} points", narrow / free, bar=BAR_RATIO, better="lower")
    record(f"recall of a filter that 1 % pass, {count:,} points", share, bar=BAR_RECALL)
    record(f"recall of a filter that 10 % pass, {count:,} points", share10, bar=BAR_RECALL)
    return narrow / free <= BAR_RATIO and min(share, share10) >= BAR_RECALL and facets <= BAR_FACETS


def recall(clouds: Clouds, count: int, queries: Any, found: Sequence[Any], passes: Callable[[int], bool]) -> float:
    """The share of the true nearest that were found; queries are compared with all points that pass, page by page."""
    best, names = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    start = 0
    for page in clouds.pages(count):
        passing = np.array([number for number in range(start, start + len(page)) if passes(number)], np.int64)
        scores = np.hstack([best, queries @ page[passing - start].T])
        names = np.hstack([names, np.broadcast_to(passing, (len(queries), len(passing)))])
        order = np.argsort(-scores, axis=1)[:, :K]
        best, names = np.take_along_axis(scores, order, 1), np.take_along_axis(names, order, 1)
        start += len(page)
    shares = [
        len({int(hit.chunk.id, 16) for hit in hits} & set(true.tolist())) / len(true)
        for hits, true in zip(found, names, strict=True)
    ]
    return statistics.mean(shares)


def reads(name: str, url: str, count: int) -> bool:
    with make_sink(url) as sink:
        manifest = sink.manifest()
        assert manifest is not None
        sink.open(manifest)
        ids = [f"{number:032x}" for number in np.random.default_rng(5).integers(0, count, 30).tolist()]
        seconds = timed([lambda id=id: sink.fetch([id]) for id in ids])
        assert all(point.id in ids for point in sink.fetch(ids))
    return row(f"{name}: one point by its id", seconds, count, BAR_READ) <= BAR_READ


def measure(name: str, folder: Path, temporary: Path, options: argparse.Namespace) -> bool:
    clouds = Clouds(options.dim)
    (temporary / "server").mkdir()
    with running(temporary / "server") if name == "pgvector" else nullcontext() as server:
        if server is not None:
            url = server.url("filters", user="postgres")
        else:
            url = f"{name}://{folder}/{name}-{options.points}-{options.dim}"
        with make_sink(url) as sink:
            built = sink.manifest() is not None
        if not built:
            build(url, clouds, options.points)
        ok = reads(name, url, options.points)
        if not options.read_only:
            ok &= searches(url, clouds, options.points, clouds.draw(options.queries, seed=1 << 40))
        return ok


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--sinks", nargs="+", choices=("lance", "parquet", "pgvector"), default=["lance"])
    parser.add_argument("--read-only", action="store_true", help="measure how a point is read by its id, no searches")
    parser.add_argument("--folder", type=Path, help="keep the indexes here, and use those that are there")
    options = parser.parse_args()
    ok = True
    for name in options.sinks:
        with tempfile.TemporaryDirectory() as temporary:
            Path(temporary).chmod(0o755)
            ok &= measure(name, options.folder or Path(temporary), Path(temporary), options)
    sys.exit(0 if ok or options.points < SMALL else MISSED)


if __name__ == "__main__":
    main()
