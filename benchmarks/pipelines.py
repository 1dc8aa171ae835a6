"""Two pipelines in one process against two processes: memory while both are followed, and the time of two folders.

    python benchmarks/pipelines.py                       # 0.3 MB in each folder, 3 rounds
    python benchmarks/pipelines.py --mb 0.05 --rounds 1

The default model and store. Memory is that of the processes and their workers, once all is indexed and they idle. Times
are those of whole commands, taking turns: both folders by one `penstock run`, and by one command each, one after the
other.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import corpus
import psutil
from figures import record

NAMES = ("one", "two")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=float, default=0.3, help="of each folder")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    size = f"two folders of {options.mb:g} MB"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for seed, source in enumerate(NAMES):
            corpus.make(folder / source, int(options.mb * 1e6), seed=seed)
        memory = {files: resident(folder, files) for files in (("both",), NAMES)}
        together, apart = memory.values()
        print(f"followed, idle: {together >> 20} MiB in one process, {apart >> 20} MiB in two")
        record(f"{size} followed in one process: memory", together / 2**20, "MiB", better="lower")
        record(f"{size} followed in one process: share of the memory of two", together / apart, better="lower")
        times: dict[Sequence[str], list[float]] = {("both",): [], NAMES: []}
        for _ in range(options.rounds):
            for files, taken in times.items():
                began = time.monotonic()
                for file in prepared(folder, files):
                    subprocess.run(command(file), cwd=folder, check=True, capture_output=True)
                taken.append(time.monotonic() - began)
        together_s, apart_s = (statistics.median(taken) for taken in times.values())
        print(f"ingested: {together_s:.1f} s together, {apart_s:.1f} s one after the other")
        record(f"{size} ingested together: seconds", together_s, "s", better="lower")
        record(
            f"{size} ingested together: share of the time of one after the other", together_s / apart_s, better="lower"
        )


def prepared(folder: Path, files: Sequence[str]) -> list[str]:
    """Files of settings in a folder without indexes: of both pipelines, or one of each."""
    for left in (".penstock", *(f"{name}.index" for name in NAMES)):
        shutil.rmtree(folder / left, ignore_errors=True)
    tables = {name: f'[[pipeline]]\nsource = "{name}"\ninto = "lance://./{name}.index"\n' for name in NAMES}
    for file in files:
        (folder / f"{file}.toml").write_text("".join(tables.values()) if file == "both" else tables[file])
    return [f"{file}.toml" for file in files]


def command(file: str) -> list[str]:
    return [sys.executable, "-m", "penstock", "run", file]


def resident(folder: Path, files: Sequence[str]) -> int:
    """Bytes of the processes that follow these, once they have nothing to do."""
    processes = [
        subprocess.Popen([*command(file), "--live", "--json"], cwd=folder, stdout=subprocess.PIPE, text=True)
        for file in prepared(folder, files)
    ]
    try:
        for process in processes:
            indexed: set[str] = set()
            assert process.stdout is not None
            for line in process.stdout:
                event = json.loads(line)
                if event["listed"] and event["listed"] == event["documents"] and event["written"] == event["embedded"]:
                    indexed.add(event["pipeline"])
                if len(indexed) * len(files) == len(NAMES):
                    break
        time.sleep(2)  # what they have let go of by then is no longer theirs
        several = [psutil.Process(process.pid) for process in processes]
        tree = [each for process in several for each in (process, *process.children(recursive=True))]
        return sum(each.memory_info().rss for each in tree)
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.communicate()


if __name__ == "__main__":
    main()
