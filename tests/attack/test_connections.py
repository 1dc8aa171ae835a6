"""Generated hostile HTTP and JSON over real sockets: every request is answered or its connection closed, none with 500,
nothing is logged, and memory does not grow."""

from __future__ import annotations

import json
import logging
import random
import re
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

import psutil
import pytest

from penstock.server import schemas
from tests.attack.served import attacked
from tests.server.serving import Client
from tests.server.test_hostile_http import ANSWERED, REFUSED

URL = "memory://attack-connections"
HTTP, BODIES = 10_000, 2_000
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with attacked(URL) as client:
        yield client


@pytest.fixture(autouse=True)
def nothing_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.WARNING)
    yield
    assert not [record.getMessage() for record in caplog.records]


# ---------------------------------------------------------------- HTTP

SEEDS = [*REFUSED.values(), *(sent for sent, _ in ANSWERED.values())]
PARTS = [
    *(b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b",", b";", b"\x0b", b"\x7f", b"\xff", b"%00", b"%", b"?", b"#"),
    *(b"\r\n\r\n", b"\n\n", b"0\r\n\r\n", b"GET / HTTP/1.1\r\n", b"HTTP/1.0", b"HTTP/2.0", b"http://a/", b"*", b"//"),
    *(b"Content-Length: 0\r\n", b"Content-Length: 5\r\n", b"Content-Length: -1\r\n", b"Transfer-Encoding: chunked\r\n"),
    *(b"Transfer-Encoding: identity\r\n", b"Host: localhost\r\n", b"Host: evil\r\n", b"Connection: close\r\n"),
    *(b"Connection: upgrade\r\nUpgrade: websocket\r\n", b"Expect: 100-continue\r\n", b"X: " + b"a" * 9000 + b"\r\n"),
    *(b"Origin: null\r\n", b"Range: bytes=0-\r\n", b"If-None-Match: *\r\n", b"X-Forwarded-For: 1.2.3.4\r\n"),
    *(b"ffffffff\r\n", b"1\r\na\r\n", b"5;x=y\r\n", b"Cookie: a=b\r\n", b"Authorization: Bearer \xe9\r\n", b"a" * 3000),
]
TARGETS = [
    "/",
    "/healthz",
    "/readyz",
    "/v1/search?q=a",
    "/v1/points/a",
    "/v1/thumbs/a",
    "/metrics",
    "/v1/status",
    "/%2e",
]


def mutated(rng: random.Random) -> bytes:
    """A request of the tables, or a valid one, changed in a few places; sometimes two of them in a row."""
    if rng.random() < 0.3:
        words = [rng.choice(["GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE"]), rng.choice(TARGETS), "HTTP/1.1"]
        sent = " ".join(words).encode() + b"\r\nHost: localhost\r\n\r\n"
    else:
        sent = rng.choice(SEEDS)
    content = bytearray(sent[:20_000])
    for _ in range(rng.choice((0, 1, 1, 2, 3, 8))):
        at = rng.randrange(len(content) + 1)
        match rng.randrange(5):
            case 0:
                content[at:at] = rng.choice(PARTS)
            case 1:
                del content[at : at + rng.choice((1, 1, 2, 10))]
            case 2 if at < len(content):
                content[at] = rng.randrange(256)
            case 3:
                end = min(len(content), at + rng.randrange(1, 40))
                content[at:at] = content[at:end]
            case _:
                lines = content.split(b"\r\n")
                rng.shuffle(lines)
                content = bytearray(b"\r\n".join(lines))
    return bytes(content) + (mutated(rng) if rng.random() < 0.1 else b"")


def exchange(address: tuple[str, int], sent: bytes) -> list[int]:
    """The statuses of the answers, until the server closes, or is silent for a while: then the client ends."""
    answer, ended, began = b"", False, time.monotonic()
    with socket.create_connection(address, 10) as connection, suppress(ConnectionError):
        connection.sendall(sent)
        connection.settimeout(0.1)
        while True:
            try:
                piece = connection.recv(1 << 16)
            except TimeoutError:
                assert not ended or time.monotonic() - began < 9, sent
                if not ended:
                    connection.shutdown(socket.SHUT_WR)
                ended = True
                continue
            if not piece:
                break
            answer += piece
    statuses = [int(status) for status in STATUS.findall(answer)]
    assert not [status for status in statuses if status >= 500], sent
    return statuses


@pytest.mark.attack
@pytest.mark.timeout(900)
def test_generated_requests(client: Client) -> None:
    """Seeded, so that a failure can be repeated."""
    address = (client.base_url.host, client.base_url.port or 80)
    rng, statuses, memory = random.Random(12), Counter[int](), psutil.Process().memory_info
    began, early = time.monotonic(), 0
    with ThreadPoolExecutor(8) as pool:
        for number in range(0, HTTP, 500):
            for seen in pool.map(partial(exchange, address), [mutated(rng) for _ in range(500)]):
                statuses.update(seen)
            assert client.get("/healthz").status_code == 200
            early = early or (memory().rss if number >= HTTP // 5 else 0)
            assert time.monotonic() - began < 600, f"{number:,} of {HTTP:,} requests took ten minutes"
    assert memory().rss - early < 24 << 20, "memory grows"
    assert statuses[200] > HTTP // 50, "valid ones are among them"
    assert statuses[400] > HTTP // 4


def test_some_generated_requests(client: Client) -> None:
    address = (client.base_url.host, client.base_url.port or 80)
    rng = random.Random(34)
    for _ in range(300):
        exchange(address, mutated(rng))


# ---------------------------------------------------------------- JSON

ROUTES: dict[str, tuple[schemas.Schema, list[dict[str, Any]]]] = {
    "/v1/search": (
        schemas.SEARCH,
        [
            {"text": "line 1", "k": 3, "where": {"n": {"$gte": 3}}, "facets": ["n"], "distinct": True},
            {"vector": [0.5] * 256, "threshold": 0.1, "types": ["text"]},
            {"like": [f"{1:032x}"], "unlike": [f"{2:032x}"], "minus": ["line"], "text_weight": 2},
            {"where": {"$or": [{"n": {"$in": [1, 2, 3]}}, {"tags": {"$contains": "a"}}, {"$not": {"n": 4}}]}},
        ],
    ),
    "/v1/search/batch": (schemas.BATCH, [{"queries": [{"text": "a"}, {"text": "b", "k": 1}]}]),
    "/v1/facets": (schemas.FACETS, [{"names": ["n", "tags"], "where": {"n": {"$lt": 5}}, "limit": 5}]),
    "/v1/embeddings": (schemas.EMBEDDINGS, [{"input": ["a", "b"], "model": "m", "encoding_format": "base64"}]),
    "/knn-service": (schemas.KNN, [{"text": "a", "num_images": 3, "deduplicate": True, "embedding_input": None}]),
    "/search": (schemas.IMAGE_SEARCH, [{"text": "a", "n_results": 2}]),
}
ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 0.5, -0.0, 1e308, -1e308, 10**30, 10**400, -(10**400), 2**63, 2**64, 1 << 31),
    *("", " ", "a", "\0", "\ud800", "\U0010ffff", "é" * 300, "a" * 25_000, "%00", "../..", "$ne", "[", "1e400", "true"),
    *([], [[]], [None], {}, {"": {}}, {"$ne": None}, {"$in": []}, {"$nope": 1}, {"a.b.c": 1}, {"a": {"b": {"c": 1}}}),
    *([0] * 3000, ["a"] * 600, [{}] * 600, {str(n): n for n in range(600)}, "data:image/png;base64,AAAA", "AAAA"),
]


def nested(depth: int, kind: str) -> str:
    return {"[": "[" * depth + "]" * depth, "{": '{"$not":' * depth + "1" + "}" * depth}[kind]


def changed(value: Any, rng: random.Random, names: list[str]) -> Any:
    """A valid body with one of its values, at any depth, replaced, doubled, renamed or left out."""
    if isinstance(value, dict) and value and rng.random() < 0.75:
        copy = dict(value)
        key = rng.choice(list(copy))
        match rng.randrange(6):
            case 0:
                del copy[key]
            case 1:
                copy[rng.choice([*names, "", "$and", "$or", "n", "__class__", "\ud800"])] = rng.choice(ODD)
            case 2:
                copy[rng.choice(names)] = copy.pop(key)
            case _:
                copy[key] = changed(copy[key], rng, names)
        return copy
    if isinstance(value, list) and value and rng.random() < 0.75:
        at = rng.randrange(len(value))
        return [*value[:at], changed(value[at], rng, names), *value[at + 1 :]] * rng.choice((1, 1, 1, 2, 40))
    return rng.choice(ODD)


def bodies(route: str, count: int) -> Iterator[bytes]:
    schema, valid = ROUTES[route]
    names = [*schema["properties"], *schemas.SEARCH["properties"]]
    rng = random.Random(route)
    for _ in range(count):
        body: Any = rng.choice(valid)
        for _ in range(rng.choice((0, 1, 1, 1, 2, 4))):
            body = changed(body, rng, names)
        text = json.dumps(body)
        match rng.randrange(12):
            case 0:
                text = text.replace("1", rng.choice(["NaN", "Infinity", "1e999", "1" * 5000, "01", "0x1", "1."]), 1)
            case 1:
                text = text.replace('"a"', nested(rng.choice((10, 900, 100_000)), rng.choice("[{")), 1)
            case 2:
                text = text.replace("}", ', "text": 1, "text": "a", "k": 1, "k": {}}', 1)
            case 3:
                at = rng.randrange(len(text) + 1)
                text = text[:at] + rng.choice(["\0", "\ufeff", "//", "'", "{", "]", "\\", '"', "\\ud800"]) + text[at:]
            case 4:
                text = text[: rng.randrange(len(text) + 1)]
        encoding = rng.choice(("utf-8", "utf-8", "utf-8", "utf-16", "utf-8-sig", "latin-1", "utf-32"))
        yield text.encode(encoding, "replace")


def ask_all(client: Client, route: str, count: int) -> Counter[int]:
    statuses: Counter[int] = Counter()
    for body in bodies(route, count):
        began = time.monotonic()
        answer = client.post(route, content=body, headers={"Content-Type": "application/json"})
        statuses[answer.status_code] += 1
        assert answer.status_code < 500, (answer.text, body[:2000])
        assert time.monotonic() - began < 9, body[:2000]
        assert isinstance(answer.json(), dict | list)
    return statuses


@pytest.mark.attack
@pytest.mark.parametrize("route", ROUTES)
def test_generated_bodies(client: Client, route: str) -> None:
    memory = psutil.Process().memory_info
    ask_all(client, route, 100)
    before = memory().rss
    statuses = ask_all(client, route, BODIES)
    assert memory().rss - before < 64 << 20, "memory grows"
    assert statuses[400] > BODIES // 10
    assert statuses[200] > BODIES // 50


@pytest.mark.parametrize("route", ROUTES)
def test_some_generated_bodies(client: Client, route: str) -> None:
    ask_all(client, route, 60)


# ---------------------------------------------------------------- memory


@pytest.mark.attack
@pytest.mark.parametrize("declared", [True, False], ids=["whole", "in chunks"])
def test_large_bodies_over_many_connections(client: Client, declared: bool) -> None:
    """One client's, whose memory is bounded together: 190 MiB before. Another is answered meanwhile."""
    address = (client.base_url.host, client.base_url.port or 80)
    head = b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += b"Content-Length: 16000000\r\n\r\n" if declared else b"Transfer-Encoding: chunked\r\n\r\n"
    piece = b" " * 65536 if declared else b"10000\r\n" + b" " * 65536 + b"\r\n"
    memory, end = psutil.Process().memory_info, time.monotonic() + 4

    def send(number: int) -> None:
        while time.monotonic() < end:
            with socket.create_connection(address, 10, ("127.0.0.2", 0)) as line, suppress(OSError):
                line.sendall(head)
                line.settimeout(0.5)
                while time.monotonic() < end:
                    with suppress(TimeoutError):
                        line.sendall(piece)

    before, peak = memory().rss, 0
    with ThreadPoolExecutor(50) as pool:
        running = [pool.submit(send, number) for number in range(50)]
        while time.monotonic() < end:
            peak = max(peak, memory().rss)
            assert client.get("/v1/search?q=line").status_code == 200
    for one in running:
        one.result()
    assert peak - before < 100 << 20
