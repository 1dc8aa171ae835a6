"""Stores that the tests write to."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.testing.emulators.qdrant import Emulator
from tests.sinks.qdrant import SECRET, at


@pytest.fixture(scope="package")
def emulator() -> Iterator[Emulator]:
    with Emulator(SECRET) as server:
        yield server


@pytest.fixture
def server(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    monkeypatch.setenv("QDRANT_API_KEY", SECRET)
    emulator.collections.clear()
    emulator.aliases.clear()
    emulator.requests.clear()
    return emulator


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where there is such a file system: the local mode syncs after each point."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path) as name:
        yield Path(name)


@pytest.fixture(params=["folder", "server"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "server":
        return at(request.getfixturevalue("server"))
    return f"qdrant://{request.getfixturevalue('folder')}/notes"
