"""An index with several vectors a chunk: each search names the one that it uses."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from penstock.core.errors import Transient
from penstock.embedders.functions import FunctionEmbedder
from penstock.server import status
from tests.server.serving import Client, picture, refused
from tests.server.several import SeveralIndex, bodies, embedders, look_and_words, served_several, several
from tests.server.test_openapi import described, validator

LISTED = ("title", "body", "using")


@pytest.fixture(scope="module")
def index() -> SeveralIndex:
    return several("several://titles-and-bodies")


@pytest.fixture(scope="module")
def client(index: SeveralIndex) -> Iterator[Client]:
    with served_several(index) as client:
        yield client


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def test_each_vector_is_searched_by_its_name(client: Client, index: SeveralIndex) -> None:
    """In a body, a url, a form and a batch."""
    assert client.found(text="otters", using="title", k=1) == ["doc:0"]
    assert client.found(text="otters", using="body", k=1) == ["doc:1"]
    assert index.searches[-2:] == ["title", "body"]
    answer = client.get("/v1/search", params={"q": "floods", "using": "body", "k": "1"}).json()
    assert [hit["uri"] for hit in answer["hits"]] == ["doc:2"]
    form = {"text": (None, "floods"), "using": (None, "title"), "k": (None, "1")}
    assert client.post("/v1/search", files=form).json()["hits"][0]["uri"] == "doc:3"
    queries = [{"text": "gates", "using": name, "k": 1} for name in ("title", "body")]
    results = client.post("/v1/search/batch", json={"queries": queries}).json()["results"]
    assert [result["hits"][0]["uri"] for result in results] == ["doc:2", "doc:3"]


def test_one_of_several_is_to_be_named(client: Client) -> None:
    """400 that lists them; so is a name that is none of them."""
    refused(client.post("/v1/search", json={"text": "otters"}), 400, *LISTED)
    refused(client.get("/v1/search?q=otters"), 400, *LISTED)
    refused(client.post("/v1/search", json={"text": "otters", "using": "summary"}), 400, "summary", "title", "body")
    refused(client.post("/v1/search", json={"text": "otters", "using": ""}), 400, "using")
    refused(client.post("/v1/search/batch", json={"queries": [{"text": "x"}]}), 400, "queries[0]", *LISTED)
    refused(client.get(f"/v1/points/{0:032x}?vector=true"), 400, *LISTED)
    refused(client.post("/v1/embeddings", json={"input": "otters"}), 400, *LISTED)
    refused(client.post("/knn-service", json={"text": "otters"}), 400, *LISTED)
    refused(client.get("/search?query=otters"), 400, *LISTED)
    refused(client.post("/search", json={"text": "otters"}), 400, *LISTED)


def test_of_one_vector_the_name_may_be_left_out() -> None:
    """Whatever it is called; another one is refused."""
    with served_several(several("several://only", ["title"]), {"title": embedders()["title"]}) as client:
        assert client.found(text="otters", k=1) == client.found(text="otters", using="title", k=1) == ["doc:0"]
        assert client.found(like=[f"{2:032x}"], k=1, distinct=True) == ["doc:2"]
        refused(client.post("/v1/search", json={"text": "otters", "using": "body"}), 400, "body", "title")
        assert len(client.get(f"/v1/points/{0:032x}?vector=true").json()["vector"]) == 64
        assert client.post("/v1/embeddings", json={"input": "x"}).status_code == 200
        assert client.post("/knn-service", json={"text": "otters"}).json()[0]["url"] == "doc:0"
        assert [vector["name"] for vector in client.get("/v1/status").json()["vectors"]] == ["title"]


def test_vectors_and_examples_are_of_the_name(client: Client) -> None:
    """Dimensions, examples, near-duplicates and stored vectors are those of the vector that is searched by."""
    refused(client.post("/v1/search", json={"vector": [1.0] * 64, "using": "body"}), 400, "expected 32 dimensions")
    vector = bodies(["x: otters"])[0].tolist()
    assert client.found(vector=vector, using="body", k=1) == ["doc:1"]
    assert client.found(like=[f"{3:032x}"], using="body", k=2) == ["doc:3", "doc:5"]
    assert client.found(like=[f"{3:032x}"], using="title", k=1) == ["doc:3"]
    point = client.get(f"/v1/points/{1:032x}", params={"vector": "true", "using": "body"}).json()
    assert point["vector"] == pytest.approx(vector, abs=1e-6)
    distinct = client.post("/v1/search", json={"text": "water", "using": "body", "distinct": True}).json()["hits"]
    assert len(distinct) == 6


def test_a_point_without_a_vector_of_that_name(client: Client) -> None:
    """It is not an example, its vector is null, and it is found by the name that it has."""
    refused(client.post("/v1/search", json={"like": [f"{5:032x}"], "using": "title"}), 400, "no point")
    last = {"vector": "true", "using": "title"}
    assert client.get(f"/v1/points/{5:032x}", params=last).json()["vector"] is None
    assert client.found(text="weirs", using="body", k=1) == ["doc:5"]
    assert "doc:5" not in client.found(text="water", using="title", k=20)


def test_a_cursor_is_of_one_vector(client: Client) -> None:
    query: dict[str, Any] = {"text": "otters", "using": "title", "k": 2}
    cursor = client.post("/v1/search", json=query).json()["cursor"]
    assert client.post("/v1/search", json={**query, "cursor": cursor}).status_code == 200
    refused(client.post("/v1/search", json={**query, "using": "body", "cursor": cursor}), 400, "another query")


def test_other_services_clients_name_it_too(client: Client) -> None:
    one = client.post("/v1/embeddings", json={"input": "otters", "using": "body"}).json()
    assert len(one["data"][0]["embedding"]) == 32
    assert one["model"] == FunctionEmbedder(bodies).describe().model
    refused(client.post("/v1/embeddings", json={"input": "x", "using": "title", "dimensions": 32}), 400, "dimensions")
    assert client.post("/knn-service", json={"text": "otters", "using": "body"}).json()[0]["url"] == "doc:1"
    answer = client.get("/search", params={"query": "otters", "using": "body", "n_results": "1"}).json()
    assert answer["results"][0]["image_path"] == "doc:1"
    assert client.post("/search", json={"text": "otters", "using": "title"}).json()[0]["image_path"] == "doc:0"


def test_status_lists_the_vectors(client: Client) -> None:
    """And `model` is the first one, as clients of an index with one expect."""
    status = client.get("/v1/status").json()
    for vector, (name, model) in zip(status["vectors"], embedders().items(), strict=True):
        spec = model.describe()
        expected = {"name": name, "model": spec.model, "dim": spec.dim, "kind": "Dense", "metric": "cosine"}
        assert expected.items() <= vector.items()
        assert vector["images"] is False
    first = dict(status["vectors"][0])
    assert first.pop("name") == "title"
    assert status["model"] == first
    validator(described("get", "/v1/status")["responses"]["200"]["content"]["application/json"]["schema"]).validate(
        status
    )


def test_ready_means_each_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """One model of the two that fails makes the server unready; the other is searched by all the same."""
    monkeypatch.setattr(status, "PROBE_TTL", 0.0)
    models = embedders()
    with served_several(several("several://fragile"), models) as client:
        assert client.get("/readyz").status_code == 200

        def fail(texts: Sequence[str]) -> Any:
            raise Transient("quota", retry_after=9)

        monkeypatch.setattr(models["body"], "query", fail)
        assert client.found(text="otters", using="title", k=1) == ["doc:0"]
        ready = client.get("/readyz")
        assert (ready.status_code, ready.headers["retry-after"]) == (503, "9")
        assert "model is unavailable" in ready.json()["reason"]


def test_it_is_opened_once_and_followed(index: SeveralIndex, client: Client) -> None:
    """Looking whether it has moved does not open it anew."""
    before = client.get("/metrics").text
    time.sleep(0.5)
    line = re.compile("^penstock_index_opened_total .*$", re.MULTILINE)
    assert line.findall(before) == line.findall(client.get("/metrics").text) == ["penstock_index_opened_total 1"]


def test_images_go_to_the_vector_whose_model_takes_them() -> None:
    index, models = look_and_words("several://look")
    with served_several(index, models) as client:
        assert client.found(image=b64(picture("green")), using="look", k=1) == ["doc:1"]
        refused(client.post("/v1/search", json={"image": b64(picture("green")), "using": "words"}), 400, "no images")
        assert [vector["images"] for vector in client.get("/v1/status").json()["vectors"]] == [False, True]
