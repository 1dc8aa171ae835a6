"""Fixtures of the tests of a fan-out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sinks.fanout.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)
