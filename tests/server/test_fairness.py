"""One client that floods the server beside others: turns, shares, costs, and what leaves the queues."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from penstock.cli.main import main
from penstock.core.errors import UsageError
from penstock.core.records import Dense
from penstock.server import bodies, clients, rates, schemas, status
from penstock.server.batcher import Batcher, BatchLimit, Embedded, ModelThreads
from penstock.server.bodies import Bodies, Body
from penstock.server.fair import SERVER, FairPool
from penstock.server.metrics import Metrics
from penstock.server.rates import RateLimiter
from penstock.server.shares import MAX_OVERCOMMIT, Shares
from penstock.sinks.memory import forget
from penstock.support.fair import MAX_TAGS, FairQueue
from tests.live import until
from tests.server.serving import Client, ColourEmbedder, chunk, either, fill, refused, served, with_settings

URL = "memory://serve-fairness"
A, B = {"X-API-Key": "a"}, {"X-API-Key": "b"}
KEYS = ("a", "b")


@pytest.fixture(autouse=True)
def index() -> Iterator[None]:
    fill(URL, [chunk(n, f"line {n}") for n in range(5)])
    yield
    forget(URL)


class Gated(ColourEmbedder):
    """Records the texts of each call, and waits until it is free; a text takes `each` seconds."""

    def __init__(self, each: float = 0.0, workers: int = 1) -> None:
        super().__init__(workers=workers)
        self.each, self.calls = each, list[list[str]]()
        self.free = threading.Event()
        self.free.set()

    @property
    def seen(self) -> list[str]:
        return [text for call in self.calls for text in call]

    def query(self, texts: Sequence[str]) -> list[Dense]:
        self.calls.append(list(texts))
        self.free.wait(20)
        time.sleep(self.each * len(texts))
        return super().query(texts)


def depth(client: Client, of: str = "model_queue") -> float:
    """Inputs that wait for the model, or searches inside."""
    lines = client.get("/metrics", headers=A).text.splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"penstock_{of}_depth ")))


# ---------------------------------------------------------------- queues and threads


def taken(queue: FairQueue[str], count: int) -> list[str]:
    items = []
    for _ in range(count):
        batch = queue.take(wait=False)
        items += [entry.item for entry in batch]
        queue.finish(batch)
    return items


def test_clients_are_served_in_turns_by_cost() -> None:
    """Equal costs alternate; two cheap ones pass for one that costs twice as much."""
    queue: FairQueue[str] = FairQueue()
    for n in range(4):
        queue.put("a", f"a{n}", 2)
    for n in range(8):
        queue.put("b", f"b{n}", 1)
    assert taken(queue, 12) == ["a0", "b0", "b1", "a1", "b2", "b3", "a2", "b4", "b5", "a3", "b6", "b7"]


def test_who_comes_later_is_served_next() -> None:
    """Whatever others have waiting; and to have been away earns no more than a turn."""
    queue: FairQueue[str] = FairQueue()
    for n in range(100):
        queue.put("a", f"a{n}", 10)
    taken(queue, 50)
    for n in range(3):
        queue.put("b", f"b{n}", 10)
    queue.put(SERVER, "probe")
    assert taken(queue, 6) == ["probe", "b0", "a50", "b1", "a51", "b2"]


def test_what_is_cancelled_leaves_the_queue() -> None:
    queue: FairQueue[str] = FairQueue()
    discards = [queue.put("a", f"a{n}") for n in range(1000)]
    for discard in discards[1:]:
        discard()
    assert len(queue) == 1
    assert taken(queue, 2) == ["a0"]
    queue.put("a", "again")
    assert taken(queue, 1) == ["again"]


def test_clients_that_are_gone_are_forgotten() -> None:
    queue: FairQueue[str] = FairQueue()
    for n in range(5 * MAX_TAGS):
        queue.put(f"client {n}", "item")
        taken(queue, 1)
    assert len(queue._shares) <= MAX_TAGS + 1
    assert not queue._waiting
    assert not queue._turns


def test_what_a_task_took_counts_afterwards() -> None:
    """Whose tasks are long has fewer of them."""
    queue: FairQueue[str] = FairQueue()
    for _ in range(4):
        queue.put("a", "a", 0)
        queue.put("b", "b", 0)
    order = []
    while batch := queue.take(wait=False):
        order.append(batch[0].item)
        queue.finish(batch, 3.0 if batch[0].item == "a" else 1.0)
    assert order == ["a", "b", "b", "b", "a", "b", "a", "a"]


def test_no_client_has_all_threads() -> None:
    """While one fills the pool, the tasks of another run; what is cancelled does not."""
    pool, free, running = FairPool("test", 4), threading.Event(), threading.Semaphore(0)

    def block() -> None:
        running.release()
        free.wait(20)

    flood = [pool.submit("a", block) for _ in range(20)]
    for _ in range(3):
        assert running.acquire(timeout=10)
    assert not running.acquire(timeout=0.1), "the fourth thread is for others"
    assert pool.submit("b", lambda: "done").result(timeout=10) == "done"
    assert all(one.cancel() for one in flood[3:])
    assert pool.depth == 0
    free.set()
    pool.close()


def test_a_closed_pool_cancels_what_waits() -> None:
    pool, free = FairPool("test", 1), threading.Event()
    first = pool.submit("a", lambda: free.wait(20))
    waiting = pool.submit("a", lambda: None)
    until(first.running)
    pool.close()
    assert waiting.cancelled()
    free.set()
    assert first.result(timeout=10)


def batcher(calls: list[list[str]], gate: threading.Event, inputs: int = 8) -> tuple[ModelThreads, Batcher[str]]:
    def embed(texts: list[str]) -> list[Dense]:
        calls.append(texts)
        gate.wait(20)
        return ColourEmbedder().query(texts)

    model = ModelThreads()
    return model, Batcher("texts", embed, BatchLimit(inputs, 1024, 256), model, Metrics())


def test_a_short_query_is_in_no_batch_with_long_texts() -> None:
    """It would wait for all of them."""
    calls: list[list[str]] = []
    gate = threading.Event()
    model, texts = batcher(calls, gate)
    futures: list[Future[Embedded]] = [texts.submit("first", "a", 250)]
    until(lambda: calls)
    futures += [texts.submit(f"long {n}", "a", 250) for n in range(6)]
    futures += [texts.submit(f"short {n}", "b", 8) for n in range(3)]
    gate.set()
    for future in futures:
        future.result(timeout=10)
    model.close()
    # Beside another client each long text comes alone.
    assert calls[:2] == [["first"], ["short 0", "short 1", "short 2"]]
    assert calls[2:] == [[f"long {n}"] for n in range(6)]


def test_a_client_that_is_alone_has_full_batches() -> None:
    calls: list[list[str]] = []
    gate = threading.Event()
    model, texts = batcher(calls, gate)
    futures = [texts.submit("first", "a", 250)]
    until(lambda: calls)
    futures += [texts.submit(f"long {n}", "a", 250) for n in range(8)]
    gate.set()
    for future in futures:
        future.result(timeout=10)
    model.close()
    assert [len(call) for call in calls] == [1, 4, 4]


# ---------------------------------------------------------------- shares


def test_shares_of_a_capacity() -> None:
    """Alone all of it; beside others an equal part, also where it is full; together never more than twice as much."""
    shares = Shares(100)
    assert shares.fits("a", 100)
    assert shares.fits("a", 500), "what is larger passes alone"
    shares.add("a", 100)
    assert not shares.fits("a", 1)
    assert shares.fits("b", 50)
    assert not shares.fits("b", 51)
    shares.add("b", 50)
    shares.add("c", 33)
    assert not shares.fits("d", 25), f"more than {MAX_OVERCOMMIT} times the capacity"
    shares.add("a", -100)
    assert shares.fits("d", 17)
    shares.add("b", -50)
    shares.add("c", -33)
    assert shares.total == 0
    assert not shares._held


def test_a_full_queue_has_room_for_others() -> None:
    """One key fills the queue, by searches and by a batch that counts as its number; the other is not refused."""
    model = Gated()
    with served(URL, with_settings(queue=20, keys=KEYS), opener=either(model)) as client:
        model.free.clear()
        with ThreadPoolExecutor(16) as pool:
            batch = {"queries": [{"text": f"line {n}"} for n in range(15)]}
            flood = [pool.submit(client.post, "/v1/search/batch", json=batch, headers=A)]
            flood += [pool.submit(client.get, f"/v1/search?q=x{n}", headers=A) for n in range(5)]
            until(lambda: depth(client, "queue") == 20)
            refused(client.get("/v1/search?q=line", headers=A), 429, "20 of them yours")
            other = [pool.submit(client.get, f"/v1/search?q=line {n}", headers=B) for n in range(8)]
            until(lambda: depth(client, "queue") == 28)
            model.free.set()
            assert [one.result().status_code for one in other] == [200] * 8
            assert [one.result().status_code for one in flood] == [200] * 6


def test_bodies_of_one_client_leave_memory_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "MAX_HELD", 1000)
    head = b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nX-API-Key: a\r\nContent-Type: application/json\r\n"
    with (
        served(URL, with_settings(keys=KEYS)) as client,
        socket.create_connection((client.base_url.host, client.base_url.port or 80)) as line,
    ):
        line.sendall(head + b"Content-Length: 990\r\n\r\n" + b" " * 950)
        time.sleep(0.2)
        refused(client.post("/v1/search", json={"text": "x" * 300}, headers=A), 429, "too large together")
        assert client.post("/v1/search", json={"text": "x" * 300}, headers=B).status_code == 200


def test_so_many_large_bodies_of_a_client_are_read_at_once() -> None:
    """Others wait their turn; those of another client do not; one that is given up leaves no trace."""

    async def task() -> None:
        one = Bodies(1 << 20, RateLimiter(0))
        for _ in range(bodies.MAX_LARGE):
            await one.enter("a", 100)
        waiting, given_up = (asyncio.create_task(one.enter("a", 100)) for _ in range(2))
        await asyncio.wait_for(one.enter("b", 100), 5)
        await asyncio.sleep(0)
        assert not waiting.done()
        given_up.cancel()
        await asyncio.sleep(0)
        one.leave("a", 100)
        await asyncio.wait_for(waiting, 5)
        for client in ("a", "b", *"a" * (bodies.MAX_LARGE - 1)):
            one.leave(client, 100)
        assert not one._large

    asyncio.run(task())


def test_the_large_bodies_of_a_client_are_bounded_together() -> None:
    """By the bytes that they may have; one that is larger comes in alone. They keep their order."""

    async def task() -> None:
        one, most = Bodies(1 << 30, RateLimiter(0)), bodies.MAX_LARGE_BYTES
        await one.enter("a", most - 100)
        larger, small = (asyncio.create_task(one.enter("a", size)) for size in (2 * most, 100))
        await asyncio.sleep(0.01)
        assert not larger.done()
        assert not small.done(), "it waits behind the larger one, which would never come in else"
        one.leave("a", most - 100)
        await asyncio.wait_for(larger, 5)
        assert not small.done()
        given_up, granted = (asyncio.create_task(one.enter("a", size)) for size in (most, most - 100))
        await asyncio.sleep(0)
        given_up.cancel()
        one.leave("a", 2 * most)
        granted.cancel()
        await asyncio.wait([given_up, granted], timeout=5)
        await asyncio.wait_for(small, 5)
        one.leave("a", 100)
        assert not one._large

    asyncio.run(task())


def test_a_large_body_has_its_turn_until_it_is_answered() -> None:
    """Else a client could fill the memory with bodies that wait to be parsed."""

    async def task() -> None:
        every, answer, inside = Bodies(1 << 20, RateLimiter(0)), asyncio.Event(), []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await receive()
            inside.append(1)
            await answer.wait()

        async def send(message: Message) -> None: ...

        async def request() -> None:
            scope = {
                "type": "http",
                "headers": [(b"transfer-encoding", b"chunked")],
                clients.CLIENT: clients.Client("a"),
            }
            body = Body(scope, more(), every)
            try:
                await body.run(app, send, 60)
            finally:
                body.release()

        def more() -> Receive:
            left = iter([True, False])

            async def receive() -> Message:
                if (again := next(left, None)) is None:
                    await asyncio.Event().wait()
                return {"type": "http.request", "body": b" " * (bodies.LARGE + 1), "more_body": bool(again)}

            return receive

        requests = [asyncio.create_task(request()) for _ in range(bodies.MAX_LARGE + 3)]
        while len(inside) < bodies.MAX_LARGE:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        assert len(inside) == bodies.MAX_LARGE
        answer.set()
        await asyncio.gather(*requests)
        assert not every.held.total

    asyncio.run(asyncio.wait_for(task(), 30))


def test_large_bodies_are_counted_once_they_are_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many at once, some of them broken off: all turns and all memory come back."""
    monkeypatch.setattr(bodies, "MAX_HELD", 3 << 20)
    with served(URL, with_settings(keys=KEYS)) as client, ThreadPoolExecutor(12) as pool:
        body = json.dumps({"text": "line 1", "k": 1}).encode() + b" " * (1 << 20)
        headers = A | {"Content-Type": "application/json"}
        answers = list(pool.map(lambda _: client.post("/v1/search", content=body, headers=headers), range(12)))
        assert {answer.status_code for answer in answers} <= {200, 429}
        for _ in range(5):
            with socket.create_connection((client.base_url.host, client.base_url.port or 80)) as line:
                head = b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nX-API-Key: a\r\n"
                kind = b"Content-Type: application/json\r\nContent-Length: 900000\r\n\r\n"
                line.sendall(head + kind + b" " * 500_000)
        time.sleep(0.3)
        assert [client.post("/v1/search", content=body, headers=headers).status_code for _ in range(4)] == [200] * 4


# ---------------------------------------------------------------- one floods, another searches


@pytest.mark.parametrize("workers", [1, 2])
def test_a_search_does_not_wait_for_another_clients_texts(workers: int) -> None:
    """Of 256 texts that one key wants embedded, a few come before the other key's query."""
    model = Gated(each=0.02, workers=workers)
    texts = [f"{'word ' * 200}{n}" for n in range(256)]
    with served(URL, with_settings(keys=KEYS), opener=either(model)) as client, ThreadPoolExecutor(2) as pool:
        assert client.get("/v1/search?q=line", headers=B).status_code == 200
        flood = pool.submit(client.post, "/v1/embeddings", json={"input": texts}, headers=A)
        until(lambda: len(model.seen) > 10)
        for n in range(5):
            before = len(model.seen)
            assert client.get(f"/v1/search?q=line {n}", headers=B).status_code == 200
            assert model.seen[before:].index(f"line {n}") <= 32
        assert not flood.done()
        assert client.get("/readyz").status_code == 200
        assert flood.result().status_code == 200


def test_a_busy_server_is_ready_and_a_hung_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe comes before all that waits; where nothing is answered any more, it says so in time."""
    monkeypatch.setattr(status, "PROBE_TIMEOUT", 2.0)
    monkeypatch.setattr(status, "PROBE_TTL", 0.0)
    model = Gated(each=0.02)
    with (
        served(URL, with_settings(keys=KEYS, rate=1.0, seconds=15.0), opener=either(model)) as client,
        ThreadPoolExecutor(4) as pool,
    ):
        flood = pool.submit(client.post, "/v1/embeddings", json={"input": ["line"] * 250}, headers=A)
        until(lambda: len(model.seen) > 5)
        for _ in range(3):
            answer = client.get("/readyz")
            assert (answer.status_code, answer.json()) == (200, {"status": "ready"})
        assert not flood.done()
        assert flood.result().status_code == 200
        model.free.clear()
        time.sleep(2.1)
        began = time.monotonic()
        assert client.get("/readyz").status_code == 503
        assert time.monotonic() - began < 6.0, "it waits for longer than PROBE_TIMEOUT"
        assert client.get("/healthz").status_code == 200
        model.free.set()
        until(lambda: client.get("/readyz").status_code == 200)


def test_a_busy_server_is_ready_by_the_searches_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one call of the model takes longer than a probe may, but searches succeed."""

    class Slow(Gated):
        def query(self, texts: Sequence[str]) -> list[Dense]:
            vectors = super().query(texts)
            if status.PROBE in texts and len(self.calls) > 1:
                time.sleep(1.0)
            return vectors

    monkeypatch.setattr(status, "PROBE_TIMEOUT", 0.5)
    model = Slow(workers=2)
    with served(URL, opener=either(model)) as client, ThreadPoolExecutor(1) as pool:
        probe = pool.submit(client.get, "/readyz")
        until(lambda: len(model.calls) > 1)
        until(lambda: client.get("/v1/search?q=line").status_code == 200 and probe.done())
        assert probe.result().status_code == 200


# ---------------------------------------------------------------- costs


def test_a_costly_request_leaves_its_client_in_debt() -> None:
    """It is taken, and the next one waits for longer; other clients do not."""
    with served(URL, with_settings(rate=2.0, keys=KEYS)) as client:
        texts = ["word " * 250 + " " * 4000] * 256  # the body costs as well, and does not keep its texts out
        assert client.post("/v1/embeddings", json={"input": texts}, headers=A).status_code == 200
        answer = client.get("/v1/search?q=line", headers=A)
        refused(answer, 429, "2 requests a second", "count as several")
        assert 200 < int(answer.headers["retry-after"]) <= 256 * 250 / rates.TOKEN_UNIT / 2
        assert client.get("/v1/search?q=line", headers=B).status_code == 200
        limits = client.get("/v1/status", headers=B).json()["limits"]
        assert limits["costs"] == rates.to_json()
        assert limits["texts"] == schemas.MAX_TEXTS


@pytest.mark.parametrize(
    ("query", "cost"),
    [
        ({"text": "line"}, 1),
        ({"text": "word " * 1000}, 10),
        ({"text": "line", "k": 200}, 1),
        ({"text": "line", "k": 200, "distinct": True}, 2),
        ({"text": "line", "k": 200, "hybrid": True}, 2),
        ({"text": "line", "facets": ["a", "b"]}, 3),
        ({"like": ["x"] * 50}, 3),
        ({"text": "line", "rerank": True}, 51),
        ({"text": "line", "rerank": True, "k": 200}, 201),
    ],
)
def test_what_a_search_costs(query: dict[str, Any], cost: int) -> None:
    from penstock.server.queries import parse_query

    assert rates.of_search(parse_query(query)) == cost


def test_debts_are_paid_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(rates.time, "monotonic", lambda: now[0])
    limiter = RateLimiter(10.0)
    assert limiter.take("a") == 0
    limiter.charge("a", 99)
    with pytest.raises(Exception, match="10 requests a second"):
        limiter.admit("a")
    assert limiter.take("a") == pytest.approx(8.1)
    now[0] += 8.2
    assert limiter.take("a") == 0
    limiter.charge("a", 10**9)
    assert limiter.take("a") == pytest.approx(rates.MAX_DEBT + 0.1)
    free = RateLimiter(0.0)
    free.charge("a", 1000)
    assert free.take("a") == 0
    assert not free._buckets


def test_a_batch_costs_as_much_as_its_searches() -> None:
    with served(URL, with_settings(rate=5.0, keys=KEYS)) as client:
        batch = {"queries": [{"text": "line"}] * 32}
        assert client.post("/v1/search/batch", json=batch, headers=A).status_code == 200
        answer = client.get("/v1/search?q=line", headers=A)
        refused(answer, 429)
        assert int(answer.headers["retry-after"]) >= 4


# ---------------------------------------------------------------- large bodies


@pytest.mark.parametrize("path", ["/v1/search", "/v1/search/batch", "/v1/facets", "/v1/embeddings", "/knn-service"])
def test_bodies_of_too_many_values_are_refused_unparsed(path: str) -> None:
    """Parsing sixteen megabytes of numbers holds Python's lock for most of a second, and takes hundreds of them."""
    with served(URL) as client:
        for value in (b"0,", b"{},", b'"",'):
            body = b'{"vector": [' + value * ((15 << 20) // len(value)) + b"0]}"
            answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
            refused(answer, 413, "100,000")


def test_bodies_of_white_space_are_refused_unparsed() -> None:
    """Skipping sixteen megabytes of it holds Python's lock as long as twenty searches take."""
    with served(URL) as client:
        body = b'{"text": "line 1"' + b" \n" * (schemas.MAX_SPACE // 2) + b"}"
        answer = client.post("/v1/search", content=body, headers={"Content-Type": "application/json"})
        refused(answer, 413, "white space", "4,194,304")
        answer = client.post("/v1/search", content=body[:100] + b"}", headers={"Content-Type": "application/json"})
        assert answer.status_code == 200


def test_large_bodies_are_parsed_beside_the_event_loop() -> None:
    """Whatever the route."""
    loops: list[str] = []
    with served(URL) as client:
        parse = schemas.parse_json

        def watched(text: bytes | str, name: str = "the body") -> Any:
            loops.append(threading.current_thread().name)
            return parse(text, name)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(schemas, "parse_json", watched)
            body = json.dumps({"text": "line", "input": "line"}).encode() + b" " * (1 << 17)
            for path in ("/v1/search", "/v1/embeddings", "/knn-service", "/search"):
                client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert len(loops) == 4
    assert all(name.startswith("penstock-parse") for name in loops), loops


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ([1, 2.5, 1e31], "out of range"),
        ([1, True], "expected number"),
        ([1, "x"], "expected number"),
        ([10**400], "range"),
    ],
)
def test_vectors_are_checked(values: list[Any], fault: str) -> None:
    with pytest.raises(Exception, match=fault):
        schemas.validate({"vector": values}, schemas.SEARCH)


# ---------------------------------------------------------------- what nobody waits for


def ask(client: Client, text: str) -> socket.socket:
    line = socket.create_connection((client.base_url.host, client.base_url.port or 80))
    body = json.dumps({"text": text}).encode()
    line.sendall(
        b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nX-API-Key: a\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    return line


def test_searches_of_clients_that_have_gone_are_not_run() -> None:
    """By POST and by GET."""
    model = Gated()
    with served(URL, with_settings(keys=KEYS), opener=either(model)) as client, ThreadPoolExecutor(1) as pool:
        model.free.clear()
        first = pool.submit(client.get, "/v1/search?q=first", headers=B)
        until(lambda: "first" in model.seen)
        lines = [ask(client, f"gone {n}") for n in range(5)]
        line = socket.create_connection((client.base_url.host, client.base_url.port or 80))
        line.sendall(b"GET /v1/search?q=gone+too HTTP/1.1\r\nHost: localhost\r\nX-API-Key: a\r\n\r\n")
        until(lambda: depth(client) == 6)
        for one in (*lines, line):
            one.close()
        until(lambda: depth(client) == 0)
        model.free.set()
        assert first.result().status_code == 200
        assert client.get("/v1/search?q=last", headers=B).status_code == 200
        assert not [text for text in model.seen if text.startswith("gone")]
        assert 'status="499"} ' in client.get("/metrics", headers=A).text


def test_searches_that_took_too_long_are_not_run() -> None:
    model = Gated()
    with served(URL, with_settings(seconds=0.3), opener=either(model)) as client:
        model.free.clear()
        with ThreadPoolExecutor(5) as pool:
            first = pool.submit(client.get, "/v1/search?q=late+0")
            until(lambda: "late 0" in model.seen)
            answers = [first, *(pool.submit(client.get, f"/v1/search?q=late+{n}") for n in range(1, 5))]
            assert [answer.result().status_code for answer in answers] == [504] * 5
        model.free.set()
        assert client.get("/v1/search?q=last").status_code == 200
        assert len([text for text in model.seen if text.startswith("late")]) == 1, "the one that the model had"


@pytest.mark.parametrize("route", ["embeddings", "batch"])
def test_where_one_of_many_fails_the_others_leave(route: str) -> None:
    class Picky(Gated):
        def query(self, texts: Sequence[str]) -> list[Dense]:
            if "poison" in texts:
                raise UsageError("the text is too long for the model")
            return super().query(texts)

    model = Picky(each=0.02)
    texts = ["poison", *(f"other {n}" for n in range(31))]
    with served(URL, with_settings(batch=1), opener=either(model)) as client:
        if route == "embeddings":
            answer = client.post("/v1/embeddings", json={"input": texts})
        else:
            answer = client.post("/v1/search/batch", json={"queries": [{"text": text} for text in texts]})
        refused(answer, 400, "too long for the model")
        assert client.get("/v1/search?q=last").status_code == 200
        assert len([text for text in model.seen if text.startswith("other")]) < 5


# ---------------------------------------------------------------- what is switched off, and what is told to whom


def test_embeddings_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    with served(URL, with_settings(embeddings=False)) as client:
        refused(client.post("/v1/embeddings", json={"input": "x"}), 403, "does not embed texts")
        assert "/v1/embeddings" not in client.get("/openapi.json").json()["paths"]
        assert client.get("/v1/status").json()["limits"]["texts"] is None
        assert client.found(text="line 1", k=1) == ["doc:1"]
    with served(URL) as client:
        assert "/v1/embeddings" in client.get("/openapi.json").json()["paths"]
    started: list[Any] = []
    monkeypatch.setattr("penstock.server.server.serve", lambda url, settings, **_: started.append(settings.embeddings))
    assert main(["serve", "--index", URL, "--no-embeddings"]) == main(["serve", "--index", URL]) == 0
    assert started == [False, True]


def test_health_tells_the_number_of_points_to_those_with_a_key() -> None:
    with served(URL, with_settings(keys=KEYS, rate=1.0)) as client:
        assert client.get("/health").json() == {"status": "healthy", "collection_size": None}
        assert client.get("/health", headers=A).json() == {"status": "healthy", "collection_size": 5}
        guesses = [client.get("/health", headers={"X-API-Key": "guess"}).status_code for _ in range(8)]
        assert set(guesses) == {401, 429}, "guesses count"
        assert {client.get("/health").status_code for _ in range(8)} == {200}, "probes do not"
    with served(URL) as client:
        assert client.get("/health").json()["collection_size"] == 5


def test_embeddings_are_those_of_the_model() -> None:
    """In order, in both encodings, though each is rendered by itself."""
    with served(URL) as client:
        answer = client.post("/v1/embeddings", json={"input": ["line 1", "line 2"], "model": "x"}).json()
        assert [entry["index"] for entry in answer["data"]] == [0, 1]
        assert (answer["object"], answer["model"], answer["usage"]["total_tokens"]) == ("list", "x", 4)
        vector = ColourEmbedder().query(["line 2"])[0]
        assert answer["data"][1]["embedding"] == pytest.approx(vector.values.tolist())


def test_probes_do_not_count_the_points_each_time() -> None:
    """The route is open to all."""
    with served(URL) as client:
        began = time.monotonic()
        answers: list[httpx.Response] = [client.get("/health") for _ in range(20)]
        assert {answer.json()["collection_size"] for answer in answers} == {5}
        opened = [line for line in client.get("/metrics").text.splitlines() if "penstock_stage_seconds_count" in line]
        searches = next(float(line.split()[1]) for line in opened if 'stage="search"' in line)
        assert searches <= 2 + (time.monotonic() - began) / status.PROBE_TTL
