"""What the program does to its own process, and a library never does to its host's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

POOL = "ARROW_DEFAULT_MEMORY_POOL"
HOST = f"""
import os, sys
import numpy as np
from penstock.pipeline import Pipeline
report = Pipeline("docs", into="memory://x", model=lambda texts: np.ones((len(texts), 3)), state="a.db").run()
print(report.added, os.environ.get("{POOL}"))
"""
PROGRAM = f"""
import os
from penstock.cli.main import main
print(main(["status", "--state", "nosuch.db"]), os.environ.get("{POOL}"))
print(main(["verify", "--state", "nosuch.db"]), os.environ.get("{POOL}"))
"""


def lines(code: str, folder: Path) -> list[str]:
    environment = {name: value for name, value in os.environ.items() if name != POOL}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_the_allocator_is_the_programs_to_set(tmp_path: Path) -> None:
    """Commands that work for long set it; a pipeline in somebody's process leaves it alone."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/a.md").write_text("The gate decides.")
    assert lines(HOST, tmp_path) == ["1 None"]
    assert lines(PROGRAM, tmp_path) == ["2 None", "2 system"]


def test_a_search_loads_no_engine_and_no_ledger(tmp_path: Path) -> None:
    """Neither `open_index` nor `penstock search` does."""
    code = """
import sys
from dataclasses import replace
import numpy as np
import penstock
from penstock.cli.main import main
from penstock.core.records import VECTOR, Chunk, Dense, Point
from penstock.core.schema import Manifest, single
from penstock.embedders.functions import FunctionEmbedder
from penstock.sinks.memory import MemorySink

embedder = FunctionEmbedder(lambda texts: np.ones((len(texts), 3)))
sink = MemorySink("memory://x")
spec = replace(embedder.describe(), model="org/model")  # the name of a function is not looked up
sink.open(Manifest(single(spec)))
sink.write([Point(Chunk("0" * 32, "file:///a", 0, "text", (0, 4)), {VECTOR: Dense(np.ones(3, np.float32))})])
with penstock.open_index("memory://x", model=embedder) as index:
    assert len(index.search("question")) == 1
import penstock.compose, penstock.embedders.names
penstock.embedders.names.from_name = lambda name: embedder
assert main(["search", "question", "--in", "memory://x"]) == 0
engine = ("penstock.engine.flow", "penstock.jobs.session", "penstock.ledger", "penstock.pipeline", "sqlite3")
print([name for name in engine if name in sys.modules])
"""
    assert lines(code, tmp_path)[-1] == "[]"
