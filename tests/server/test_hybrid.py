"""Hybrid searches over HTTP: legs side by side, each through its own vector's queue."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from penstock.compose import open_index
from penstock.core.errors import QueryMismatch
from penstock.core.records import Dense, Hit, MultiVector, Point, Sparse
from penstock.core.schema import IndexSchema, Manifest
from penstock.server.openapi import SCHEMAS
from penstock.sinks.memory import MemorySink, forget
from tests.server.serving import Client, ColourEmbedder, chunk, fill, picture, refused, served
from tests.server.several import served_several, several
from tests.server.test_openapi import validator
from tests.server.test_search import b64
from tests.worded import Several, WordsIndex

URL = "memory://serve-hybrid"


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """A server of 120 texts and two images, with full text."""
    chunks = [chunk(n, f"gate {n} of the weir", metadata={"odd": n % 2}) for n in range(120)]
    chunks += [
        chunk(900 + n, colour, image=picture(colour), uri=f"doc:{colour}") for n, colour in enumerate(("red", "blue"))
    ]
    fill(URL, chunks)
    with served(URL) as client:
        yield client
    forget(URL)


def search(client: Client, **query: Any) -> Any:
    answer = client.post("/v1/search", json=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_legs_and_ranks(client: Client) -> None:
    """In a body, a url, a form and a batch: of all legs, or with weights."""
    first = search(client, text="gate 77", hybrid=True)["hits"][0]
    assert (first["uri"], first["legs"]) == ("doc:77", {"vector": 1, "words": 1})
    assert first["score"] == pytest.approx(2 / 61)
    assert search(client, text="gate 77")["hits"][0]["legs"] == {}
    assert search(client, text="gate 77", hybrid=False)["hits"][0]["legs"] == {}
    weighted = search(client, text="gate 77", hybrid={"words": 0.5})["hits"][0]
    assert (weighted["score"], weighted["legs"]) == (pytest.approx(0.5 / 61), {"words": 1})
    for value, legs in (("true", {"vector": 1, "words": 1}), ('{"words": 2}', {"words": 1})):
        assert client.get("/v1/search", params={"q": "77", "hybrid": value}).json()["hits"][0]["legs"] == legs
        form = {"text": (None, "77"), "hybrid": (None, value)}
        assert client.post("/v1/search", files=form).json()["hits"][0]["legs"] == legs
    queries = [{"text": "77", "hybrid": True}, {"text": "78"}]
    results = client.post("/v1/search/batch", json={"queries": queries}).json()["results"]
    assert [bool(one["hits"][0]["legs"]) for one in results] == [True, False]


def test_responses_are_as_described(client: Client) -> None:
    validator(SCHEMAS["Hits"]).validate(search(client, text="gate 77", hybrid=True))
    status = client.get("/v1/status").json()
    validator(SCHEMAS["Status"]).validate(status)
    assert status["words"] is True
    query = validator(SCHEMAS["Query"])
    assert query.is_valid({"text": "gate", "hybrid": {"words": 0.5}})
    assert not query.is_valid({"text": "gate", "hybrid": {"words": 0}})


def test_pages_are_pieces_of_one_list(client: Client) -> None:
    whole = search(client, text="gate 7 weir", hybrid=True, k=200, where={"odd": 1}, types=["text"])
    assert len(whole["hits"]) == 60
    assert whole["cursor"] is None
    paged: list[str] = []
    page: dict[str, Any] = {"cursor": None}
    for size in (7, 7, 7, 100):
        page = search(
            client, text="gate 7 weir", hybrid=True, k=size, where={"odd": 1}, types=["text"], cursor=page["cursor"]
        )
        paged += [hit["id"] for hit in page["hits"]]
    assert paged == [hit["id"] for hit in whole["hits"]]
    assert page["cursor"] is None


def test_facets_distinct_and_examples(client: Client) -> None:
    """An image and examples count in the legs of dense vectors; what is disliked is left out of all."""
    answer = search(client, text="weir", hybrid=True, facets=["odd"], distinct=True)
    assert {one["value"]: one["count"] for one in answer["facets"]["odd"]} == {0: 60, 1: 60}
    red = f"{900:032x}"
    assert red not in [hit["id"] for hit in search(client, text="red", hybrid=True, unlike=[red], k=200)["hits"]]
    by_image = search(client, text="gate", image=b64(picture("blue")), image_weight=5, hybrid=True, k=200)
    legs = {hit["uri"]: hit["legs"] for hit in by_image["hits"]}
    assert legs["doc:blue"] == {"vector": 1}
    assert search(client, text="gate 5", like=[red], hybrid=True)["hits"]
    assert search(client, text="gate", minus=["red"], hybrid=True)["hits"]


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({"text": "gate", "hybrid": {"late": 1}}, "no leg 'late'"),
        ({"text": "gate", "hybrid": {}}, "expected true, or the weights"),
        ({"text": "gate", "hybrid": "words"}, "hybrid: expected boolean, got string"),
        ({"text": "gate", "hybrid": ["words"]}, "hybrid: expected boolean, got array"),
        ({"text": "gate", "hybrid": {"words": "1"}}, "invalid weight 1 of 'words'"),
        ({"text": "gate", "hybrid": {"words": 1e9}}, "at most 100"),
        ({"text": "gate", "hybrid": True, "using": "vector"}, "expected one of these two"),
        ({"text": "gate", "hybrid": True, "threshold": 0.5}, "cannot be compared"),
        ({"text": "gate", "hybrid": True, "vector": [1.0] * 64}, "fits one leg"),
        ({"like": [f"{1:032x}"], "hybrid": True}, "it needs a text"),
        ({"text": "gate", "text_weight": 0, "image": b64(picture("red")), "hybrid": True}, "it needs a text"),
        ({"text": "gate", "image": b64(picture("red")), "hybrid": {"words": 1}}, "no vector of the hybrid search"),
        ({"text": "gate", "like": [f"{1:032x}"], "hybrid": {"words": 1}}, "no vector of the hybrid search is dense"),
    ],
)
def test_invalid_hybrid_searches(client: Client, query: dict[str, Any], says: str) -> None:
    refused(client.post("/v1/search", json=query), 400, says)


def test_each_leg_has_its_own_vector(client: Client) -> None:
    """Those of an index without full text are its vectors."""
    with served_several(several("several://hybrid")) as client:
        assert client.get("/v1/status").json()["words"] is False
        hits = search(client, text="gates", hybrid=True)["hits"]
        assert {*hits[0]["legs"]} == {"title", "body"}
        assert search(client, text="gates", hybrid={"title": 9, "body": 1})["hits"][0]["uri"] == "doc:2"
        assert search(client, text="gates", hybrid={"title": 1, "body": 9})["hits"][0]["uri"] == "doc:3"
        refused(
            client.post("/v1/search", json={"text": "x", "hybrid": {"words": 1}}), 400, "no full text", "title, body"
        )


def test_a_vector_of_each_kind_is_a_query() -> None:
    url, model = "memory://serve-kinds", Several()
    chunks = [chunk(n, text) for n, text in enumerate(("water gates", "red weirs", "a weir of gates"))]
    vectors = model.embed(chunks)
    with MemorySink(url) as sink:
        sink.open(Manifest(IndexSchema(model.describe())))
        sink.write([Point(one, {name: vectors[name][n] for name in vectors}) for n, one in enumerate(chunks)])
    [late], [sparse] = (model.query(["red weirs"], name) for name in ("late", "sparse"))
    assert isinstance(late, MultiVector)
    assert isinstance(sparse, Sparse)
    rows = {"vectors": late.values.tolist(), "using": "late"}
    pairs = {"sparse": {"indices": sparse.indices.tolist(), "values": sparse.values.tolist()}, "using": "sparse"}
    with served(url, opener=lambda url: open_index(url, model)) as client:
        assert client.found(**rows, k=1) == client.found(**pairs, k=1) == ["doc:1"]
        assert search(client, text="red weirs", hybrid=True, k=1)["hits"][0]["legs"] == dict.fromkeys(
            ("words", "dense", "sparse", "late"), 1
        )
        found = client.get("/v1/search", params={"vectors": json.dumps(rows["vectors"]), "using": "late"}).json()
        assert found["hits"][0]["uri"] == "doc:1"
        for query, says in (
            (rows | {"text": "red"}, "by a text, or by such a vector, alone"),
            (rows | pairs, "more than one vector"),
            (rows | {"using": "dense"}, "expected an array of numbers"),
            (rows | {"vectors": []}, "expected rows of numbers"),
            (pairs | {"sparse": {"indices": [1]}}, "sparse.values is missing"),
            (pairs | {"sparse": {"indices": [10**20], "values": [1]}}, "sparse.indices"),
            ({"using": "late"}, "empty query"),
        ):
            refused(client.post("/v1/search", json=query), 400, says)
    forget(url)


class Meeting(WordsIndex):
    """Searches that wait for each other: they pass only side by side."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.barrier: threading.Barrier | None = None

    def search(self, *args: Any, **options: Any) -> list[Hit]:
        if self.barrier:
            self.barrier.wait(20)
        return super().search(*args, **options)

    def search_words(self, *args: Any, **options: Any) -> list[Hit]:
        if self.barrier:
            self.barrier.wait(20)
        return super().search_words(*args, **options)


@pytest.fixture
def meeting(client: Client) -> Meeting:
    return Meeting(URL)


def test_legs_are_searched_side_by_side(meeting: Meeting) -> None:
    with served(URL, opener=lambda url: open_index(meeting, ColourEmbedder())) as client:
        meeting.barrier = threading.Barrier(2)
        assert search(client, text="gate 77", hybrid=True, k=5)["hits"][0]["uri"] == "doc:77"
    with open_index(Meeting(URL), ColourEmbedder()) as index:
        assert isinstance(index.index, Meeting)
        index.index.barrier = threading.Barrier(2)
        assert index.search("gate 77", k=5, hybrid=True)[0].chunk.uri == "doc:77"


def test_full_text_that_comes_later_is_searched(client: Client) -> None:
    """An index of an earlier version gets it at the end of a run, while it is served."""
    index = WordsIndex(URL)
    index.finds_words = False
    with served(URL, opener=lambda url: open_index(index, ColourEmbedder())) as later:
        assert later.get("/v1/status").json()["words"] is False
        assert search(later, text="gate 77", hybrid=True)["hits"][0]["legs"] == {"vector": 1}
        index.finds_words = True
        assert search(later, text="gate 77", hybrid=True)["hits"][0]["legs"] == {"vector": 1, "words": 1}
        assert later.get("/v1/status").json()["words"] is True


class Choosy(ColourEmbedder):
    """Takes no text about gates."""

    def query(self, texts: Sequence[str]) -> list[Dense]:
        if any("gate" in text for text in texts):
            raise QueryMismatch("no gates")
        return super().query(texts)


def test_the_full_text_needs_no_model_and_a_failed_leg_is_named(client: Client) -> None:
    with served(URL, opener=lambda url: open_index(url, Choosy())) as choosy:
        assert choosy.found(text="gate 77", hybrid={"words": 1}, k=1) == ["doc:77"]
        refused(choosy.post("/v1/search", json={"text": "gate 77", "hybrid": True}), 400, "no gates")
