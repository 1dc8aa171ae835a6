"""Reranking over HTTP: by the server's own model, of any kind of search."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from penstock.core.errors import EmbedError, ModelError
from penstock.server.openapi import SCHEMAS
from penstock.sinks.memory import forget
from penstock.testing.embedders import OverlapReranker
from tests.server.serving import Client, chunk, fill, picture, refused, served
from tests.server.test_hybrid import search
from tests.server.test_openapi import validator
from tests.server.test_search import b64

URL = "memory://serve-rerank"


class Model(OverlapReranker):
    """Refuses a long question, as cross-encoders do."""

    closed = False

    def close(self) -> None:
        self.closed = True

    def describe(self) -> str:
        return "/srv/models/overlap"

    def score(self, question: str, texts: Sequence[str]) -> list[float]:
        if len(question) > 100:
            raise EmbedError(f"the query has {len(question)} tokens; {self.describe()} takes 100")
        return super().score(question, texts)


@pytest.fixture(scope="module")
def model() -> Model:
    return Model()


@pytest.fixture(scope="module")
def client(model: Model) -> Iterator[Client]:
    """A server of 80 texts, of which the shorter ones are the better ones, and an image."""
    fill(URL, [*(chunk(n, f"gate weir {'gate ' * n}sluice {n}") for n in range(80)), chunk(900, image=picture("red"))])
    with served(URL, rerank=model) as client:
        yield client
    assert model.closed
    forget(URL)


def test_the_best_hits_are_reranked(client: Client, model: Model) -> None:
    """In a body, a url, a form and a batch; of a plain search and of a hybrid one."""
    plain = search(client, text="gate weir", k=60)
    assert {hit["rank_before"] for hit in plain["hits"]} == {None}
    assert plain["took"]["rerank"] == 0
    asked = len(model.asked)
    page = search(client, text="gate weir", k=5, rerank=True)
    assert model.asked[asked:] == [("gate weir", 16)] * 3 + [("gate weir", 2)]  # others have turns between
    ids = [hit["id"] for hit in plain["hits"]]
    assert [ids[hit["rank_before"] - 1] for hit in page["hits"]] == [hit["id"] for hit in page["hits"]]
    scores = [hit["score"] for hit in page["hits"]]
    assert scores == [model.score("gate weir", [hit["text"]])[0] for hit in page["hits"]] == sorted(scores)[::-1]
    assert page["cursor"] is None
    assert page["took"]["rerank"] > 0
    validator(SCHEMAS["Hits"]).validate(page)
    same = [hit["id"] for hit in page["hits"]]
    by_url = client.get("/v1/search", params={"q": "gate weir", "k": 5, "rerank": "true"}).json()
    form = {"text": (None, "gate weir"), "k": (None, "5"), "rerank": (None, "true")}
    by_form = client.post("/v1/search", files=form).json()
    queries = [{"text": "gate weir", "k": 5, "rerank": True}, {"text": "gate weir", "k": 5}]
    first, second = client.post("/v1/search/batch", json={"queries": queries}).json()["results"]
    assert [[hit["id"] for hit in one["hits"]] for one in (by_url, by_form, first)] == [same] * 3
    assert second["hits"][0]["rank_before"] is None
    hybrid = search(client, text="gate weir", k=5, rerank=True, hybrid=True, threshold=0.1)
    assert all(hit["legs"] and hit["rank_before"] and hit["score"] >= 0.1 for hit in hybrid["hits"])


def test_what_cannot_be_reranked_is_refused(client: Client) -> None:
    def refuse(*words: str, **query: Any) -> None:
        refused(client.post("/v1/search", json={"rerank": True, **query}), 400, *words)

    refuse("rerank: it needs a text", image=b64(picture("red")))
    refuse("rerank: it needs a text", text="gate", text_weight=0, image=b64(picture("red")))
    refuse("a reranked search has no further pages; ask for a larger k", text="gate", cursor="abc")
    refuse("rerank: expected boolean", text="gate", rerank="yes")
    refuse("the query has 150 tokens; …/overlap takes 100", text="gate " * 30)


def test_the_status_names_the_model(client: Client) -> None:
    assert client.get("/v1/status").json()["reranker"] == "/srv/models/overlap"
    assert 'stage="rerank"' in client.get("/metrics").text


def test_a_server_without_a_reranker_says_so() -> None:
    url = "memory://serve-unranked"
    fill(url, [chunk(1, "gate")])
    with served(url) as client:
        answer = client.post("/v1/search", json={"text": "gate", "rerank": True})
        refused(answer, 400, "rerank: the server has no reranker; it is started with --rerank MODEL")
        assert client.get("/v1/status").json()["reranker"] is None
    with pytest.raises(ModelError, match="there is no model at"), served(url, rerank="/nowhere/model"):
        raise AssertionError
    forget(url)
