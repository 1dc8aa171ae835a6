"""Who may ask, how often, how much, how long; and what strangers' pages may do."""

from __future__ import annotations

import base64
import json
import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest

from penstock.core.errors import UsageError
from penstock.core.records import Dense
from penstock.server import connections, limits
from penstock.server.limits import RateLimiter
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
    """Waits before it embeds, as long as it is held; remembers the sizes of the batches."""

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
        asks = [pool.submit(client.post, "/v1/search", json={"text": f"line {n}", **query}) for n in range(count)]
        return [ask.result() for ask in asks]


def test_keys() -> None:
    """By either header; without one only what tells of the server itself is open."""
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
    """None is open; set to nothing is an accident."""
    assert keys_from({}) == ()
    assert keys_from({"PENSTOCK_API_KEYS": " a, b,,"}) == ("a", "b")
    for nothing in ("", " ", ","):
        with pytest.raises(UsageError, match="holds no key"):
            keys_from({"PENSTOCK_API_KEYS": nothing})


def test_rate_limit() -> None:
    """Told when to come again; probes are free, and one client's haste is not another's."""
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
    """By what the request says of its size, and by its size where it does not say."""
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
    """A search that takes too long is given up, whatever it waits for; then all is as before."""
    model = Held()
    with served(URL, with_settings(seconds=0.5), opener=either(model)) as client:
        model.free.clear()
        refused(client.post("/v1/search", json={"text": "line"}), 504, "too long")
        refused(client.get("/readyz"), 504, "too long")
        model.free.set()
        assert client.found(text="line 1", k=1) == ["doc:1"]
        assert client.get("/readyz").status_code == 200


def test_who_only_looks_does_not_wait_for_those_who_search() -> None:
    """Large questions, and a model that takes its time, are nobody's business on the event loop."""
    model = Held()
    with served(URL, opener=either(model)) as client, ThreadPoolExecutor(8) as pool:
        large = base64.b64encode(picture("red", size=(2000, 1000), kind="BMP")).decode()
        model.free.clear()
        asks = [pool.submit(client.post, "/v1/search", json={"image": large, "text": "line 1"}) for _ in range(8)]
        slowest = 0.0
        for _ in range(20):
            began = time.perf_counter()
            assert client.get("/healthz").status_code == 200
            slowest = max(slowest, time.perf_counter() - began)
        model.free.set()
        assert [ask.result().status_code for ask in asks] == [200] * 8
    assert slowest < 1.0


def test_a_body_that_never_ends_is_given_up() -> None:
    with (
        served(URL, with_settings(seconds=0.5)) as client,
        socket.create_connection((client.base_url.host, client.base_url.port or 80)) as line,
    ):
        line.sendall(
            b"POST /v1/search HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
        )
        line.settimeout(10)
        assert b" 504 " in line.recv(4096)


@contextmanager
def line(client: Client, *begins: bytes) -> Iterator[socket.socket]:
    """A connection by hand."""
    with socket.create_connection((client.base_url.host, client.base_url.port or 80)) as made:
        made.settimeout(10)
        made.sendall(b"\r\n".join(begins))
        yield made


def rest(made: socket.socket) -> bytes:
    """All that is said until the server closes; what is said before a reset may be lost."""
    whole = b""
    with suppress(ConnectionResetError):
        while piece := made.recv(1 << 16):
            whole += piece
    return whole


HEALTH = (b"GET /healthz HTTP/1.1", b"Host: x", b"")
CHUNKED = (b"POST /v1/search HTTP/1.1", b"Host: x", b"Content-Type: application/json", b"Transfer-Encoding: chunked")


@pytest.mark.parametrize(
    ("begins", "goes_on"),
    [
        (HEALTH, b"X: " + b"y" * 1000 + b"\r\n"),
        ((b"GET /",), b"y" * 1000),
        ((*CHUNKED, b"", b"0", b"X: "), b"y" * 1000),
        ((b"POST /healthz HTTP/1.1", b"Host: x", b"Transfer-Encoding: chunked", b"", b""), b"4\r\nbody\r\n"),
    ],
    ids=["headers", "address", "trailers", "unwanted body"],
)
def test_what_never_ends_is_cut_off(begins: tuple[bytes, ...], goes_on: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing heaps up that is no body; and the server is there for others."""
    monkeypatch.setattr(connections, "MAX_OVERHEAD", 1 << 20)
    sent = 0
    with served(URL) as client, line(client, *begins) as made:
        with suppress(ConnectionError):
            while sent < 64 << 20:
                made.sendall(goes_on * 64)
                sent += len(goes_on) * 64
        assert sent < 16 << 20, "sockets hold some"
        assert client.get("/healthz").status_code == 200


def test_who_is_slow_to_ask_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Says nothing, half a head, or half a head after a whole one: an answer one can read, and the door."""
    monkeypatch.setattr(connections, "TIMEOUT", 0.2)
    with served(URL) as client:
        for begins, late in (((), b""), (HEALTH, b""), ((*HEALTH, b""), b"GET /")):
            with line(client, *begins) as made:
                if late:
                    assert b" 200 " in made.recv(1000)
                    made.sendall(late)
                head, _, told = rest(made).rpartition(b"\r\n\r\n")
                assert b"HTTP/1.1 408 Request Timeout" in head
                assert json.loads(told)["error"]["type"] == "timeout"
        with line(client, *HEALTH, b"") as made:
            time.sleep(0.7)
            made.sendall(b"\r\n".join((*HEALTH, b"")))
            time.sleep(0.2)
            assert made.recv(2000).count(b" 200 ") == 2, "who asks again in time is not slow"
        chunked = (
            b"POST /v1/search HTTP/1.1",
            b"Host: x",
            b"Content-Type: application/json",
            b"Transfer-Encoding: chunked",
        )
        with line(client, *chunked, b"", b"11", b'{"text": "otters') as made:
            time.sleep(0.1)
            made.sendall(b'"\r\n1\r\n}\r\n')
            time.sleep(0.1)
            made.sendall(b"0\r\n\r\n")
            assert b" 200 " in made.recv(100_000)
            made.settimeout(0.7)
            with pytest.raises(TimeoutError):
                made.recv(1)  # the body has come whole: nothing more is waited for


@pytest.mark.parametrize("ends", [b"Connection: close\r\n", b""], ids=["closed", "kept"])
def test_an_answer_that_nobody_fetches_is_dropped(monkeypatch: pytest.MonkeyPatch, ends: bytes) -> None:
    """It is not taken for fetched: its connection makes no room. Who is slow to fetch it gets all of it."""
    monkeypatch.setattr(connections, "TIMEOUT", 0.2)
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 1)
    monkeypatch.setattr(connections, "MIN_IDLE", 0.0)
    fill(URL, [chunk(n, "first " + "long " * 20_000) for n in range(90, 190)])
    asked = b"GET /v1/search?q=first&k=100 HTTP/1.1\r\nHost: x\r\n" + ends
    with served(URL, with_settings(seconds=5)) as client:
        with line(client, asked) as made:
            made.sendall(b"\r\n")
            time.sleep(0.1)
            with line(client) as late:
                assert b" 429 " in rest(late)
            made.recv(1, socket.MSG_PEEK)  # the response has begun, however busy the machine is
            time.sleep(1.3)
            assert len(rest(made)) < 100 * 100_000
        time.sleep(0.1)
        with line(client, asked, b"") as made:
            fetched = 0
            while fetched < 100 * 100_000:
                piece = made.recv(1 << 20)
                assert piece
                fetched += len(piece)
                time.sleep(0.02)


def test_so_many_connections_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one is told to come again, and may when one has gone."""
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 4)
    with served(URL) as client, ExitStack() as held:
        first, *_ = [held.enter_context(line(client)) for _ in range(4)]
        time.sleep(0.2)
        with line(client) as late:
            told = rest(late)
        assert b" 429 " in told
        assert b"retry-after: 1" in told
        assert b"4 connections already" in told
        first.close()
        time.sleep(0.2)
        assert client.get("/healthz").status_code == 200


def test_the_longest_idle_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has been answered and says no more gives way to who comes, but not at once; who is being heard does not."""
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 3)
    monkeypatch.setattr(connections, "MIN_IDLE", 0.5)
    with served(URL) as client, ExitStack() as held:
        first, second = (held.enter_context(line(client, *HEALTH, b"")) for _ in range(2))
        for made in (first, second):
            assert b" 200 " in made.recv(10_000)
        speaking = held.enter_context(line(client, *HEALTH))
        with line(client) as early:
            assert b" 429 " in rest(early)
        second.sendall(b"\r\n".join((*HEALTH, b"")))
        assert b" 200 " in second.recv(10_000)
        time.sleep(0.6)
        late = held.enter_context(line(client, *HEALTH, b""))
        assert b" 200 " in late.recv(10_000)
        assert first.recv(1) == b""
        for made, more in ((second, b"\r\n".join((*HEALTH, b""))), (speaking, b"\r\n")):
            made.sendall(more)
            assert b" 200 " in made.recv(10_000)


def test_what_is_no_http_is_told_so_and_not_logged(capfd: pytest.CaptureFixture[str]) -> None:
    with served(URL) as client:
        for begins in (
            (b"\x16\x03\x01\x02", b"GET /\xe9 HTTP/1.1", b"NONE / HTTP/1.1"),
            (*CHUNKED, b"", b"zz", b"", b""),
        ):
            with line(client, *begins, b"", b"") as made:
                head, _, told = rest(made).rpartition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 400 ")
            assert json.loads(told)["error"]["type"] == "bad_request"
    assert capfd.readouterr().err == ""


def test_bodies_are_held_within_bounds_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that comes while a slow one is held is told to come again; when that one is through, it may."""
    monkeypatch.setattr(limits, "MAX_HELD", 1000)
    head = b"POST /v1/search HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 950\r\n\r\n"
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
    """What gathers while the model works is given to it together; beyond the queue: 429, and come again."""
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


def test_one_bad_query_does_not_spoil_the_batch() -> None:
    """It alone is refused."""

    class Picky(Held):
        def query(self, texts: Sequence[str]) -> list[Dense]:
            if "poison" in texts:
                raise UsageError("the query is too long for the model")
            return super().query(texts)

    model = Picky()
    with served(URL, opener=either(model)) as client, ThreadPoolExecutor(6) as pool:
        model.free.clear()
        asks = [
            pool.submit(client.get, "/v1/search", params={"q": q}) for q in ("line 1", "poison", "line 2", "line 3")
        ]
        time.sleep(0.3)
        model.free.set()
        assert [ask.result().status_code for ask in asks] == [200, 400, 200, 200]
        refused(asks[1].result(), 400, "too long for the model")


def test_a_fault_of_ours_tells_nothing_of_the_inside(caplog: pytest.LogCaptureFixture) -> None:
    """500 for the client, a line for the log, and the server goes on."""

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


def test_foreign_pages_may_not_ask_unless_they_are_listed() -> None:
    """CORS is closed; open, it is open to the one that is named. A refusal is readable there, too."""
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
def test_settings_that_cannot_be_meant(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Settings(**wrong)


def test_metrics_are_what_prometheus_reads(client: Client) -> None:
    """Every line parses, buckets add up, and nobody's words become labels."""
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
    told = client.get("/v1/status").json()
    assert told["index"] == "memory://serve-api"
    assert told["points"] == 13
    assert (told["model"]["model"], told["model"]["dim"], told["model"]["images"]) == ("colours", 256, True)
    assert told["limits"]["keys"] is False
    assert told["ledger"] is None
    assert json.dumps(told)
