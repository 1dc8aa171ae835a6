"""Checkpoints for the embedder's tests: small ones made on the spot, the default one fetched once."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "tests" / "data" / "reference"
TRAINED = ROOT / "tests" / "data" / "shapes-clip"
SMALL = 300

Make = Callable[[str], Path]


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes a small checkpoint by its recipe's name, once."""
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import make_checkpoints
    finally:
        sys.path.remove(str(ROOT / "scripts"))
    folder = tmp_path_factory.mktemp("checkpoints")
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = make_checkpoints.make(name, folder)
        return made[name]

    return make


@pytest.fixture(scope="session")
def scripts() -> Iterator[None]:
    """What draws pictures and makes checkpoints."""
    sys.path.insert(0, str(ROOT / "scripts"))
    yield
    sys.path.remove(str(ROOT / "scripts"))


@pytest.fixture(scope="session")
def made(scripts: None, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Makes a small random checkpoint by its recipe's name, once."""
    import make_clip_checkpoints

    folder, there = tmp_path_factory.mktemp("clip"), dict[str, Path]()

    def make(name: str) -> Path:
        if name == "shapes":
            return TRAINED
        if name not in there:
            there[name] = make_clip_checkpoints.make(name, folder)
        return there[name]

    return make


@pytest.fixture(scope="session")
def tokens(scripts: None, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Makes a small random checkpoint of late interaction, SPLADE or a static model by its name, once."""
    import make_token_checkpoints

    folder, there = tmp_path_factory.mktemp("tokens"), dict[str, Path]()

    def make(name: str) -> Path:
        if name not in there:
            there[name] = make_token_checkpoints.make(name, folder)
        return there[name]

    return make


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return list(json.loads((REFERENCE / "texts.json").read_text("utf-8")))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("PENSTOCK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def reference(name: str) -> dict[str, np.ndarray]:
    with np.load(REFERENCE / f"{name}.npz") as stored:
        return dict(stored)
