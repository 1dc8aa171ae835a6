"""Checkpoints for the embedder's tests: small ones made on the spot, the default one fetched once."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from functools import cache as cache_calls
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "tests" / "data" / "reference"
TRAINED = ROOT / "tests" / "data" / "shapes-clip"
SMALL = 300

Make = Callable[[str], Path]


def each_once(make: Callable[[str, Path], Path], folder: Path) -> Make:
    """Make a checkpoint of each name in the folder, when it is asked for first."""
    return cache_calls(lambda name: make(name, folder))


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes a small checkpoint by its recipe's name, once."""
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import make_checkpoints
    finally:
        sys.path.remove(str(ROOT / "scripts"))
    return each_once(make_checkpoints.make, tmp_path_factory.mktemp("checkpoints"))


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

    make = each_once(make_clip_checkpoints.make, tmp_path_factory.mktemp("clip"))
    return lambda name: TRAINED if name == "shapes" else make(name)


@pytest.fixture(scope="session")
def tokens(scripts: None, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Makes a small random checkpoint of late interaction, SPLADE or a static model by its name, once."""
    import make_token_checkpoints

    return each_once(make_token_checkpoints.make, tmp_path_factory.mktemp("tokens"))


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
