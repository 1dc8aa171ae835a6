"""How fast points go into each sink, next to a bulk loop written by hand with the same client.

    python benchmarks/sinks.py                                  # 20,000 points, every embedded sink
    python benchmarks/sinks.py --points 200000 --sinks lance    # peak memory at ten times as many

Each measurement is a process of its own, so that peak memory is that sink's alone. Sinks and hand-written loops take
turns; compare within one run only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from penstock.records import VECTOR, Chunk, Dense, Manifest, Point, Space
from penstock.registry import INDEXES, SINKS, find

DIM = 384
TEXT = "the quick brown fox jumps over the lazy dog and does it again, " * 13
FLUSH = 8
"""Batches between two flushes."""


def ids(start: int, count: int) -> list[str]:
    return [hashlib.md5(str(n).encode()).hexdigest() for n in range(start, start + count)]


def batches(total: int, size: int) -> Iterator[tuple[list[str], list[str], list[str], Any]]:
    """Ids, uris, texts of 800 characters and vectors."""
    rng = np.random.default_rng(1)
    for start in range(0, total, size):
        count = min(size, total - start)
        vectors = rng.standard_normal((count, DIM), dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        uris = [f"file:///docs/{n // 50}.md" for n in range(start, start + count)]
        yield ids(start, count), uris, [f"{n:08d} {TEXT}"[:800] for n in range(start, start + count)], vectors


def points(total: int, size: int) -> Iterator[list[Point]]:
    for names, uris, texts, vectors in batches(total, size):
        yield [
            Point(Chunk(id, uri, n, text, (n, n + 800)), {VECTOR: Dense(vector)})
            for n, (id, uri, text, vector) in enumerate(zip(names, uris, texts, vectors, strict=True))
        ]


def ours(name: str, folder: Path, total: int, size: int) -> dict[str, Any]:
    url = f"{name}://{folder}/index"
    sink = find(SINKS, name, "sink")(url)
    sink.open(Manifest(Space("bench", DIM, "f")))
    size = size or sink.max_rows
    figures: dict[str, Any] = {"rows": size}

    def load(some: int) -> float:
        spent = 0.0
        for n, batch in enumerate(points(some, size), 1):
            started = time.perf_counter()
            sink.write(batch)
            if n % FLUSH == 0:
                sink.flush()
            spent += time.perf_counter() - started
        started = time.perf_counter()
        sink.flush()
        return some / (spent + time.perf_counter() - started)

    figures["points/s"] = load(total)
    figures["again/s"] = load(min(total, 20_000))
    started = time.perf_counter()
    sink.maintain()
    figures["maintain s"] = time.perf_counter() - started
    assert sink.count() == total
    if name == "lance":
        figures["fragments"] = sink._table.stats()["fragment_stats"]["num_fragments"]
    if name in INDEXES:
        with find(INDEXES, name, "index")(url) as index:
            index.open()
            figures["search ms"] = _search(index)
    sink.close()
    return figures


def _search(index: Any) -> float:
    rng = np.random.default_rng(2)
    spent = []
    for _ in range(15):
        query = Dense(rng.standard_normal(DIM, dtype=np.float32))
        started = time.perf_counter()
        assert len(index.search(query, k=10)) == 10
        spent.append(time.perf_counter() - started)
    return 1000 * float(np.median(spent))


def by_hand(name: str, folder: Path, total: int, size: int) -> dict[str, Any]:
    write = {"lance": _lance, "sqlite": _sqlite, "parquet": _parquet}[name](folder)
    spent, size = 0.0, size or find(SINKS, name, "sink").max_rows
    for batch in batches(total, size):
        started = time.perf_counter()
        write(*batch)
        spent += time.perf_counter() - started
    return {"points/s": total / spent, "rows": size}


def _arrow(names: list[str], uris: list[str], texts: list[str], vectors: Any) -> Any:
    import pyarrow as pa

    flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), DIM)
    columns = {"id": pa.array(names), "uri": pa.array(uris), "text": pa.array(texts), "vector": flat}
    return pa.table(columns)


def _lance(folder: Path) -> Any:
    import lancedb

    table: Any = None

    def write(*batch: Any) -> None:
        nonlocal table
        rows = _arrow(*batch)
        if table is None:
            table = lancedb.connect(str(folder)).create_table("chunks", schema=rows.schema)
        table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(rows)

    return write


def _sqlite(folder: Path) -> Any:
    import apsw
    import sqlite_vec

    file = apsw.Connection(str(folder / "hand.db"))
    file.enable_load_extension(True)
    file.load_extension(sqlite_vec.loadable_path())
    file.execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL")
    file.execute("CREATE TABLE chunks (id TEXT UNIQUE, uri TEXT, text TEXT)")
    file.execute(f"CREATE VIRTUAL TABLE v USING vec0(e float[{DIM}])")

    def write(names: list[str], uris: list[str], texts: list[str], vectors: Any) -> None:
        with file:
            for id, uri, text, vector in zip(names, uris, texts, vectors, strict=True):
                file.execute("INSERT INTO chunks VALUES (?, ?, ?)", (id, uri, text))
                file.execute("INSERT INTO v(rowid, e) VALUES (?, ?)", (file.last_insert_rowid(), vector.tobytes()))

    return write


def _parquet(folder: Path) -> Any:
    import pyarrow.parquet as pq

    writer: Any = None

    def write(*batch: Any) -> None:
        nonlocal writer
        rows = _arrow(*batch)
        writer = writer or pq.ParquetWriter(folder / "hand.parquet", rows.schema, compression="zstd")
        writer.write_table(rows)

    return write


def measure(name: str, way: str, total: int, size: int) -> dict[str, Any]:
    """In a process of its own."""
    arguments = [sys.executable, __file__, "--one", name, way, "--points", str(total), "--rows", str(size)]
    done = subprocess.run(arguments, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def one(name: str, way: str, total: int, size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        figures = (ours if way == "penstock" else by_hand)(name, Path(folder), total, size)
    figures["peak MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(figures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=20_000)
    parser.add_argument("--rows", type=int, default=0, help="rows a batch; the sink's own max_rows by default")
    parser.add_argument("--sinks", nargs="+", default=["memory", "lance", "sqlite", "parquet"])
    parser.add_argument("--one", nargs=2, metavar=("SINK", "WAY"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        one(*given.one, given.points, given.rows)
        return
    columns = ["rows", "points/s", "again/s", "maintain s", "fragments", "search ms", "peak MB"]
    print(f"{given.points:,} points of {DIM} dimensions with 800 characters of text")
    print(f"{'':22}" + "".join(f"{column:>12}" for column in columns))
    for name in given.sinks:
        for way in ("penstock", "by hand")[: 1 if name == "memory" else 2]:
            found = measure(name, way, given.points, given.rows)
            cells = (
                f"{found[c]:>12,.{1 if c.endswith('s') and c[-2] == ' ' else 0}f}" if c in found else " " * 12
                for c in columns
            )
            print(f"{name + ' ' + way:22}" + "".join(cells), flush=True)


if __name__ == "__main__":
    main()
