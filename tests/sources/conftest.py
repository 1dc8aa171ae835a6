from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """A real S3 server, in this process."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def storage(s3_endpoint: str) -> dict[str, Any]:
    """What s3fs needs to reach it."""
    return {"key": "testing", "secret": "very-secret-key", "endpoint_url": s3_endpoint}


@pytest.fixture
def s3(storage: dict[str, Any]) -> Any:
    return pytest.importorskip("s3fs").S3FileSystem(**storage, use_listings_cache=False)
