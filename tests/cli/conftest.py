"""A folder with documents and a small model, and the command line run in it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from penstock.cli.main import main
from penstock.sinks.memory import forget
from penstock.support import heap

ROOT = Path(__file__).parents[2]
SENTENCE = "The gate decides how much water the pipe may hold."


@dataclass
class Ran:
    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Ran]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a small BERT with random weights: equal texts have equal vectors, and that is all it knows."""
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import make_checkpoints
    finally:
        sys.path.remove(str(ROOT / "scripts"))
    return str(make_checkpoints.make("bert", tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def here(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with docs/ in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PENSTOCK_CACHE", str(cache))
    monkeypatch.delenv("PENSTOCK_DEBUG", raising=False)
    monkeypatch.setattr(heap, "tighten", lambda: None)  # this process is that of the tests
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "gates.md").write_text(f"# Gates\n\n{SENTENCE}\n")
    (docs / "two words.txt").write_text("Nothing here is about turbines.\n")
    return tmp_path


@pytest.fixture
def run(here: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*argv: str) -> Ran:
        status = main(argv)
        said = capsys.readouterr()
        return Ran(status, said.out, said.err)

    return call


@pytest.fixture
def index(tmp_path: Path) -> Iterator[str]:
    """A store of this process: much quicker than one on disk."""
    url = f"memory://{tmp_path.name}"
    yield url
    forget(url)


@pytest.fixture
def ingest(run: Run, model: str, index: str) -> Run:
    """`penstock ingest docs` with the small model, into the store in memory if no other is given."""

    def call(*options: str, into: str = index) -> Ran:
        return run("ingest", "docs", "--into", into, "--model", model, *options)

    return call
