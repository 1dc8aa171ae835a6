"""Floods by one key beside another key that searches: it is never refused, and never waits for the flood."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import httpx
import pytest

from penstock.core.records import Dense
from penstock.sinks.memory import forget
from tests.server.serving import Client, ColourEmbedder, chunk, either, fill, picture, served, with_settings

pytestmark = pytest.mark.attack

URL = "memory://floods"
FLOODER, SEARCHER = {"X-API-Key": "flooder"}, {"X-API-Key": "searcher"}
JSON = {"Content-Type": "application/json"}
EACH = 0.03
"""Seconds that the model takes for a text."""
SECONDS = 5.0
MOST = 4.0
"""Seconds of a search that show that it waited for the flood, as it did for eight to ten; a busy machine takes some of
them itself."""


class Working(ColourEmbedder):
    """Takes a while for each text, as models do."""

    def query(self, texts: Sequence[str]) -> list[Dense]:
        time.sleep(EACH * len(texts))
        return super().query(texts)


LONG = [f"{'word ' * 200}{n}" for n in range(256)]
FLOODS = {
    "texts": ("/v1/embeddings", json.dumps({"input": LONG}).encode()),
    "batches": ("/v1/search/batch", json.dumps({"queries": [{"text": text, "k": 200} for text in LONG[:32]]}).encode()),
    "images": (
        "/v1/search",
        json.dumps({"image": base64.b64encode(picture("red", size=(1500, 1500), kind="BMP")).decode()}).encode(),
    ),
    "numbers": ("/v1/search", b'{"vector": [' + b"0," * (7 << 20) + b"0]}"),
    "objects": ("/knn-service", b'{"x": [' + b"{}," * (5 << 20) + b"0]}"),
    "vectors": ("/v1/search", b'{"vector": [' + b"0.123456789," * 60_000 + b"0]}"),
}


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    fill(URL, [chunk(n, f"line {n}") for n in range(50)])
    with served(URL, with_settings(keys=("flooder", "searcher")), opener=either(Working(workers=request.param))) as one:
        assert one.get("/v1/search?q=line", headers=SEARCHER).status_code == 200
        yield one
    forget(URL)


@contextmanager
def flood(client: Client, path: str, body: bytes, senders: int = 8) -> Iterator[list[int]]:
    """Send it as often as it is answered; yields the statuses so far."""
    statuses: list[int] = []
    stop = threading.Event()

    def send() -> None:
        with httpx.Client(base_url=client.base_url, headers=FLOODER | JSON, trust_env=False, timeout=60) as own:
            while not stop.is_set():
                with suppress(httpx.HTTPError):
                    statuses.append(own.post(path, content=body).status_code)
                stop.wait(0.01)

    threads = [threading.Thread(target=send) for _ in range(senders)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(1.0)
        yield statuses
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("kind", FLOODS)
def test_another_key_searches_beside_a_flood(client: Client, kind: str) -> None:
    with flood(client, *FLOODS[kind]) as statuses:
        end, slowest = time.monotonic() + SECONDS, 0.0
        while time.monotonic() < end:
            began = time.monotonic()
            assert client.get("/v1/search?q=line", headers=SEARCHER).status_code == 200
            slowest = max(slowest, time.monotonic() - began)
            assert client.get("/readyz").status_code == 200
            assert client.get("/healthz").status_code == 200
    assert slowest < MOST
    assert 500 not in statuses
