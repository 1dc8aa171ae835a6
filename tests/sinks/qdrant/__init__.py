"""Tests of `qdrant://`, and values that they share."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from penstock.core.records import VECTOR, Dense, Point
from penstock.testing.sink_suite import SinkSuite, point

if TYPE_CHECKING:
    from penstock.testing.emulators.qdrant import Emulator

SECRET = "a-key-not-to-be-shown"
DENSE = SinkSuite().manifest


def at(server: Emulator, name: str = "notes") -> str:
    return f"qdrant://127.0.0.1:{server.port}/{name}"


def dense(id: str, values: object) -> Point:
    """A point of this id and vector."""
    return Point(replace(point(1).chunk, id=id), {VECTOR: Dense(np.array(values, np.float32))})
