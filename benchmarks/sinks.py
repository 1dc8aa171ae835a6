"""Rate of writing points into each sink, next to a bulk loop written by hand with the same client.

    python benchmarks/sinks.py                                  # 20,000 points, every embedded sink
    python benchmarks/sinks.py --sinks pgvector milvus --rounds 3
    python benchmarks/sinks.py --sinks qdrant chroma --points 5000      # these are slow in a folder
    python benchmarks/sinks.py --flat                           # peak memory at 20,000 and 500,000 points

Each measurement is a process of its own, so that peak memory is that sink's alone. Sinks and hand-written loops take
turns; compare within one run only. By hand each store gets the same columns by upsert, in batches of the client's best
size, and is never asked whether it has them for good: ours are flushed every half second, as in a run, and have
full text, which costs SQLite and PostgreSQL what words.py tells. The bar: 0.9 of the rate by hand.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from figures import record

from penstock.core.records import VECTOR, Chunk, Dense, Point
from penstock.core.schema import Manifest, VectorSpec, single
from penstock.registry import INDEXES, SINKS, find
from penstock.testing.postgres import running

DIM = 384
TEXT = "the quick brown fox jumps over the lazy dog and does it again, " * 13
BAR = 0.9
BAR_LANCE = {"points/s": 20_000.0, "fragments": 100.0}
BAR_FLAT = 10.0
"""Percent."""
READY = 8
"""Batches that are made at a time: the clock stands still meanwhile."""
LINGER = 0.5
"""Seconds between two flushes."""


def ids(start: int, count: int) -> list[str]:
    return [hashlib.md5(str(n).encode()).hexdigest() for n in range(start, start + count)]


def batches(total: int, size: int) -> Iterator[tuple[dict[str, list[Any]], Any]]:
    """The columns that a chunk has, texts of 800 characters among them, and the vectors."""
    rng = np.random.default_rng(1)
    for start in range(0, total, size):
        count = min(size, total - start)
        vectors = rng.standard_normal((count, DIM), dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        numbers = range(start, start + count)
        yield (
            {
                "id": ids(start, count),
                "uri": [f"file:///docs/{n // 50}.md" for n in numbers],
                "ordinal": [n - start for n in numbers],
                "text": [f"{n:08d} {TEXT}"[:800] for n in numbers],
                "start": [n - start for n in numbers],
                "end": [n - start + 800 for n in numbers],
                "page": [n % 9 for n in numbers],
                "headings": ['["Guide"]'] * count,
                "metadata": ["{}"] * count,
            },
            vectors,
        )


def points(total: int, size: int) -> Iterator[list[Point]]:
    for columns, vectors in batches(total, size):
        yield [
            Point(Chunk(id, uri, n, text, (start, end), page, ("Guide",)), {VECTOR: Dense(vector)})
            for (id, uri, n, text, start, end, page, _, _), vector in zip(
                zip(*columns.values(), strict=True), vectors, strict=True
            )
        ]


@contextmanager
def _store(name: str, folder: Path) -> Iterator[str]:
    if name == "pgvector":
        folder.chmod(0o755)
        with running(folder, fsync=True) as server:
            yield server.url("index", user="postgres")
    elif name == "milvus":
        yield f"milvus://{folder}/lite.db/notes"
    elif name in EMULATED:
        with _emulator(name) as url:
            yield url
    else:
        yield f"{name}://{folder}/index"


EMULATED = {
    "elastic": (
        "from penstock.testing.emulators.elastic import ElasticServer as Server",
        "Server('elasticsearch')",
        "elastic://127.0.0.1:{0.port}/notes",
    ),
    "weaviate": (
        "from penstock.testing.emulators.weaviate import Emulator as Server",
        "Server()",
        "weaviate://127.0.0.1:{0.port}/Notes?grpc={0.grpc_port}",
    ),
    "pinecone": (
        "from penstock.testing.emulators.pinecone import PineconeServer as Server",
        "Server('key')",
        "pinecone://my-index/notes?cloud=aws&region=us-east-1&host=127.0.0.1:{0.port}",
    ),
}
"""Servers that cannot run here: import of the emulator, its constructor, its url."""


@contextmanager
def _emulator(name: str) -> Iterator[str]:
    """Start it in a process of its own, so that the ratio is about the clients' side only."""
    where, make, url = EMULATED[name]
    code = f"import sys; {where}\nwith {make} as server: print({url!r}.format(server), flush=True); sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    os.environ["PINECONE_API_KEY"] = "key"
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait(20)


def ours(name: str, folder: Path, total: int, size: int) -> dict[str, Any]:
    with _store(name, folder) as url:
        return _ours(name, url, total, size)


def _ours(name: str, url: str, total: int, size: int) -> dict[str, Any]:
    sink = find(SINKS, name)(url)
    sink.open(Manifest(single(VectorSpec("bench", DIM, "f"))))
    size = size or sink.max_rows
    figures: dict[str, Any] = {"rows": size}

    def load(some: int) -> float:
        spent = flushed = 0.0
        waiting = points(some, size)
        with ThreadPoolExecutor(sink.writers) as writers:
            while ready := list(islice(waiting, READY)):
                started = time.perf_counter()
                list(writers.map(sink.write, ready))
                if (spent + time.perf_counter() - started) - flushed > LINGER:
                    sink.flush()
                    flushed = spent + time.perf_counter() - started
                spent += time.perf_counter() - started
        started = time.perf_counter()
        sink.flush()
        return some / (spent + time.perf_counter() - started)

    figures["points/s"] = load(total)
    figures["loaded MB"] = _peak()
    figures["again/s"] = load(min(total, 20_000))
    started = time.perf_counter()
    sink.maintain()
    figures["maintain s"] = time.perf_counter() - started
    assert sink.count() == total
    if name == "lance":
        figures["fragments"] = sink._table.stats()["fragment_stats"]["num_fragments"]
    if name in INDEXES:
        with find(INDEXES, name)(url) as index:
            index.open()
            figures["search ms"] = _search(index)
    sink.close()
    return figures


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


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
    spent, size = 0.0, size or best or find(SINKS, name).max_rows
    with _store(name, folder) as url:
        write, finish = make(url if name in {"pgvector", *EMULATED} else folder)
        for columns, vectors in batches(total, size):
            started = time.perf_counter()
            write(columns, vectors)
            spent += time.perf_counter() - started
        started = time.perf_counter()
        finish()
        spent += time.perf_counter() - started
    return {"points/s": total / spent, "rows": size}


def _rows(columns: dict[str, list[Any]], *left_out: str) -> list[dict[str, Any]]:
    names = [name for name in columns if name not in left_out]
    return [dict(zip(names, row, strict=True)) for row in zip(*(columns[name] for name in names), strict=True)]


def _nothing() -> None:
    """Finish a loop that has nothing to flush."""


def _arrow(columns: dict[str, list[Any]], vectors: Any) -> Any:
    import pyarrow as pa

    return pa.table({**columns, "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), DIM)})


def _lance(folder: Path) -> Any:
    import lancedb

    table: Any = None

    def write(*batch: Any) -> None:
        nonlocal table
        rows = _arrow(*batch)
        if table is None:
            table = lancedb.connect(str(folder)).create_table("chunks", schema=rows.schema)
        table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(rows)

    return write, _nothing


def _sqlite(folder: Path) -> Any:
    import apsw
    import sqlite_vec

    file = apsw.Connection(str(folder / "hand.db"))
    file.enable_load_extension(True)
    file.load_extension(sqlite_vec.loadable_path())
    file.execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL")
    file.execute(
        'CREATE TABLE chunks ("key" INTEGER PRIMARY KEY, id TEXT UNIQUE, uri TEXT, ordinal INTEGER, text TEXT,'
        ' start INTEGER, "end" INTEGER, page INTEGER, headings TEXT, metadata TEXT)'
    )
    file.execute("CREATE INDEX by_uri ON chunks (uri)")
    file.execute(f"CREATE VIRTUAL TABLE v USING vec0(e float[{DIM}] distance_metric=cosine)")
    names = 'id, uri, ordinal, text, start, "end", page, headings, metadata'
    put = f"INSERT INTO chunks ({names}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"

    def write(columns: dict[str, list[Any]], vectors: Any) -> None:
        with file:
            for cells, vector in zip(zip(*columns.values(), strict=True), vectors, strict=True):
                for (old,) in list(file.execute('SELECT "key" FROM chunks WHERE id = ?', cells[:1])):
                    file.execute("DELETE FROM v WHERE rowid = ?", (old,))
                    file.execute('DELETE FROM chunks WHERE "key" = ?', (old,))
                file.execute(put, cells)
                file.execute("INSERT INTO v(rowid, e) VALUES (?, ?)", (file.last_insert_rowid(), vector.tobytes()))

    return write, _nothing


def _parquet(folder: Path) -> Any:
    import pyarrow.parquet as pq

    writer: Any = None

    def write(*batch: Any) -> None:
        nonlocal writer
        rows = _arrow(*batch)
        writer = writer or pq.ParquetWriter(folder / "hand.parquet", rows.schema, compression="zstd")
        writer.write_table(rows)

    return write, _nothing


def _qdrant(folder: Path) -> Any:
    from qdrant_client import QdrantClient, models

    client = QdrantClient(path=str(folder))
    client.create_collection("notes", vectors_config=models.VectorParams(size=DIM, distance=models.Distance.COSINE))

    def write(columns: dict[str, list[Any]], vectors: Any) -> None:
        client.upsert("notes", models.Batch(ids=columns["id"], vectors=vectors.tolist(), payloads=_rows(columns, "id")))

    return write, _nothing


def _chroma(folder: Path) -> Any:
    import chromadb

    settings = chromadb.config.Settings(anonymized_telemetry=False)
    collection = chromadb.PersistentClient(str(folder), settings).create_collection(
        "notes", embedding_function=None, configuration={"hnsw": {"space": "cosine"}}
    )

    def write(columns: dict[str, list[Any]], vectors: Any) -> None:
        collection.upsert(columns["id"], vectors, metadatas=_rows(columns, "id", "text"), documents=columns["text"])

    return write, _nothing


def _milvus(folder: Path) -> Any:
    from pymilvus import DataType, MilvusClient

    client = MilvusClient(str(folder / "hand.db"))
    schema = client.create_schema(auto_id=False)
    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=64)
    for name in ("uri", "text", "headings", "metadata"):
        schema.add_field(name, DataType.VARCHAR, max_length=65_535)
    for name in ("ordinal", "start", "end", "page"):
        schema.add_field(name, DataType.INT64)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=DIM)
    index = client.prepare_index_params()
    index.add_index("vector", index_type="FLAT", metric_type="COSINE")
    client.create_collection("notes", schema=schema, index_params=index)

    def write(columns: dict[str, list[Any]], vectors: Any) -> None:
        client.upsert("notes", [{**row, "vector": v} for row, v in zip(_rows(columns), vectors, strict=True)])

    return write, lambda: client.flush("notes")  # until then Lite has it in memory only


def _pgvector(url: str) -> Any:
    import psycopg

    host, _, rest = url.removeprefix("pgvector://").partition("/")
    db = psycopg.connect(f"postgresql://{host}/{rest.partition('/')[0]}")
    types = {"ordinal": "int8", "start": "int8", "end": "int8", "page": "int8"}
    names = ["id", "uri", "ordinal", "text", "start", "end", "page", "headings", "metadata"]
    wanted = ", ".join(f'"{name}" {types.get(name, "text")}' for name in names[1:])
    db.execute("CREATE EXTENSION IF NOT EXISTS vector")
    db.execute(f"CREATE TABLE hand (id text PRIMARY KEY, {wanted}, vector vector({DIM}))")
    db.execute("CREATE INDEX ON hand (uri)")
    db.execute("CREATE TEMP TABLE fresh (LIKE hand)")
    db.commit()
    updates = ", ".join(f'"{name}" = excluded."{name}"' for name in (*names[1:], "vector"))

    def write(columns: dict[str, list[Any]], vectors: Any) -> None:
        head = DIM.to_bytes(2, "big") + b"\0\0"
        cells = zip(zip(*columns.values(), strict=True), vectors.astype(">f4"), strict=True)
        with db.cursor() as cursor:
            with cursor.copy("COPY fresh FROM STDIN (FORMAT BINARY)") as copy:
                copy.set_types([*(types.get(name, "text") for name in names), "bytea"])
                for row, vector in cells:
                    copy.write_row([*row, head + vector.tobytes()])
            cursor.execute(f"INSERT INTO hand SELECT * FROM fresh ON CONFLICT (id) DO UPDATE SET {updates}")
            cursor.execute("TRUNCATE fresh")
        db.commit()

    return write, _nothing


def _elastic(url: str) -> Any:
    from elasticsearch import Elasticsearch
    from elasticsearch.helpers import bulk

    client = Elasticsearch(url.replace("elastic://", "http://").rpartition("/")[0])
    texts = {
        name: {"type": "keyword", "index": False, "doc_values": False} for name in ("text", "headings", "metadata")
    }
    numbers = {name: {"type": "long"} for name in ("ordinal", "start", "end", "page")}
    vector = {"type": "dense_vector", "dims": DIM, "index": True, "similarity": "cosine"}
    properties = {"id": {"type": "keyword"}, "uri": {"type": "keyword"}, **texts, **numbers, "vector": vector}
    client.indices.create(index="notes", mappings={"dynamic": "strict", "properties": properties})

    def write(columns: dict[str, list[Any]], vectors: Any) -> None:
        rows = zip(_rows(columns), vectors.tolist(), strict=True)
        bulk(client, ({"_index": "notes", "_id": row["id"], **row, "vector": v} for row, v in rows), chunk_size=1000)

    return write, lambda: client.indices.refresh(index="notes")


def _weaviate(url: str) -> Any:
    import weaviate
    from weaviate.classes.config import Configure, DataType, Property

    port, _, grpc = url.removeprefix("weaviate://127.0.0.1:").replace("/Notes?grpc=", " ").partition(" ")
    client = weaviate.connect_to_local(port=int(port), grpc_port=int(grpc), skip_init_checks=True)
    numbers = ("ordinal", "start", "end", "page")
    names = ("uri", "text", "headings", "metadata", *numbers)
    properties = [Property(name=n, data_type=DataType.INT if n in numbers else DataType.TEXT) for n in names]
    client.collections.create(
        "Notes", properties=properties, vector_config=Configure.Vectors.self_provided(name="vector")
    )
    notes = client.collections.get("Notes")

    def write(columns: dict[str, list[Any]], vectors: Any) -> None:
        with notes.batch.fixed_size(1000) as batch:
            for id, row, vector in zip(columns["id"], _rows(columns, "id"), vectors, strict=True):
                batch.add_object(row, uuid=id, vector={"vector": vector})

    return write, client.close


def _pinecone(url: str) -> Any:
    from pinecone import Pinecone, ServerlessSpec

    client = Pinecone(api_key="key", host="http://" + url.partition("host=")[2])
    client.create_index(
        "my-index", dimension=DIM, metric="cosine", spec=ServerlessSpec(cloud="aws", region="us-east-1")
    )
    host = client.describe_index("my-index").host.partition("://")[2] or client.describe_index("my-index").host
    index = client.Index(host=f"http://{host}")

    def write(columns: dict[str, list[Any]], vectors: Any) -> None:
        rows = zip(columns["id"], _rows(columns, "id"), vectors.tolist(), strict=True)
        points = [{"id": id, "values": vector, "metadata": row} for id, row, vector in rows]
        for start in range(0, len(points), 200):  # 2 MB a request
            index.upsert(vectors=points[start : start + 200], namespace="notes")

    return write, _nothing


HANDS: dict[str, tuple[Any, int]] = {
    "lance": (_lance, 0),
    "sqlite": (_sqlite, 0),
    "parquet": (_parquet, 0),
    "qdrant": (_qdrant, 512),
    "chroma": (_chroma, 5000),
    "milvus": (_milvus, 4096),
    "pgvector": (_pgvector, 4096),
    "elastic": (_elastic, 1000),
    "weaviate": (_weaviate, 1000),
    "pinecone": (_pinecone, 1000),
}
"""Loop of each store, and the size of its best batch; 0: that of the sink."""


def measure(name: str, way: str, total: int, size: int) -> dict[str, Any]:
    """Measure in a process of its own."""
    arguments = [sys.executable, __file__, "--one", name, way, "--points", str(total), "--rows", str(size)]
    done = subprocess.run(arguments, stdout=subprocess.PIPE, check=True)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def one(name: str, way: str, total: int, size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        figures = (ours if way == "penstock" else by_hand)(name, Path(folder), total, size)
    figures["peak MB"] = _peak()
    print(json.dumps(figures))


def flat(name: str) -> None:
    """Compare peak memory while few and while many points are written."""
    few, many = (measure(name, "penstock", total, 0)["loaded MB"] for total in (20_000, 500_000))
    print(f"{name}: at most {few:,.0f} MB while 20,000 points are written, {many:,.0f} MB while 500,000 are")
    more = 100 * (many / few - 1)
    print(f"{name}: {more:.1f}% more (bar: {BAR_FLAT:.0f} %)")
    record(f"{name}: more memory for 500,000 points than for 20,000", more, "%", bar=BAR_FLAT, better="lower")


def keep(name: str, points: int, rates: list[float], last: dict[str, Any]) -> None:
    """Record the figures of a sink: the median rate, and the rest of its last round."""
    bars = BAR_LANCE if name == "lance" else {}
    record(f"{name}, {points:,} points: rate", statistics.median(rates), "points/s", bar=bars.get("points/s"))
    record(f"{name}, {points:,} points: peak", last["peak MB"], "MiB", better="lower")
    if "fragments" in last:
        written = f"{points + min(points, 20_000):,}"
        fragments = last["fragments"]
        record(f"{name}, fragments left of {written} points", fragments, bar=bars.get("fragments"), better="lower")
    if "search ms" in last:
        record(f"{name}, {points:,} points: search", last["search ms"], "ms", better="lower")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--rows", type=int, default=0, help="rows a batch; the sink's own max_rows by default")
    default = ["memory", "lance", "sqlite", "parquet"]
    parser.add_argument("--sinks", nargs="+", choices=["memory", *HANDS], default=default)
    parser.add_argument("--flat", action="store_true", help="compare peak memory instead, of the default store")
    parser.add_argument("--one", nargs=2, metavar=("SINK", "WAY"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(*options.one, options.points, options.rows)
        return
    if options.flat:
        flat("lance")
        return
    columns = ["rows", "points/s", "again/s", "maintain s", "fragments", "search ms", "loaded MB", "peak MB"]
    print(f"{options.points:,} points of {DIM} dimensions with 800 characters of text")
    print(f"{'':22}" + "".join(f"{column:>12}" for column in columns))
    for name in options.sinks:
        ways = ("penstock", "by hand")[: 1 if name == "memory" else 2]
        rates: dict[str, list[float]] = {way: [] for way in ways}
        last: dict[str, dict[str, Any]] = {}
        for way in ways * options.rounds:
            figures = measure(name, way, options.points, options.rows)
            rates[way].append(figures["points/s"])
            cells = (
                f"{figures[c]:>12,.{1 if c.endswith('s') and c[-2] == ' ' else 0}f}" if c in figures else " " * 12
                for c in columns
            )
            print(f"{name + ' ' + way:22}" + "".join(cells), flush=True)
            last[way] = figures
        keep(name, options.points, rates["penstock"], last["penstock"])
        if len(ways) > 1:
            ratio = statistics.median(a / b for a, b in zip(*rates.values(), strict=True))
            print(f"{name}: {ratio:.2f} of the rate by hand (bar: {BAR})", flush=True)
            record(f"{name} / by hand, {options.points:,} points", ratio, bar=BAR)


if __name__ == "__main__":
    main()
