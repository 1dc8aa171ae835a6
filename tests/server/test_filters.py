"""Filters by metadata, counts of its values and hints, over HTTP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from penstock.compose import open_index
from penstock.core.contracts import Index
from penstock.pipeline import Pipeline
from penstock.sinks.memory import MemoryIndex
from penstock.testing.embedders import HashingEmbedder
from penstock.testing.sources import ListSource
from tests.server.conftest import URL
from tests.server.serving import Client, ColourEmbedder, either, refused, served, with_settings


def test_a_search_is_narrowed_by_metadata(client: Client) -> None:
    assert client.found(text="number", where={"n": 3}) == ["doc:3"]
    assert set(client.found(text="number", where={"n": {"$gte": 7}, "type": "text"})) == {"doc:7", "doc:8", "doc:9"}
    assert len(client.found(text="number", where={"n": {"$exists": False}})) == 3
    assert client.found(text="number", where={"n": "3"}) == []
    got = client.get("/v1/search", params={"q": "number", "where": '{"metadata.n": [1, 2]}'})
    assert {hit["uri"] for hit in got.json()["hits"]} == {"doc:1", "doc:2"}


def test_a_field_that_no_chunk_has_is_named(client: Client) -> None:
    """Where nothing is found, and the first time only: there is no next page."""
    answer = client.post("/v1/search", json={"text": "number", "where": {"pag": 3}}).json()
    assert answer["hits"] == []
    assert answer["hint"] == "no chunk has the field 'pag'; did you mean 'page'?"
    for where in ({"n": 99}, {"n": 3}, {}):
        assert client.post("/v1/search", json={"text": "number", "where": where}).json()["hint"] is None
    results = client.post("/v1/search/batch", json={"queries": [{"text": "x"}, {"text": "x", "where": {"m": 1}}]})
    assert [result["hint"] is None for result in results.json()["results"]] == [True, False]


def test_counts_beside_the_hits(client: Client) -> None:
    """Of all chunks that pass the filter, whatever the page; they are no part of what a cursor belongs to."""
    query: dict[str, Any] = {"text": "number", "k": 1, "where": {"n": {"$lt": 2}}}
    answer = client.post("/v1/search", json={**query, "facets": ["type", "n", "none"]}).json()
    assert answer["facets"] == {
        "type": [{"value": "text", "count": 2}],
        "n": [{"value": 0, "count": 1}, {"value": 1, "count": 1}],
        "none": [],
    }
    after = client.post("/v1/search", json={**query, "cursor": answer["cursor"]}).json()
    assert len(after["hits"]) == 1
    assert after["facets"] == {}
    got = client.get("/v1/search", params={"q": "number", "facets": '["type"]'}).json()
    assert got["facets"] == {"type": [{"value": "text", "count": 10}, {"value": "image", "count": 3}]}


def test_counts_beside_hits_of_some_types(client: Client) -> None:
    """Of chunks of these types only, whatever the filter."""
    query: dict[str, Any] = {"text": "number", "facets": ["type", "n"]}
    for types, where, facets in (
        (["image"], None, {"type": [("image", 3)], "n": []}),
        (["text"], {"n": {"$lt": 1}}, {"type": [("text", 1)], "n": [(0, 1)]}),
        (["image"], {"n": 1}, {"type": [], "n": []}),
        (["text", "image"], {"n": 1}, {"type": [("text", 1)], "n": [(1, 1)]}),
    ):
        answer = client.post("/v1/search", json={**query, "types": types, "where": where or {}}).json()
        found = {name: [(one["value"], one["count"]) for one in several] for name, several in answer["facets"].items()}
        assert found == facets


def test_counts_alone(client: Client) -> None:
    """By POST and by GET."""
    types = [{"value": "text", "count": 10}, {"value": "image", "count": 3}]
    assert client.post("/v1/facets", json={"names": ["type"]}).json() == {"facets": {"type": types}}
    query = {"names": '["n", "type"]', "where": '{"n": {"$gte": 8}}', "limit": "1"}
    assert client.get("/v1/facets", params=query).json() == {
        "facets": {"n": [{"value": 8, "count": 1}], "type": [{"value": "text", "count": 2}]}
    }
    assert len(client.post("/v1/facets", json={"names": ["n"], "limit": 100}).json()["facets"]["n"]) == 10


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ({}, "names is missing"),
        ({"names": []}, "names is empty"),
        ({"names": "n"}, "expected array"),
        ({"names": [1]}, "names[0]"),
        ({"names": ["n"] * 11}, "10"),
        ({"names": ["x" * 201]}, "200"),
        ({"names": ["page"]}, "names: values are counted of type and of fields of metadata"),
        ({"names": ["a..b"]}, "names: "),
        ({"names": ["n"], "limit": 0}, "limit"),
        ({"names": ["n"], "limit": 101}, "100"),
        ({"names": ["n"], "limit": True}, "limit"),
        ({"names": ["n"], "where": {"page": "x"}}, "where: page"),
        ({"names": ["n"], "where": {"n": list(range(501))}}, "501 comparisons"),
        ({"names": ["n"], "where": {"n": "\ud800"}}, "surrogate"),
        ({"names": ["n"], "k": 5}, "k: unknown field"),
    ],
)
def test_invalid_counts(client: Client, query: dict[str, Any], word: str) -> None:
    answer = client.post("/v1/facets", content=json.dumps(query), headers={"content-type": "application/json"})
    refused(answer, 400, word)


def test_invalid_requests_for_counts(client: Client) -> None:
    refused(client.get("/v1/facets"), 400, "names is missing")
    refused(client.get("/v1/facets", params={"names": "n"}), 400, "names: invalid JSON")
    refused(client.post("/v1/facets", content="{}", headers={"content-type": "text/plain"}), 415)
    refused(client.delete("/v1/facets"), 405)


def test_a_store_that_cannot_count(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so; searches without counts go on."""
    monkeypatch.setattr(MemoryIndex, "facets", Index.facets)
    refused(client.post("/v1/facets", json={"names": ["n"]}), 400, "cannot count the values of a field")
    refused(client.post("/v1/search", json={"text": "x", "facets": ["n"]}), 400, "cannot count")
    assert client.found(text="red", k=1) == ["doc:red"]


def test_counts_follow_a_re_index(tmp_path: Path) -> None:
    """An index that was emptied is not taken for one without values, where another generation is current."""
    url = f"memory://{tmp_path}"
    model = HashingEmbedder(32)

    def pipeline(chunk: str) -> Pipeline:
        source = ListSource({"doc:1": b"a text of one document. it has two parts."})
        state = tmp_path / "a.db"
        return Pipeline(source, into=url, model=model, chunk=chunk, state=state, metadata={"department": "hr"})

    pipeline("100 characters").run()
    with served(url, with_settings(poll=60), opener=either(model)) as client:
        counts = [client.post("/v1/facets", json={"names": ["department"]}).json()]
        assert pipeline("25 characters").reindex().switched
        pipeline("25 characters").drop_former()
        counts.append(client.post("/v1/facets", json={"names": ["department"]}).json())
    assert counts == [{"facets": {"department": [{"value": "hr", "count": n}]}} for n in (1, 2)]


def test_python_counts_the_same(client: Client) -> None:
    with open_index(URL, ColourEmbedder()) as index:
        for where in (None, {"n": {"$gt": 4}}, {"m": 1}):
            counts = index.facets(["n", "type"], where, limit=3)
            answer = client.post("/v1/facets", json={"names": ["n", "type"], "where": where, "limit": 3}).json()
            assert answer["facets"] == {
                name: [{"value": value, "count": count} for value, count in several] for name, several in counts.items()
            }
            hits = index.search("number", where=where)
            found = client.post("/v1/search", json={"text": "number", "where": where}).json()
            assert found["hint"] == hits.hint
