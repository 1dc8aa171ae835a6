"""Tests of `weaviate://`, and values that they share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.core.records import VECTOR, Dense, Point
from penstock.testing.sink_suite import SinkSuite

if TYPE_CHECKING:
    from penstock.testing.emulators.weaviate import Emulator

SECRET = "a-key-not-to-be-shown"
DENSE = SinkSuite().manifest


def at(server: Emulator, name: str = "notes") -> str:
    return f"weaviate://127.0.0.1:{server.port}/{name}?grpc={server.grpc_port}"


def vector_of(point: Point) -> Dense:
    found = point.vectors[VECTOR]
    assert isinstance(found, Dense)
    return found
