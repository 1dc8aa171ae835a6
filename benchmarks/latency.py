"""Time until a command answers: for help, for a run that finds nothing changed, for the first vector of a large corpus.

    python benchmarks/latency.py                 # 20,000 files; a corpus of 1.6 GB
    python benchmarks/latency.py --files 2000 --mb 100

Every time is the wall clock of a whole process, from its start, with the default model and the embedded default index.
Bars: 0.3 s, 2 s, 3 s.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from corpus import make
from figures import record

BARS = {"penstock --help": 0.3, "nothing changed": 2.0, "first vector": 3.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--mb", type=int, default=1600)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = {"penstock --help": [clock(["--help"]) for _ in range(options.rounds)]}

        many = folder / "many"
        for number in range(options.files):
            part = many / f"{number // 500:03}"
            part.mkdir(parents=True, exist_ok=True)
            (part / f"{number}.md").write_text(f"# Note {number}\n\nThe only sentence of note {number}.\n")
        ingest = ["ingest", str(many), "--into", f"lance://{folder}/many-index", "--state", f"{folder}/many.db", "-q"]
        began = time.perf_counter()
        clock(ingest)
        print(f"{options.files} files indexed in {time.perf_counter() - began:.0f} s", flush=True)
        rows["nothing changed"] = [clock(ingest) for _ in range(options.rounds)]

        large = folder / "large"
        make(large, options.mb * 1_000_000, file_size=200_000)
        rows["first vector"] = [first_vector(large, folder / f"index-{i}") for i in range(options.rounds)]
    sizes = {"nothing changed": f" in {options.files:,} files", "first vector": f" of {options.mb:,} MB"}
    print(f"\n{'':18}{'median s':>9}{'worst':>8}{'bar':>6}")
    for what, seconds in rows.items():
        record(what + sizes.get(what, ""), statistics.median(seconds), "s", bar=BARS[what], better="lower")
        print(f"{what:18}{statistics.median(seconds):>9.2f}{max(seconds):>8.2f}{BARS[what]:>6}")


def clock(arguments: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "penstock", *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def first_vector(docs: Path, index: Path) -> float:
    """Seconds until another process, which only watches the folder, sees rows committed in the index."""
    began = time.perf_counter()
    run = subprocess.Popen(
        [sys.executable, "-m", "penstock", "ingest", str(docs), "--into", f"lance://{index}", "-q"],
        cwd=docs.parent,
        start_new_session=True,
    )
    try:
        data = index / "chunks.lance" / "data"
        while not (data.is_dir() and any(data.iterdir())):
            if run.poll() is not None:
                raise SystemExit("the ingest ended before it wrote anything")
            if time.perf_counter() - began > 60:
                raise SystemExit("no vector within a minute")
            time.sleep(0.005)
        seconds = time.perf_counter() - began
        assert rows_in(index) > 0
        return seconds
    finally:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()


def rows_in(index: Path) -> int:
    import lancedb

    for _ in range(200):  # the data file is there a moment before the version that names it
        table = lancedb.connect(index).open_table("chunks")
        if count := int(table.count_rows()):
            return count
        time.sleep(0.01)
    return 0


if __name__ == "__main__":
    main()
