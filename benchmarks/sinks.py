"""How fast points go into each sink, next to a bulk loop written by hand with the same client.

    python benchmarks/sinks.py                                  # 20,000 points, every embedded sink
    python benchmarks/sinks.py --sinks pgvector milvus --rounds 3
    python benchmarks/sinks.py --sinks qdrant chroma --points 5000      # these are slow in a folder
    python benchmarks/sinks.py --points 200000 --sinks lance    # peak memory at ten times as many

Each measurement is a process of its own, so that peak memory is that sink's alone. Sinks and hand-written loops take
turns; compare within one run only. By hand each store gets its ids, uris, texts and vectors by upsert in batches of the
client's best size, and no more: ours come with headings, metadata, spans and pages. The bar: 0.9 of the rate by hand.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from penstock.records import VECTOR, Chunk, Dense, Manifest, Point, Space
from penstock.registry import INDEXES, SINKS, find
from penstock.testing.postgres import running

DIM = 384
TEXT = "the quick brown fox jumps over the lazy dog and does it again, " * 13
BAR = 0.9
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


@contextmanager
def _place(name: str, folder: Path) -> Iterator[str]:
    if name == "pgvector":
        folder.chmod(0o755)
        with running(folder, fsync=True) as server:
            yield server.url("index", user="postgres")
    elif name == "milvus":
        yield f"milvus://{folder}/lite.db/notes"
    else:
        yield f"{name}://{folder}/index"


def ours(name: str, folder: Path, total: int, size: int) -> dict[str, Any]:
    with _place(name, folder) as url:
        return _ours(name, url, total, size)


def _ours(name: str, url: str, total: int, size: int) -> dict[str, Any]:
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
    make, best = HANDS[name]
    spent, size = 0.0, size or best or find(SINKS, name, "sink").max_rows
    with _place(name, folder) as url:
        write = make(url if name == "pgvector" else folder)
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


def _qdrant(folder: Path) -> Any:
    from qdrant_client import QdrantClient, models

    client = QdrantClient(path=str(folder))
    client.create_collection("notes", vectors_config=models.VectorParams(size=DIM, distance=models.Distance.COSINE))

    def write(names: list[str], uris: list[str], texts: list[str], vectors: Any) -> None:
        payloads = [{"uri": uri, "text": text} for uri, text in zip(uris, texts, strict=True)]
        client.upsert("notes", models.Batch(ids=names, vectors=vectors.tolist(), payloads=payloads))

    return write


def _chroma(folder: Path) -> Any:
    import chromadb

    settings = chromadb.config.Settings(anonymized_telemetry=False)
    collection = chromadb.PersistentClient(str(folder), settings).create_collection(
        "notes", embedding_function=None, configuration={"hnsw": {"space": "cosine"}}
    )

    def write(names: list[str], uris: list[str], texts: list[str], vectors: Any) -> None:
        collection.upsert(names, vectors, metadatas=[{"uri": uri} for uri in uris], documents=texts)

    return write


def _milvus(folder: Path) -> Any:
    from pymilvus import DataType, MilvusClient

    client = MilvusClient(str(folder / "hand.db"))
    schema = client.create_schema(auto_id=False)
    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=64)
    schema.add_field("uri", DataType.VARCHAR, max_length=1024)
    schema.add_field("text", DataType.VARCHAR, max_length=65_535)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=DIM)
    index = client.prepare_index_params()
    index.add_index("vector", index_type="FLAT", metric_type="COSINE")
    client.create_collection("notes", schema=schema, index_params=index)

    def write(names: list[str], uris: list[str], texts: list[str], vectors: Any) -> None:
        found = zip(names, uris, texts, vectors, strict=True)
        client.upsert("notes", [{"id": i, "uri": u, "text": t, "vector": v} for i, u, t, v in found])

    return write


def _pgvector(url: str) -> Any:
    import psycopg

    host, _, rest = url.removeprefix("pgvector://").partition("/")
    db = psycopg.connect(f"postgresql://{host}/{rest.partition('/')[0]}")
    db.execute("CREATE EXTENSION IF NOT EXISTS vector")
    db.execute(f"CREATE TABLE hand (id text PRIMARY KEY, uri text, text text, vector vector({DIM}))")
    db.execute("CREATE INDEX ON hand (uri)")
    db.execute("CREATE TEMP TABLE fresh (LIKE hand)")
    db.commit()

    def write(names: list[str], uris: list[str], texts: list[str], vectors: Any) -> None:
        head = DIM.to_bytes(2, "big") + b"\0\0"
        with db.cursor() as cursor:
            with cursor.copy("COPY fresh FROM STDIN (FORMAT BINARY)") as copy:
                copy.set_types(["text", "text", "text", "bytea"])
                for *cells, vector in zip(names, uris, texts, vectors.astype(">f4"), strict=True):
                    copy.write_row([*cells, head + vector.tobytes()])
            cursor.execute(
                "INSERT INTO hand SELECT * FROM fresh ON CONFLICT (id) DO UPDATE"
                " SET uri = excluded.uri, text = excluded.text, vector = excluded.vector"
            )
            cursor.execute("TRUNCATE fresh")
        db.commit()

    return write


HANDS: dict[str, tuple[Any, int]] = {
    "lance": (_lance, 0),
    "sqlite": (_sqlite, 0),
    "parquet": (_parquet, 0),
    "qdrant": (_qdrant, 512),
    "chroma": (_chroma, 5000),
    "milvus": (_milvus, 4096),
    "pgvector": (_pgvector, 4096),
}
"""The loops, and the size of their best batch; 0: that of the sink."""


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
    parser.add_argument("--rounds", type=int, default=1)
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
        ways = ("penstock", "by hand")[: 1 if name == "memory" else 2]
        rates: dict[str, list[float]] = {way: [] for way in ways}
        for way in ways * given.rounds:
            found = measure(name, way, given.points, given.rows)
            rates[way].append(found["points/s"])
            cells = (
                f"{found[c]:>12,.{1 if c.endswith('s') and c[-2] == ' ' else 0}f}" if c in found else " " * 12
                for c in columns
            )
            print(f"{name + ' ' + way:22}" + "".join(cells), flush=True)
        if len(ways) > 1:
            ratio = statistics.median(a / b for a, b in zip(*rates.values(), strict=True))
            print(f"{name}: {ratio:.2f} of the rate by hand (bar: {BAR})", flush=True)


if __name__ == "__main__":
    main()
