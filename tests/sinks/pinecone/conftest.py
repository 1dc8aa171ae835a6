"""The server that the tests write to: a strict emulator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from penstock.sinks.pinecone import PineconeSink
from tests.sinks.pinecone import SECRET, Endpoint

if TYPE_CHECKING:
    from penstock.testing.emulators.pinecone import PineconeServer


@pytest.fixture(scope="package")
def server() -> Iterator[PineconeServer]:
    from penstock.testing.emulators.pinecone import PineconeServer

    with PineconeServer(SECRET) as server:
        yield server


@pytest.fixture
def endpoint(server: PineconeServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    """The url of a namespace in an index that does not exist yet, and the server."""
    server.forget()
    server.positions, server.lag = True, 0.01
    monkeypatch.setenv("PINECONE_API_KEY", SECRET)
    monkeypatch.setattr(PineconeSink, "settle", 0.3)
    yield f"pinecone://my-index/notes?cloud=aws&region=us-east-1&host=127.0.0.1:{server.port}", server
    server.refused.clear()
    server.requests.clear()
