"""Generated urls and forms: whatever they hold, no answer is 500, none takes long, and memory does not grow."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from urllib.parse import quote

import httpx
import psutil
import pytest

from penstock.server import schemas
from tests.attack.served import attacked
from tests.server.serving import Client, picture

pytestmark = pytest.mark.filterwarnings(
    "ignore:Unclosed file:ResourceWarning"  # starlette leaves that to the collector where the form's charset is none
)
URL = "memory://attack-urls"
COUNT = 2_000


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with attacked(URL) as client:
        yield client


FIELDS = [*schemas.SEARCH["properties"], *schemas.FACETS["properties"], "q", "using", "size", "vector", "text", "", "a"]
WORDS = [
    *(
        "line 1",
        "1",
        "0",
        "-1",
        "1e9",
        "1" * 30,
        "1" * 5000,
        "NaN",
        "true",
        "null",
        "[]",
        "{}",
        "[1]",
        '{"n": 1}',
        '"',
        "a,b",
    ),
    *(
        '{"n": {"$gte": 3}}',
        '{"$or": []}',
        "[" * 5000,
        '{"$not":' * 900,
        "0.5," * 300,
        "\0",
        "é" * 300,
        "\U0010ffff",
        "%",
        "../..",
    ),
    *(
        "a" * 20_000,
        "data:image/png;base64,AAAA",
        "http://[",
        "http://127.0.0.1/",
        "file:///etc/passwd",
        "256",
        "sha256:x",
        " ",
    ),
]
PATHS = [
    *(
        "/v1/search",
        "/v1/search",
        "/v1/facets",
        "/v1/facets",
        "/search",
        "/v1/status",
        "/health",
        "/metrics",
        "/indices-list",
    ),
    *(f"/v1/points/{1:032x}", f"/v1/thumbs/{30:032x}", "/v1/points/", "/v1/thumbs/", "/", "/openapi.json", "/readyz"),
]
ENDINGS = [
    "",
    "",
    "",
    "/",
    "//",
    "%00",
    "%2f..%2f",
    "%ff",
    ";a",
    "/a" * 50,
    "a" * 5000,
    "%e2%80%ae",
    "%0d%0aX:%20y",
    "é",
    "'",
]


def urls(rng: random.Random) -> httpx.Request:
    fields = [(rng.choice(FIELDS), rng.choice(WORDS)) for _ in range(rng.choice((0, 1, 1, 2, 3, 9)))]
    query = "&".join(f"{name}={quote(value, safe=rng.choice(('', '[]{}:,')))}" for name, value in fields)
    return httpx.Request("GET", f"{rng.choice(PATHS)}{rng.choice(ENDINGS)}?{query}"[: 1 << 15])


def forms(rng: random.Random) -> httpx.Request:
    """Forms with odd fields, files, charsets and boundaries; images that are broken."""
    content = bytearray(
        rng.choice([picture("red"), picture("blue", kind="GIF"), b"GIF89a", b"", b"\xff\xd8\xff", b"<svg>"])
    )
    for _ in range(rng.choice((0, 0, 1, 5)) if content else 0):
        content[rng.randrange(len(content))] = rng.randrange(256)
    lines = [b""]
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3, 40))):
        name = rng.choice(["image", "image", "text", "text", "text", "where", "k", "", "a" * 3000, '";', "é"]).encode()
        kind = rng.choice(
            [b"", b'; filename="a.png"', b'; filename=""', b"; filename*=utf-8''%ff", b'; filename="../../a"']
        )
        more = rng.choice(
            [b"", b"\r\nContent-Type: text/plain; charset=utf-7", b"\r\nContent-Transfer-Encoding: base64", b"\r\n:"]
        )
        value = bytes(content) if rng.random() < 0.5 else rng.choice(WORDS).encode()
        lines.append(
            b'\r\nContent-Disposition: form-data; name="' + name + b'"' + kind + more + b"\r\n\r\n" + value + b"\r\n"
        )
    body = b"--b".join(lines) + rng.choice([b"--b--\r\n", b"--b--", b"--b\r\n", b"--", b""])
    charset = rng.choice(
        ["", "", "; charset=utf-16", "; charset=idna", "; charset=undefined", "; charset=\xff", "; charset=hex"]
    )
    boundary = rng.choice(
        ["; boundary=b"] * 6 + ["", "; boundary=", "; boundary=" + "b" * 5000, '; boundary="b', "; boundary=é"]
    )
    kind = f"multipart/form-data{boundary}{charset}".encode("latin-1")
    return httpx.Request("POST", "/v1/search", content=body, headers=[(b"Content-Type", kind)])


def send_all(client: Client, make: Callable[[random.Random], httpx.Request], count: int) -> Counter[int]:
    rng, statuses = random.Random(make.__name__), Counter[int]()
    for _ in range(count):
        request = make(rng)
        request.url = client.base_url.join(request.url.raw_path.decode())
        request.headers["Host"] = client.base_url.netloc.decode()
        began = time.monotonic()
        answer = client.send(request)
        statuses[answer.status_code] += 1
        assert answer.status_code < 500, (str(request.url)[:2000], request.content[:2000], answer.text)
        assert time.monotonic() - began < 9, str(request.url)[:2000]
        assert "Traceback" not in answer.text
    return statuses


@pytest.mark.attack
@pytest.mark.parametrize("make", [urls, forms])
def test_generated_urls_and_forms(client: Client, make: Callable[[random.Random], httpx.Request]) -> None:
    memory = psutil.Process().memory_info
    send_all(client, make, 200)
    before = memory().rss
    statuses = send_all(client, make, COUNT)
    assert memory().rss - before < 64 << 20, "memory grows"
    assert statuses[400] + statuses[404] > COUNT // 10
    assert statuses[200] > COUNT // 200


@pytest.mark.parametrize("make", [urls, forms])
def test_some_generated_urls_and_forms(client: Client, make: Callable[[random.Random], httpx.Request]) -> None:
    send_all(client, make, 60)
