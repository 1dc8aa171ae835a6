"""Units, without a server."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager

import numpy as np
import pytest

from penstock.core.errors import UsageError
from penstock.core.records import Dense
from penstock.jobs.vector_math import collapse_duplicates, combine
from penstock.server.batcher import Batcher, BatchLimit, Embedded, ModelThreads
from penstock.server.image_fetcher import ImageFetcher
from penstock.server.metrics import Metrics
from penstock.server.problems import Problem
from penstock.server.responses import SafeJSONResponse
from penstock.server.settings import Settings
from penstock.support.addresses import public

X, Y, Z = np.eye(3, dtype=np.float32)


def same(left: object, right: object) -> bool:
    return np.allclose(np.asarray(left), np.asarray(right), atol=1e-6)


def test_a_part_alone_stays_as_it_is() -> None:
    assert same(combine([(X * 5, 2.0)]), X * 5)


def test_parts_are_summed_by_weight_whatever_their_length() -> None:
    assert same(combine([(X * 100, 1.0), (Y, 1.0)]), (X + Y) / np.sqrt(2))
    assert same(combine([(X, 3.0), (Y, 4.0)]), 0.6 * X + 0.8 * Y)
    assert same(combine([(X, 1.0), (Y, 0.0)]), X)


def test_examples_and_terms_move_the_query() -> None:
    """Towards the mean of liked examples, away from unliked ones."""
    assert same(combine([], like=[X, Y]), (X + Y) / np.sqrt(2))
    moved = combine([(X, 1.0)], like=[Y], unlike=[Z])
    assert moved[0] > moved[1] > 0 > moved[2]
    assert combine([(X + Y, 1.0)], minus=[Y])[1] < combine([(X + Y, 1.0)])[1]
    assert np.linalg.norm(moved) == pytest.approx(1)
    with pytest.raises(UsageError, match="cancel"):
        combine([(X, 1.0), (-X, 1.0)])


def test_near_duplicates_are_collapsed_into_the_first() -> None:
    """A missing vector is like no other; length does not matter."""
    near = X + 0.05 * Y
    assert collapse_duplicates([X, Y, near * 9, None, X, None]) == [(0, 3), (1, 1), (3, 1), (5, 1)]
    assert collapse_duplicates([]) == []
    assert collapse_duplicates([None]) == [(0, 1)]


def test_a_batch_gathers_while_the_model_works() -> None:
    """The first alone, the others together, none twice, never more than the maximum; all before it closes."""
    sizes: list[int] = []

    def embed(texts: list[str]) -> list[Dense]:
        sizes.append(len(texts))
        time.sleep(0.1)
        return [Dense(np.full(1, float(text), np.float32)) for text in texts]

    model = ModelThreads()
    batcher: Batcher[str] = Batcher("texts", embed, BatchLimit(4, 1024, 1024), model, Metrics())
    first = batcher.submit("0", "somebody")
    time.sleep(0.05)
    others: list[Future[Embedded]] = [batcher.submit(str(n), "somebody") for n in range(1, 7)]
    assert others[0].cancel()
    model.close()
    assert sizes == [1, 4, 1]
    assert [float(done.result().vector.values[0]) for done in (first, *others[1:])] == [0, 2, 3, 4, 5, 6]
    assert others[1].result().waited >= 0.04
    assert not any(thread.is_alive() for thread in model._threads)


def test_responses_hold_whatever_a_store_holds() -> None:
    """NaN, sets, lone surrogates: none of them fails a response."""
    body = SafeJSONResponse({"nan": float("nan"), "deep": [{"inf": float("inf")}], "half": "\ud800", "set": {1}}).body
    assert body == b'{"nan":null,"deep":[{"inf":null}],"half":"?","set":"{1}"}'


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
        *("100.64.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1", "192.0.2.1", "198.18.0.1"),
        *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fec0::1", "ff02::1", "2001:db8::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1", "64:ff9b::a00:1"),
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not public(address)


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_addresses_that_are_public(address: str) -> None:
    assert public(address)


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        kind, _, rest = self.path[1:].partition("/")
        if kind == "to":
            self.send_response(302)
            self.send_header("Location", rest)
            self.end_headers()
        elif kind == "slow":
            self.send_response(200)
            self.end_headers()
            for _ in range(100):
                try:
                    self.wfile.write(b"x")
                    self.wfile.flush()
                except OSError:
                    return
                time.sleep(0.05)
        elif kind == "headers":
            for _ in range(100):
                try:
                    self.wfile.write(b"H")
                except OSError:
                    return
                time.sleep(0.05)
        else:
            self.send_response(200 if kind == "good" else 404)
            self.end_headers()
            self.wfile.write(b"picture" if rest != "large" else b"x" * 5000)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def web() -> Iterator[tuple[str, list[str]]]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.asked = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://localhost:{server.server_port}", server.asked  # type: ignore[attr-defined]
        finally:
            server.shutdown()
            thread.join()


def fetch(url: str, judge: object = None) -> bytes:
    settings = Settings(fetch_urls=True, body=1000, seconds=1.0)
    return ImageFetcher(settings, judge or (lambda address: True))(url)  # type: ignore[arg-type]


def refusal(url: str, judge: object = None) -> tuple[int, str]:
    with pytest.raises(Problem) as problem:
        fetch(url, judge)
    return problem.value.status, problem.value.message


def test_fetching() -> None:
    """A picture, also by a redirect; limited in size, time and redirects."""
    with web() as (url, _):
        assert fetch(f"{url}/good/a.jpg") == b"picture"
        assert fetch(f"{url}/to//good/a.jpg") == b"picture"
        assert refusal(f"{url}/none")[0] == 400
        assert refusal(f"{url}/good/large")[0] == 413
        assert refusal(f"{url}/to/{url}/to//to/")[0] == 400
        for wrong in (
            "http://[",
            "//[",
            "http://a]b/",
            "http://[::1",
            "http://[v1.x]",
            "http://a:b/",
            "https://",
            "\xe9",
        ):
            assert refusal(f"{url}/to/{wrong}")[0] == 400
        for slow in ("slow", "headers"):
            began = time.monotonic()
            assert refusal(f"{url}/{slow}")[0] == 504
            assert time.monotonic() - began < 3


def test_private_addresses_are_not_even_connected_to() -> None:
    """Neither by name nor by number, nor by a redirect of a public one."""
    with web() as (url, asked):
        assert refusal(f"{url}/good/a.jpg", public)[0] == 403
        port = url.rpartition(":")[2]
        for host in ("127.0.0.1", "[::1]", "0.0.0.0", "127.1", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]"):
            assert refusal(f"http://{host}:{port}/good/a.jpg", public)[0] in (400, 403)
        assert not asked
        first = iter([True, False])
        status, message = refusal(f"{url}/to/{url}/good/a.jpg", lambda address: next(first))
        assert (status, "not public" in message) == (403, True)
        assert asked == [f"/to/{url}/good/a.jpg"]


@pytest.mark.parametrize(
    "url",
    [
        *(
            "",
            "x",
            "ftp://example.org/",
            "file:///etc/passwd",
            "gopher://x/",
            "http://",
            "https:///a",
            "//example.org/a",
        ),
        *("http://user:pw@example.org/", "http://example.org:99999/", "http://[::1", "http://exa mple.org/"),
        *("http://example.org/\r\nX: y", "http://ex\tample.org/", "data:image/png;base64,AAAA", "http://exämple.org/"),
        "http://nowhere.invalid/a.jpg",
    ],
)
def test_invalid_urls(url: str) -> None:
    assert refusal(url)[0] == 400
