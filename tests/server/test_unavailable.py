"""A model that is busy and an index that is away are different troubles, and are reported as such."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from penstock.compose import open_index
from penstock.core.contracts import Embedder, Index
from penstock.core.errors import SinkError, SinkUnavailable, Transient
from penstock.core.records import Dense
from penstock.jobs.search import OpenIndex
from penstock.pipeline import Pipeline
from penstock.server import generations
from penstock.sinks.memory import MemoryIndex, forget
from penstock.testing.chaos import Lines
from penstock.testing.embedders import HashingEmbedder
from penstock.testing.sources import ListSource
from tests.server.serving import Client, ColourEmbedder, chunk, either, fill, refused, served, with_settings

URL = "memory://serve-unavailable"


@pytest.fixture(autouse=True)
def index() -> Iterator[None]:
    fill(URL, [chunk(n, f"line {n}") for n in range(5)])
    yield
    forget(URL)


class Busy(ColourEmbedder):
    """Raises `error` while it is set, and counts its calls."""

    error: Exception | None = None

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def query(self, texts: Sequence[str]) -> list[Dense]:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return super().query(texts)


def opened(client: Client) -> str:
    return next(line for line in client.get("/metrics").text.splitlines() if "index_opened_total " in line)


def kind(answer: httpx.Response) -> Any:
    return answer.json()["error"]["type"]


@pytest.mark.parametrize(("retry_after", "header"), [(None, "1"), (0.2, "1"), (6.2, "7"), (30.0, "30")])
def test_a_busy_model_is_not_an_index_that_is_away(
    retry_after: float | None, header: str, caplog: pytest.LogCaptureFixture
) -> None:
    """503 `model_unavailable`, as long as the model says; neither index nor model is opened anew for it."""
    model = Busy()
    with served(URL, opener=either(model)) as client:
        before = opened(client)
        model.error = Transient("quota of account 4711", retry_after=retry_after)
        answers = [
            client.get("/v1/search?q=line"),
            client.post("/v1/search", json={"text": "line", "minus": ["much"]}),
            client.post("/v1/search/batch", json={"queries": [{"text": "line"}]}),
            client.post("/v1/embeddings", json={"input": "line"}),
            client.post("/knn-service", json={"text": "line"}),
            client.get("/search?query=line"),
        ]
        for answer in answers:
            refused(answer, 503, "model")
            assert kind(answer) == "model_unavailable"
            assert answer.headers["retry-after"] == header
            assert "4711" not in answer.text
        assert "quota of account 4711" in caplog.text
        ready = client.get("/readyz")
        assert (ready.status_code, ready.headers["retry-after"]) == (503, header)
        assert "model" in ready.json()["reason"]
        assert client.get("/v1/status").json()["points"] == 5
        assert client.get(f"/v1/points/{1:032x}").status_code == 200
        assert opened(client) == before
        model.error = None
        assert client.found(text="line 1", k=1) == ["doc:1"]


def test_a_busy_model_is_not_asked_for_each_query_of_a_batch() -> None:
    """What it refused together it is not given again one by one."""
    model, go_on = Busy(), threading.Event()

    class Held(Busy):
        def query(self, texts: Sequence[str]) -> list[Dense]:
            go_on.wait(10)
            return super().query(texts)

    model = Held()
    go_on.set()
    with served(URL, opener=either(model)) as client, ThreadPoolExecutor(9) as pool:
        go_on.clear()
        model.error, model.calls = Transient("busy", retry_after=3), 0
        asks = [pool.submit(client.get, "/v1/search", params={"q": f"line {n}"}) for n in range(9)]
        time.sleep(0.7)
        go_on.set()
        assert {(kind(ask.result()), ask.result().headers["retry-after"]) for ask in asks} == {
            ("model_unavailable", "3")
        }
        assert model.calls <= 3


class Away(MemoryIndex):
    """Raises `error` in every search while it is set."""

    error: Exception | None = None

    def search(self, *args: Any, **options: Any) -> Any:
        if self.error is not None:
            raise self.error
        return super().search(*args, **options)


@pytest.mark.parametrize(
    ("error", "header"),
    [
        (SinkError("refused"), "1"),
        (SinkUnavailable("busy", retry_after=4.0), "4"),
        (Transient("busy", retry_after=4.0), "4"),
        (RuntimeError("a driver's own"), "1"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_an_index_raises_means_the_index(error: Exception, header: str) -> None:
    """A driver that raises a plain Transient, or an error of its own, does not make it the model's trouble."""
    index = Away(URL)
    with served(URL, opener=lambda url: open_index(index, ColourEmbedder())) as client:
        index.error = error
        answer = client.get("/v1/search?q=line")
        refused(answer, 503, "index")
        assert (kind(answer), answer.headers["retry-after"]) == ("index_unavailable", header)
        index.error = None
        assert client.found(text="line 1", k=1) == ["doc:1"]


def test_an_index_that_cannot_be_opened_anew_is_still_away() -> None:
    """Whatever opening raises, the client is told of the index, and the status why it was not opened."""
    index, wrong = Away(URL), list[Exception]()

    def opener(url: str | Index) -> OpenIndex:
        if wrong:
            raise wrong[0]
        return open_index(index, ColourEmbedder())

    with served(URL, with_settings(poll=30.0), opener=opener) as client:
        index.error = SinkError("gone")
        wrong.append(MemoryError("no room for the model"))
        answer = client.get("/v1/search?q=line")
        refused(answer, 503, "index")
        assert kind(answer) == "index_unavailable"
        assert "no room for the model" in client.get("/v1/status").json()["trouble"]
        index.error = None
        assert client.found(text="line 1", k=1) == ["doc:1"]


def test_a_model_that_is_busy_when_the_index_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old generation is served on; index and model are opened again when the model says, not at each look."""
    monkeypatch.setattr(generations, "REOPEN_INTERVAL", 0.1)
    url, state = "memory://serve-busy", tmp_path / "ledger.db"
    source = ListSource({f"doc:{n}": f"line {n}".encode() for n in range(5)})

    def pipeline(model: Embedder) -> Pipeline:
        return Pipeline(source, into=url, model=model, chunk=Lines(), state=state)

    pipeline(HashingEmbedder(64)).run()
    opens: list[float] = []
    choose = either(HashingEmbedder(64), busy := Busy())
    busy.error = Transient("loading", retry_after=1.0)

    def opener(url: str) -> OpenIndex:
        opens.append(time.monotonic())
        found: OpenIndex = choose(url)
        return found

    with served(url, with_settings(poll=0.05), opener=opener) as client:
        pipeline(ColourEmbedder()).reindex()
        deadline = time.monotonic() + 5
        while "loading" not in str(client.get("/v1/status").json()["trouble"]):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert client.found(text="line 1", k=1) == ["doc:1"]
        time.sleep(0.5)
        assert "loading" in client.get("/v1/status").json()["trouble"]
        assert len(opens) == 2
        busy.error = None
        while client.get("/v1/status").json()["model"]["model"] != "colours":
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert client.get("/v1/status").json()["trouble"] is None
        assert len(opens) == 3
        assert opens[2] - opens[1] >= 1.0
    for name in ("", "_1"):
        forget(url + name)
