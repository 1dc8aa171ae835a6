"""Seconds to follow a source: other metadata for all files, another folder for all, then half of them deleted.

    python benchmarks/moves.py                                      # 20,000 files, the default store
    python benchmarks/moves.py --sinks lance sqlite pgvector
    python benchmarks/moves.py --sinks qdrant --files 5000          # slow in a folder

Files are small, and a model that costs nothing embeds them: what is measured is the index and the ledger. A moved file
is not embedded again, nor one with other metadata. Bars: 20,000 get other metadata within 60 s; the default store moves
as many in 60 s and deletes 10,000 in 10 s, the others do 1,000 documents a second, or as many as they write; the index,
which each run maintains at its end, is at most 1.3 times a fresh one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

from figures import MISSED, record

from penstock import Pipeline, Report
from penstock.testing.embedders import HashingEmbedder
from penstock.testing.postgres import running

SINKS = ("lance",)
DIM = 384
BAR_RATE = 1000.0
BAR_MINUTE = 20_000 / 60
BAR_SIZE = 1.3


def make(folder: Path, count: int) -> None:
    for number in range(count):
        path = folder / f"{number // 500:03d}" / f"{number:05d}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# Note {number}\n\nWhat note {number} says, in {number % 97} words or a few more.\n")


def run(docs: Path, url: str, state: Path, team: str = "two") -> tuple[float, Report]:
    began = time.perf_counter()
    model = HashingEmbedder(DIM)
    pipeline = Pipeline(docs, into=url, model=model, state=state, metadata={"team": team})
    report = pipeline.run(allow_mass_delete=True)
    return time.perf_counter() - began, report


def measure(name: str, url: str, fresh: str, folder: Path, count: int) -> bool:
    docs, state = folder / "docs", folder / f"{name}.db"
    make(docs / "old", count)
    first, report = run(docs, url, state, team="one")
    assert report.embedded == count
    described, report = run(docs, url, state)
    assert (report.embedded, report.moved) == (0, count), report
    (docs / "old").rename(docs / "new")
    moved, report = run(docs, url, state)
    assert (report.embedded, report.moved, report.deleted) == (0, count, count), report
    for path in sorted((docs / "new").rglob("*.md"))[::2]:
        path.unlink()
    deleted, report = run(docs, url, state)
    assert report.deleted == count // 2, report
    rates = (count / first, count / described, count / moved, count // 2 / deleted)
    print(
        f"{name:10}{''.join(f'{rate:>12,.0f}' for rate in rates)}"
        f"{first:>10.1f}{described:>13.1f}{moved:>10.1f}{deleted:>10.1f}",
        end="",
    )
    held = size(name, url)
    run(docs, fresh, folder / f"{name}.fresh.db")
    ratio = held / size(name, fresh)
    print(f"{ratio:>10.2f}")
    record(f"{name}, index of {count:,} after moves / fresh", ratio, bar=BAR_SIZE, better="lower")
    ok = ratio <= BAR_SIZE
    done = (("with other metadata", described, count), ("moved", moved, count), ("deleted", deleted, count // 2))
    for what, seconds, files in done:
        bar = min(BAR_RATE, count / first)
        if what == "with other metadata" or (name, what) == ("lance", "moved"):
            bar = BAR_MINUTE
        record(f"{name}, {files:,} {what}", files / seconds, "documents/s", bar=bar)
        ok &= files / seconds >= bar
    return ok


def size(name: str, url: str) -> int:
    """Bytes of the index on the disk."""
    if name == "pgvector":
        import psycopg

        server, _, table = url.replace("pgvector:", "postgresql:").rpartition("/")
        with psycopg.connect(server) as connection:
            row = connection.execute("SELECT pg_total_relation_size(%s::regclass)", (table,)).fetchone()
            assert row is not None
            return int(row[0])
    path = Path(url.partition("://")[2])
    if name == "qdrant":
        path = path.parent / "collection" / path.name
    files = path.rglob("*") if path.is_dir() else path.parent.glob(path.name + "*")
    return sum(file.stat().st_size for file in files if file.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sinks", nargs="+", default=SINKS, metavar="SINK")
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--quick", action="store_true", help="a trial with 200 files: bars do not count")
    options = parser.parse_args()
    options.files = 200 if options.quick else options.files
    print(f"{options.files:,} files\n{'':10}{'first/s':>12}{'metadata/s':>12}{'moved/s':>12}{'deleted/s':>12}", end="")
    print(f"{'first s':>10}{'metadata s':>13}{'moved s':>10}{'deleted s':>10}{'size':>10}")
    ok = True
    for name in options.sinks:
        with tempfile.TemporaryDirectory() as text:
            folder = Path(text)
            folder.chmod(0o755)
            (folder / "server").mkdir()
            with running(folder / "server", fsync=True) if name == "pgvector" else nullcontext() as server:
                if server is not None:
                    urls = [server.url(index, user="postgres") for index in ("index", "fresh")]
                else:
                    urls = [f"{name}://{folder}/{index}" for index in ("index", "fresh")]
                ok &= measure(name, *urls, folder, options.files)
    sys.exit(0 if ok or options.quick else MISSED)


if __name__ == "__main__":
    main()
