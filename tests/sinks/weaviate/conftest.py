"""Stores that the tests write to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.sinks.weaviate import SECRET

if TYPE_CHECKING:
    from penstock.testing.emulators.weaviate import Emulator


@pytest.fixture(scope="package")
def emulator() -> Iterator[Emulator]:
    from penstock.testing.emulators.weaviate import Emulator

    with Emulator(SECRET) as server:
        yield server


@pytest.fixture
def server(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    monkeypatch.setenv("WEAVIATE_API_KEY", SECRET)
    emulator.collections.clear()
    emulator.aliases.clear()
    emulator.requests.clear()
    emulator.refused.clear()
    return emulator
