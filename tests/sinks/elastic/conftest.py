"""Servers that the tests write to: a strict emulator of each product."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from penstock.testing.emulators.elastic import ElasticServer
from tests.sinks.elastic import FLAVORS, SECRET, Endpoint


@pytest.fixture(scope="package", params=FLAVORS)
def servers(request: pytest.FixtureRequest) -> Iterator[tuple[str, ElasticServer]]:
    with ElasticServer(FLAVORS[request.param], user="me", password=SECRET, key=SECRET) as server:
        yield request.param, server


@pytest.fixture
def endpoint(servers: Endpoint, monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    """The url of an index that does not exist yet, on a server of each product, and that server."""
    scheme, server = servers
    server.indices.clear()
    server.aliases.clear()
    monkeypatch.setenv("ELASTIC_PASSWORD", SECRET)
    monkeypatch.setenv("OPENSEARCH_PASSWORD", SECRET)
    yield f"{scheme}://me@127.0.0.1:{server.port}/notes", server
    server.refused.clear()
    server.requests.clear()
    server.sizes.clear()
    server.recall, server.largest = 1.0, 100 << 20
    server.number, server.licensed = "", True


@pytest.fixture
def elasticsearch(endpoint: Endpoint) -> Endpoint:
    if endpoint[1].flavor == "opensearch":
        pytest.skip("OpenSearch takes dense vectors only")
    return endpoint
