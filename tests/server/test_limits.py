"""API keys, rates, sizes and time limits; batches; and pages of other origins."""

from __future__ import annotations

import base64
import json
import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from penstock.core.errors import UsageError
from penstock.core.records import Dense
from penstock.server import bodies
from penstock.server.rates import RateLimiter
from penstock.server.settings import Settings, keys_from
from penstock.sinks.memory import forget
from tests.server.serving import Client, ColourEmbedder, chunk, either, fill, picture, refused, served, with_settings

URL = "memory://serve-limits"


@pytest.fixture(autouse=True)
def index() -> Iterator[None]:
    fill(URL, [chunk(n, f"line {n}") for n in range(5)])
    yield
    forget(URL)


class Held(ColourEmbedder):
    """Blocks until it is freed; records the sizes of the batches."""

    def __init__(self) -> None:
        super().__init__()
        self.free = threading.Event()
        self.free.set()
        self.batches: list[int] = []

    def query(self, texts: Sequence[str]) -> list[Dense]:
        self.free.wait(20)
        self.batches.append(len(texts))
        return super().query(texts)


def at_once(client: Client, count: int, **query: Any) -> list[Any]:
    with ThreadPoolExecutor(count) as pool:
        searches = [pool.submit(client.post, "/v1/search", json={"text": f"line {n}", **query}) for n in range(count)]
        return [search.result() for search in searches]


def test_keys() -> None:
    """By either header; without one only probes, the page and the API document are open."""
    with served(URL, with_settings(keys=("sesame", "öffne"))) as client:
        for headers in (
            {"Authorization": "Bearer sesame"},
            {"authorization": "bearer  sesame"},
            {"X-API-Key": "sesame"},
            {b"X-API-Key": "öffne".encode()},
        ):
            assert client.get("/v1/search?q=line", headers=headers).status_code == 200, headers  # type: ignore[arg-type]
        for headers in ({}, {"X-API-Key": ""}, {"X-API-Key": "sesam"}, {"Authorization": "Basic sesame"}):
            answer = client.get("/v1/search?q=line", headers=headers)
            refused(answer, 401, "key")
            assert answer.headers["www-authenticate"] == "Bearer"
        for path in ("/v1/status", "/v1/points/x", "/v1/thumbs/x", "/metrics", "/search?query=x", "/indices-list"):
            refused(client.get(path), 401)
        refused(client.post("/v1/embeddings", json={"input": "x"}), 401)
        assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
        assert "sesame" not in client.get("/metrics", headers={"X-API-Key": "sesame"}).text
        assert "sesame" not in client.get("/v1/status", headers={"X-API-Key": "sesame"}).text
    assert "sesame" not in repr(Settings(keys=("sesame",)))


def test_keys_of_the_environment() -> None:
    """Without the variable there are no keys; an empty one is an error."""
    assert keys_from({}) == ()
    assert keys_from({"PENSTOCK_API_KEYS": " a, b,,"}) == ("a", "b")
    for nothing in ("", " ", ","):
        with pytest.raises(UsageError, match="holds no key"):
            keys_from({"PENSTOCK_API_KEYS": nothing})


def test_rate_limit() -> None:
    """With Retry-After; probes are free, and each client has a rate of its own."""
    with served(URL, with_settings(rate=2.0, keys=("a", "b"))) as client:
        answers = [client.get("/v1/search?q=line", headers={"X-API-Key": "a"}) for _ in range(8)]
        limited = [answer for answer in answers if answer.status_code == 429]
        assert len(limited) >= 3
        assert answers[0].status_code == 200
        refused(limited[0], 429, "2 requests a second")
        assert int(limited[0].headers["retry-after"]) >= 1
        assert client.get("/v1/search?q=line", headers={"X-API-Key": "b"}).status_code == 200
        assert {client.get(path).status_code for path in ("/healthz", "/openapi.json") * 8} == {200}
        guesses = [client.get("/v1/search?q=line", headers={"X-API-Key": str(n)}).status_code for n in range(8)]
        assert 429 in guesses


def test_rates_remember_only_so_many() -> None:
    rates = RateLimiter(1.0)
    for n in range(20_000):
        assert rates.take(f"client {n}") == 0
    assert len(rates._buckets) == 10_000


def test_body_limit() -> None:
    """By Content-Length, and by the bytes that come where there is none."""
    with served(URL, with_settings(body=2000)) as client:
        refused(client.post("/v1/search", json={"text": "x" * 3000}), 413, "2,000 bytes")

        def pieces() -> Iterator[bytes]:
            yield b'{"text": "'
            for _ in range(30):
                yield b"x" * 100

        refused(client.post("/v1/search", content=pieces(), headers={"content-type": "application/json"}), 413)
        refused(client.post("/v1/search", files={"image": ("a.png", b"x" * 3000)}), 413)
        assert client.found(text="line 1", k=1) == ["doc:1"]


def test_time_limit() -> None:
    """A search that takes too long is given up, whatever it waits for; the next ones work."""
    model = Held()
    with served(URL, with_settings(seconds=0.5), opener=either(model)) as client:
        model.free.clear()
        refused(client.post("/v1/search", json={"text": "line"}), 504, "too long")
        refused(client.get("/readyz"), 504, "too long")
        model.free.set()
        assert client.found(text="line 1", k=1) == ["doc:1"]
        assert client.get("/readyz").status_code == 200


def test_probes_do_not_wait_for_searches() -> None:
    """Neither large queries nor a slow model hold up the event loop."""
    model = Held()
    with served(URL, opener=either(model)) as client, ThreadPoolExecutor(8) as pool:
        large = base64.b64encode(picture("red", size=(2000, 1000), kind="BMP")).decode()
        model.free.clear()
        searches = [pool.submit(client.post, "/v1/search", json={"image": large, "text": "line 1"}) for _ in range(8)]
        slowest = 0.0
        for _ in range(20):
            began = time.perf_counter()
            assert client.get("/healthz").status_code == 200
            slowest = max(slowest, time.perf_counter() - began)
        model.free.set()
        assert [search.result().status_code for search in searches] == [200] * 8
    assert slowest < 1.0


def test_a_body_that_never_ends_is_given_up() -> None:
    with (
        served(URL, with_settings(seconds=0.5)) as client,
        socket.create_connection((client.base_url.host, client.base_url.port or 80)) as line,
    ):
        line.sendall(
            b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
        )
        line.settimeout(10)
        assert b" 504 " in line.recv(4096)


def test_bodies_are_held_within_bounds_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that comes while a slow one is held is refused with Retry-After; afterwards it passes."""
    monkeypatch.setattr(bodies, "MAX_HELD", 1000)
    head = (
        b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 950\r\n\r\n"
    )
    with served(URL) as client:
        with socket.create_connection((client.base_url.host, client.base_url.port or 80)) as line:
            line.sendall(head + b" " * 900)
            time.sleep(0.2)
            refused(client.post("/v1/search", json={"text": "x" * 300}), 429, "too large together")
            line.sendall(b'{"text": "line 1"' + b" " * 32 + b"}")
            line.settimeout(10)
            assert b" 200 " in line.recv(100)
        assert client.found(text="x" * 300, k=1)
        assert client.found(text="x" * 2000, k=1), "one that is larger passes alone"


def test_concurrent_queries_are_batched_and_too_many_refused() -> None:
    """Queries that gather while the model works are embedded together; beyond the queue: 429 with Retry-After."""
    model = Held()
    with served(URL, with_settings(queue=20, batch=8), opener=either(model)) as client:
        model.free.clear()
        model.batches.clear()
        threading.Timer(0.7, model.free.set).start()
        answers = at_once(client, 30)
        codes = sorted(answer.status_code for answer in answers)
        assert codes == [200] * 20 + [429] * 10
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers if answer.status_code == 429)
        for number, answer in enumerate(answers):
            if answer.status_code == 200 and number < 5:
                assert answer.json()["hits"][0]["uri"] == f"doc:{number}"
        assert max(model.batches) == 8
        assert sum(model.batches) == 20
        text = client.get("/metrics").text
        assert 'penstock_refused_total{reason="queue"} 10' in text
        assert at_once(client, 5)[0].status_code == 200


def test_one_invalid_query_does_not_fail_the_batch() -> None:
    """It alone is refused."""

    class Picky(Held):
        def query(self, texts: Sequence[str]) -> list[Dense]:
            if "poison" in texts:
                raise UsageError("the query is too long for the model")
            return super().query(texts)

    model = Picky()
    with served(URL, opener=either(model)) as client, ThreadPoolExecutor(6) as pool:
        model.free.clear()
        searches = [
            pool.submit(client.get, "/v1/search", params={"q": q}) for q in ("line 1", "poison", "line 2", "line 3")
        ]
        time.sleep(0.3)
        model.free.set()
        assert [search.result().status_code for search in searches] == [200, 400, 200, 200]
        refused(searches[1].result(), 400, "too long for the model")


def test_an_internal_error_reveals_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """500 for the client, a line in the log, and the server continues."""

    class Broken(Held):
        def query(self, texts: Sequence[str]) -> list[Dense]:
            if "break" in texts:
                raise ZeroDivisionError("secret\nforged line")
            return super().query(texts)

    with served(URL, opener=either(Broken())) as client:
        answer = client.get("/v1/search?q=break")
        refused(answer, 500, "internal error")
        assert "secret" not in answer.text
        assert client.found(text="line 1", k=1) == ["doc:1"]
    [record] = [record for record in caplog.records if record.name == "penstock.server" and record.levelname == "ERROR"]
    assert "ZeroDivisionError" in record.getMessage()
    assert "\n" not in record.getMessage()


def test_pages_of_other_origins() -> None:
    """CORS is off by default; on, it admits the origins that are named, and errors are readable there, too."""
    asking = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    with served(URL) as client:
        assert "access-control-allow-origin" not in client.get("/v1/search?q=x", headers=asking).headers
        refused(client.options("/v1/search", headers=asking), 405)
    with served(URL, with_settings(origins=("https://a.example",), keys=("k",))) as client:
        before = client.options("/v1/search", headers={**asking, "Access-Control-Request-Headers": "x-api-key"})
        assert before.status_code == 200
        assert before.headers["access-control-allow-origin"] == "https://a.example"
        answer = client.get("/v1/search?q=x", headers={**asking, "X-API-Key": "k"})
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
        assert (
            client.get("/v1/search?q=x", headers=asking).headers["access-control-allow-origin"] == "https://a.example"
        )
        foreign = {"Origin": "https://b.example", "X-API-Key": "k"}
        assert "access-control-allow-origin" not in client.get("/v1/search?q=x", headers=foreign).headers


@pytest.mark.parametrize(
    "wrong",
    [
        {"origins": ("a.example",)},
        {"origins": ("https://a.example/",)},
        {"origins": ("*",)},
        {"port": 70_000},
        {"body": 0},
        {"rate": -1.0},
        {"seconds": float("nan")},
    ],
)
def test_invalid_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Settings(**wrong)


def test_metrics_are_in_the_format_of_prometheus(client: Client) -> None:
    """Every line parses, buckets add up, and no text of a client becomes a label."""
    client.found(text="weighs")
    client.get("/v1/points/secret-id")
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    line = re.compile(r'^([a-z_]+)(\{([a-z]+="(?:[^"\\\n]|\\.)*",?)+\})? (\d+(\.\d+)?(e[+-]\d+)?)$')
    seen: dict[str, float] = {}
    for text in answer.text.splitlines():
        if text.startswith("#"):
            assert re.match(r"^# (HELP|TYPE) penstock_[a-z_]+ \S", text), text
            continue
        match = line.match(text)
        assert match, text
        seen[match[1] + (match[2] or "")] = float(match[4])
    assert seen['penstock_requests_total{route="/v1/search",status="200"}'] >= 1
    for stage in ("embed", "search", "queue"):
        whole = seen[f'penstock_stage_seconds_bucket{{stage="{stage}",le="+Inf"}}']
        assert whole == seen[f'penstock_stage_seconds_count{{stage="{stage}"}}'] >= 1
    assert "penstock_queue_depth" in seen
    assert "penstock_model_queue_depth" in seen
    assert 'penstock_batch_size_count{kind="texts"}' in seen
    assert "secret-id" not in answer.text


def test_status(client: Client) -> None:
    status = client.get("/v1/status").json()
    assert status["index"] == "memory://serve-api"
    assert status["points"] == 13
    assert (status["model"]["model"], status["model"]["dim"], status["model"]["images"]) == ("colours", 256, True)
    assert status["limits"]["keys"] is False
    assert status["ledger"] is None
    assert json.dumps(status)
