"""Every benchmark runs, in its smallest form. What it measures then means nothing; that it measures does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SMALLEST = {
    "chunking.py": ["--mb", "0.2", "--repeat", "1"],
    "embed_loop.py": ["--chunks", "20", "--rounds", "1"],
    "parts.py": ["--images", "100", "--vectors", "500"],
    "serve.py": ["--vectors", "2000", "--dim", "32", "--queries", "20", "--clients", "5", "--each", "1"],
    "images.py": ["--images", "16", "--rounds", "1"],
    "latency.py": ["--files", "30", "--mb", "2", "--rounds", "1"],
    "memory.py": ["--quick", "--only", "8 MB"],
    "overhead.py": ["--mb", "0.02", "--rounds", "1"],
    "sinks.py": ["--points", "500", "--sinks", "memory"],
    "throughput.py": ["--mb", "1", "--rounds", "1"],
}
NEEDS_PEERS = {"peers.py"}
LIBRARIES = {"corpus.py"}


def test_no_benchmark_is_forgotten() -> None:
    assert {path.name for path in BENCHMARKS.glob("*.py")} == SMALLEST.keys() | NEEDS_PEERS | LIBRARIES


@pytest.mark.heavy
@pytest.mark.parametrize("name", SMALLEST)
def test_benchmark_runs(name: str) -> None:
    done = subprocess.run(
        [sys.executable, name, *SMALLEST[name]], cwd=BENCHMARKS, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
