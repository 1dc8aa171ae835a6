"""Run a benchmark and keep its result: figures, machine, date, commit and arguments.

    python benchmarks/run.py                            # list the benchmarks
    python benchmarks/run.py latency                    # run benchmarks/latency.py
    python benchmarks/run.py sinks --sinks sqlite       # all further arguments are the benchmark's own

The result goes to benchmarks/results/NAME.json. A run replaces earlier figures of the same names and leaves others: so
several runs with different arguments stand side by side. scripts/readme_numbers fills the README from these files.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import figures

FOLDER = Path(__file__).resolve().parent
LIBRARIES = {"corpus", "figures", "live_cocoindex", "run"}


def benchmarks() -> dict[str, str]:
    """Name of each benchmark and the first line of its docstring."""
    scripts = [path for path in sorted(FOLDER.glob("*.py")) if path.stem not in LIBRARIES]
    docs = {path.stem: ast.get_docstring(ast.parse(path.read_text("utf-8"))) for path in scripts}
    return {name: doc.splitlines()[0] if doc else "" for name, doc in docs.items()}


def machine() -> dict[str, Any]:
    """Describe the machine: a figure means little without it."""
    fields: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    except OSError:  # Not Linux.
        pass
    flags = fields.get("flags", "").split()
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "cpu": fields.get("model name") or platform.processor() or platform.machine(),
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "avx2": "avx2" in flags,
        "avx512": "avx512f" in flags,
        "memory GiB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
    }


def commit() -> str | None:
    """Name the measured commit, and say if the package differs from it; None outside a git checkout."""

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", "-C", str(FOLDER), *arguments], capture_output=True, text=True, check=False)

    try:
        head = git("rev-parse", "--short=10", "HEAD")
    except FileNotFoundError:  # git is not installed
        return None
    if head.returncode:
        return None
    changed = git("diff", "--quiet", "HEAD", "--", str(FOLDER.parent / "src")).returncode
    return head.stdout.strip() + (" with changes" if changed else "")


def run(name: str, arguments: Sequence[str], results: Path) -> int:
    """Run one benchmark with its output on ours; keep its figures and return its exit status."""
    began, date = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    with tempfile.TemporaryDirectory(prefix="penstock-figures-") as folder:
        path = Path(folder) / "figures"
        path.touch()
        command = [sys.executable, "-u", str(FOLDER / f"{name}.py"), *arguments]
        status = subprocess.run(command, env=os.environ | {figures.VARIABLE: str(path)}, check=False).returncode
        recorded = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    if status not in (0, figures.MISSED):
        end = f"by signal {-status}" if status < 0 else f"with status {status}"
        print(f"{name} failed {end}: no result is kept; its own error is above", file=sys.stderr)
        return status if status > 0 else 128 - status
    if recorded:
        entry = {
            "arguments": list(arguments),
            "date": date,
            "commit": commit(),
            "seconds": round(time.monotonic() - began, 1),
            "machine": machine(),
            "figures": recorded,
        }
        keep(name, entry, results)
    else:
        print(f"{name} recorded no figures: no result is kept", file=sys.stderr)
    return status


def keep(name: str, entry: dict[str, Any], results: Path) -> None:
    """Add a run to the file of its benchmark, and take out the figures that it replaces."""
    path = results / f"{name}.json"
    runs = json.loads(path.read_text("utf-8"))["runs"] if path.exists() else []
    fresh = {figure["name"] for figure in entry["figures"]}
    for old in runs:
        old["figures"] = [figure for figure in old["figures"] if figure["name"] not in fresh]
    runs = [old for old in runs if old["figures"]] + [entry]
    results.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"benchmark": name, "runs": runs}, indent=1, ensure_ascii=False) + "\n"
    partial = path.with_suffix(".partial")
    partial.write_text(text, "utf-8")
    partial.replace(path)
    print(f"{len(fresh)} figures kept in {path}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=FOLDER / "results", help="folder of the results")
    parser.add_argument("name", nargs="?", help="the benchmark; a list of all if left out")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="the benchmark's own")
    options = parser.parse_args()
    known = benchmarks()
    if options.name is None:
        for name, line in known.items():
            print(f"{name:12} {line}")
        return
    name = options.name.removesuffix(".py")
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        parser.error(f"no benchmark {name!r}: expected one of {', '.join(known)}" + (f"; {near[0]}?" if near else ""))
    sys.exit(run(name, options.arguments, options.results))


if __name__ == "__main__":
    main()
