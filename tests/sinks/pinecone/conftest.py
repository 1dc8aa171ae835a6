"""The server that the tests write to: a strict emulator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from penstock.sinks.pinecone import PineconeSink
from penstock.testing.ownership_suite import Ownership
from tests.sinks.pinecone import SECRET, Endpoint

if TYPE_CHECKING:
    from penstock.testing.emulators.pinecone import PineconeServer


@pytest.fixture(scope="package")
def server() -> Iterator[PineconeServer]:
    from penstock.testing.emulators.pinecone import PineconeServer

    with PineconeServer(SECRET) as server:
        yield server


@pytest.fixture
def endpoint(
    server: PineconeServer, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Endpoint]:
    """The url of a namespace in an index that does not exist yet, and the server."""
    server.forget()
    server.positions, server.lag = True, 0.01
    monkeypatch.setenv("PINECONE_API_KEY", SECRET)
    at_once = hasattr(Ownership, request.function.__name__)  # else nobody else creates the index
    creating = "exchange" not in request.function.__name__ and "lost" not in request.function.__name__
    monkeypatch.setattr(PineconeSink, "settle", (4.0 if creating else 2.0) if at_once else 0.0)
    yield f"pinecone://my-index/notes?cloud=aws&region=us-east-1&host=127.0.0.1:{server.port}", server
    server.refused.clear()
    server.requests.clear()
