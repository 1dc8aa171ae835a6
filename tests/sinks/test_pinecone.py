"""`pinecone://` keeps the promises of a sink: the official client over a strict emulator."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from penstock.records import Manifest
from penstock.sinks.pinecone import PineconeIndex, PineconeSink
from penstock.testing.sink_suite import MakeIndex, MakeSink, SinkSuite

pytest.importorskip("pinecone")
pytest.importorskip("orjson")

from penstock.testing.emulators.pinecone import PineconeServer  # noqa: E402

SECRET = "pcsk_s3cr3t-s3cr3t"
MANIFEST = SinkSuite().manifest
Place = tuple[str, PineconeServer]


@pytest.fixture(scope="module")
def server() -> Iterator[PineconeServer]:
    with PineconeServer(SECRET) as server:
        yield server


@pytest.fixture
def place(server: PineconeServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A url where nothing is yet, and its server."""
    server.index, server.positions, server.lag = None, True, 0.01
    monkeypatch.setenv("PINECONE_API_KEY", SECRET)
    yield f"pinecone://my-index/notes?cloud=aws&region=us-east-1&host=127.0.0.1:{server.port}", server
    server.refused.clear()
    server.requests.clear()


def opened(url: str, **space: Any) -> PineconeSink:
    sink = PineconeSink(url)
    sink.open(Manifest(replace(MANIFEST.space, **space)))
    return sink


class TestPinecone(SinkSuite):
    secret = SECRET

    @pytest.fixture
    def make_sink(self, place: Place) -> MakeSink:
        return lambda: PineconeSink(place[0])

    @pytest.fixture
    def make_index(self, place: Place) -> MakeIndex:
        return lambda: PineconeIndex(place[0])
