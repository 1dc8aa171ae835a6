"""What full text costs: writing with and without it, the disk, and searches.

    python benchmarks/words.py                                # 20,000 chunks of 120 words, SQLite, LanceDB, PostgreSQL
    python benchmarks/words.py --sinks sqlite --points 200000

Indexes with and without take turns; compare within one run only. Words are as frequent as in a language (Zipf's law).
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from figures import record

from penstock.core.records import VECTOR, Chunk, Dense, Point
from penstock.core.schema import Manifest, VectorSpec, single
from penstock.registry import INDEXES, SINKS, find
from penstock.sinks.pgvector import full_text
from penstock.testing.postgres import running

DIM, WORDS, BATCH = 384, 120, 1024
MANIFEST = Manifest(single(VectorSpec("a model", DIM, "f" * 32), "256 tokens"), owners={"": "ledger 1"})
URLS = {"sqlite": "sqlite://{0}/{1}.db", "lance": "lance://{0}/{1}"}


def points(count: int) -> list[Point]:
    rng = np.random.default_rng(1)
    letters = rng.integers(97, 123, (60_000, 10))
    vocabulary = ["".join(map(chr, row[: 2 + n % 9])) for n, row in enumerate(letters)]
    made = []
    for n in range(count):
        text = " ".join(vocabulary[word] for word in rng.zipf(1.15, WORDS) % 60_000)
        chunk = Chunk(f"{n:032x}", f"file:///{n // 50}.md", n, text, (0, len(text)), metadata={"n": n % 10})
        made.append(Point(chunk, {VECTOR: Dense(rng.standard_normal(DIM, dtype=np.float32))}))
    return made


def without_words(name: str, sink: Any) -> None:
    """Remove the full text that a new index has."""
    handle = sink._opened()[0]
    if name == "sqlite":
        handle.all("DROP TABLE words")
    elif name == "lance":
        handle.drop_index("text_idx")
    else:
        index = f"SELECT indexrelid::regclass::text FROM pg_index WHERE {full_text.INDEX}"
        for (index_name,) in handle.all(f"{index} AND indrelid = '{handle.name}'::regclass"):
            with handle.transaction() as cursor:
                cursor.execute(f"DROP INDEX {index_name}")


def written(name: str, url: str, written: Sequence[Point], *, words: bool) -> float:
    """Points a second."""
    with find(SINKS, name)(url) as sink:
        sink.open(MANIFEST)
        if not words:
            without_words(name, sink)
        began = time.perf_counter()
        for start in range(0, len(written), BATCH):
            sink.write(written[start : start + BATCH])
        sink.flush()
        return len(written) / (time.perf_counter() - began)


def bytes_of(name: str, url: str, server: Any) -> int:
    if name == "pgvector":
        with server.connect() as admin:
            return int(admin.execute(f"SELECT pg_total_relation_size('{url.rpartition('/')[2]}')").fetchone()[0])
    path = Path(url.partition("://")[2])
    files = [path] if path.is_file() else [Path(at, file) for at, _, files in os.walk(path) for file in files]
    return sum(file.stat().st_size for file in files)


def searches(url: str, questions: dict[str, str], name: str, count: int) -> None:
    with find(INDEXES, name)(url) as index:
        index.open()
        index.search_words("warm")
        for what, question in questions.items():
            for filtered, where in (("", None), (", filtered", {"n": 3})):
                times = [_timed(lambda: index.search_words(question, 10, where)) for _ in range(5)]  # noqa: B023
                p50 = 1000 * statistics.median(times)
                print(f"{name:10} {what + filtered:32} {p50:8.1f} ms", flush=True)
                record(f"{name}, {count:,} points: {what}{filtered}", p50, "ms", better="lower")


def _timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def measure(name: str, options: argparse.Namespace, made: Sequence[Point], folder: Path, server: Any) -> None:
    text = sum(len(point.text) for point in made)
    rates: dict[bool, list[float]] = {False: [], True: []}
    sizes, url = {}, ""
    for number in range(options.rounds):
        for words in (False, True):
            table = f"t{number}{int(words)}"
            url = server.url(table, user="postgres") if server else URLS[name].format(folder, table)
            rates[words].append(written(name, url, made, words=words))
            sizes[words] = bytes_of(name, url, server)
    plain, rate = (statistics.median(rates[words]) for words in (False, True))
    cost = 1e6 / rate - 1e6 / plain
    print(f"{name:10} {plain:,.0f} -> {rate:,.0f} points/s, {cost:.0f} µs a point more", flush=True)
    record(f"{name}, {len(made):,} points: full text costs", cost, "µs a point", better="lower")
    if name != "lance":
        share = 100 * (sizes[True] - sizes[False]) / text
        print(f"{name:10} {share:.0f} % of the texts more on disk", flush=True)
        record(f"{name}, {len(made):,} points: disk", share, "% of the texts", better="lower")
    else:
        searches(url, {"a frequent word, before an index": made[0].text.split()[0]}, name, len(made))
        with find(SINKS, name)(url) as sink:
            sink.open(MANIFEST)
            print(f"{name:10} maintain {_timed(sink.maintain):.1f} s", flush=True)
    first = list(dict.fromkeys(made[0].text.split()))
    rare = min(first, key=lambda word: sum(word in point.text for point in made[:2000]))
    questions = {"a rare word": rare, "five words": " ".join(first[:5]), "twenty words": " ".join(first[:20])}
    searches(url, questions, name, len(made))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--sinks", nargs="+", choices=(*URLS, "pgvector"), default=[*URLS, "pgvector"])
    options = parser.parse_args()
    made = points(options.points)
    for name in options.sinks:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
            folder = Path(temporary)
            folder.chmod(0o755)
            with running(folder, fsync=True) if name == "pgvector" else nullcontext() as server:
                if server:
                    with server.connect() as admin:
                        admin.execute("CREATE EXTENSION vector")
                measure(name, options, made, folder, server)


if __name__ == "__main__":
    main()
