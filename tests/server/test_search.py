"""Searching over HTTP: queries, responses, and errors of invalid queries."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.compose import open_index
from penstock.sinks.memory import forget
from penstock.testing.embedders import HashingEmbedder
from tests.server.serving import Client, ColourEmbedder, chunk, either, fill, picture, refused, served


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def test_by_words(client: Client) -> None:
    """A hit has all fields of its chunk, a score and a snippet."""
    answer = client.post("/v1/search", json={"text": "number 3 weighs much", "k": 2})
    content = answer.json()
    hit = content["hits"][0]
    assert hit["uri"] == "doc:3"
    assert hit["score"] == pytest.approx(1, abs=1e-5)
    assert hit["text"] == hit["snippet"] == "number 3 weighs much"
    assert (hit["page"], hit["headings"], hit["metadata"], hit["span"]) == (3, ["Weights"], {"n": 3}, [0, 20])
    assert hit["thumb"] is None
    assert len(content["hits"]) == 2
    assert set(content["took"]) == {"embed", "search", "rerank", "queue"}
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_by_words_in_a_url(client: Client) -> None:
    """The same as in a body, filters as JSON."""
    answer = client.get("/v1/search", params={"q": "number 3", "k": "1", "where": '{"page": 5}', "distinct": "True"})
    assert [hit["uri"] for hit in answer.json()["hits"]] == ["doc:5"]
    assert client.get("/v1/search", params={"q": "3"}).json()["hits"][0]["uri"] == "doc:3"


def test_by_image(client: Client) -> None:
    """In base64, as a data: url, and uploaded; each with a link to its small picture."""
    assert client.found(image=b64(picture("green")), k=1) == ["doc:green"]
    assert client.found(image="data:image/png;base64," + b64(picture("blue")), k=1) == ["doc:blue"]
    files = {"image": ("a.jpg", picture("red", kind="JPEG"), "image/jpeg")}
    hits = client.post("/v1/search", files=files, data={"k": "1", "where": '{"uri": {"$ne": "doc:blue"}}'}).json()[
        "hits"
    ]
    assert [hit["uri"] for hit in hits] == ["doc:red"]
    assert hits[0]["thumb"] == f"/v1/thumbs/{hits[0]['id']}"


def test_weights(client: Client) -> None:
    """The heavier part wins; without a weight it counts for nothing."""
    red = b64(picture("red"))
    assert client.found(text="green", image=red, text_weight=2, k=1) == ["doc:green"]
    assert client.found(text="green", image=red, image_weight=2, k=1) == ["doc:red"]
    assert client.found(text="green", image=red, text_weight=0, k=1) == ["doc:red"]
    assert set(client.found(text="green", image=red, k=2)) == {"doc:red", "doc:green"}


def test_minus_like_and_unlike(client: Client) -> None:
    """Terms are taken away, liked points searched near, disliked ones left out and searched away from."""
    assert client.found(text="red green", minus=["red"], k=1) == ["doc:green"]
    assert client.found(like=[f"{20:032x}"], k=1) == ["doc:red"]
    near = client.found(text="green", like=[f"{20:032x}"], k=2)
    assert near == ["doc:green", "doc:red"]
    away = client.found(text="red green blue", unlike=[f"{20:032x}"], k=20)
    assert away[:2] in (["doc:green", "doc:blue"], ["doc:blue", "doc:green"])
    assert "doc:red" not in away


def test_by_vector(client: Client) -> None:
    vector = ColourEmbedder().query(["blue"])[0].values
    assert client.found(vector=vector.tolist(), k=1) == ["doc:blue"]
    assert client.found(vector=(vector * 7).tolist(), text="blue", k=1) == ["doc:blue"]


def test_since(client: Client) -> None:
    """By the fields `time` and `modified`, of which these documents have none."""
    assert client.found(text="red", since="2h") == []


def test_threshold(client: Client) -> None:
    """No hits of a lower score, and no cursor to them."""
    answer = client.post("/v1/search", json={"text": "red", "threshold": 0.9, "k": 1}).json()
    assert [hit["uri"] for hit in answer["hits"]] == ["doc:red"]
    assert answer["cursor"] is None
    assert client.found(text="red", threshold=1.5) == []


@pytest.mark.parametrize("k", [1, 3, 13])
def test_pages(client: Client, k: int) -> None:
    """Page by page all points come, each once, in the order of one long page."""
    whole = client.found(text="number weighs little", k=50)
    seen: list[str] = []
    query: dict[str, Any] = {"text": "number weighs little", "k": k}
    for _ in range(20):
        answer = client.post("/v1/search", json=query).json()
        seen += [hit["uri"] for hit in answer["hits"]]
        if answer["cursor"] is None:
            break
        query["cursor"] = answer["cursor"]
    assert seen == whole
    assert len(set(seen)) == 13


def test_a_cursor_is_of_one_query(client: Client) -> None:
    """It is refused by another query; so are forged cursors, and those that lead too deep."""
    cursor = client.post("/v1/search", json={"text": "red", "k": 1}).json()["cursor"]
    assert client.get("/v1/search", params={"q": "red", "cursor": cursor, "k": 5}).status_code == 200
    refused(client.post("/v1/search", json={"text": "blue", "cursor": cursor}), 400, "another query")
    refused(client.post("/v1/search", json={"text": "red", "distinct": True, "cursor": cursor}), 400, "another query")
    fields = json.loads(base64.urlsafe_b64decode(cursor + "=="))
    for at in (10_000, -1, True, "1", 1e3, None):
        forged = base64.urlsafe_b64encode(json.dumps({**fields, "at": at}).encode()).decode()
        refused(client.post("/v1/search", json={"text": "red", "cursor": forged}), 400, "cursor")
    for nonsense in ("x", "%%%", "é", "W10", "bnVsbA", "A" * 200):
        refused(client.post("/v1/search", json={"text": "red", "cursor": nonsense}), 400, "cursor")


def test_near_duplicates_are_one(client: Client) -> None:
    """On every page, and the hit has the number that it stands for."""
    url = "memory://serve-distinct"
    fill(url, [chunk(n, f"word{n % 5}") for n in range(40)])
    try:
        with served(url) as other:
            first = other.post("/v1/search", json={"text": "word1", "distinct": True, "k": 2}).json()
            again = {"text": "word1", "distinct": True, "k": 2, "cursor": first["cursor"]}
            second = other.post("/v1/search", json=again).json()
            third = other.post("/v1/search", json={**again, "cursor": second["cursor"]}).json()
    finally:
        forget(url)
    assert first["hits"][0]["text"] == "word1"
    pages = [[hit["text"] for hit in answer["hits"]] for answer in (first, second, third)]
    assert [len(page) for page in pages] == [2, 2, 1]
    assert len({text for page in pages for text in page}) == 5
    assert third["cursor"] is None
    assert all(hit["stands_for"] == 8 for hit in third["hits"])


def test_batch(client: Client) -> None:
    """Results in the order of the queries; an invalid one is named, and none is searched."""
    queries = [{"text": colour, "k": 1} for colour in ("red", "blue", "green")]
    results = client.post("/v1/search/batch", json={"queries": queries}).json()["results"]
    assert [result["hits"][0]["uri"] for result in results] == ["doc:red", "doc:blue", "doc:green"]
    refused(client.post("/v1/search/batch", json={"queries": [*queries, {"text": "x", "k": 0}]}), 400, "queries[3].k")
    refused(client.post("/v1/search/batch", json={"queries": [{"like": ["none"]}]}), 400, "queries[0]", "no point")
    refused(client.post("/v1/search/batch", json={"queries": queries * 11}), 400, "32")
    refused(client.post("/v1/search/batch", json={"queries": []}), 400, "empty")


def nots(levels: int) -> dict[str, Any]:
    return {"$not": nots(levels - 1)} if levels else {"page": 1}


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "empty query"),
    "empty text": ({"text": ""}, "text"),
    "blank text": ({"text": "  \n"}, "empty"),
    "long text": ({"text": "x" * 20_001}, "20,001"),
    "text is a number": ({"text": 5}, "integer"),
    "half a character": ({"text": "\ud800"}, "surrogate"),
    "unknown field": ({"text": "x", "limit": 5}, "limit"),
    "k is 0": ({"text": "x", "k": 0}, "k: expected"),
    "k is 201": ({"text": "x", "k": 201}, "200"),
    "k is true": ({"text": "x", "k": True}, "boolean"),
    "k is 1.5": ({"text": "x", "k": 1.5}, "number"),
    "negative weight": ({"text": "x", "text_weight": -1}, "text_weight"),
    "all weights 0": ({"text": "x", "text_weight": 0}, "weight above 0"),
    "an image without weight": ({"image": b64(picture("red")), "image_weight": 0}, "weight above 0"),
    "bad base64": ({"image": "not*base64"}, "base64"),
    "base64 of nothing": ({"image": ""}, "zero bytes"),
    "two images": ({"image": b64(picture("red")), "image_url": "https://example.org/"}, "image_url"),
    "short vector": ({"vector": [1.0, 2.0]}, "256 dimensions"),
    "zero vector": ({"vector": [0.0] * 256}, "zero"),
    "words in a vector": ({"vector": ["a"]}, "vector[0]"),
    "a number beyond floats": ({"vector": [10**400]}, "out of range"),
    "a vector for all of nothing": ({"vector": []}, "empty"),
    "unknown id": ({"like": ["no-such-id"]}, "no point"),
    "unlike alone": ({"unlike": [f"{20:032x}"]}, "empty query"),
    "invalid filter field": ({"text": "x", "where": {"colour..x": "red"}}, "colour"),
    "facets of a field of a chunk": ({"text": "x", "facets": ["n", "page"]}, "facets: values are counted"),
    "facets of an invalid field": ({"text": "x", "facets": ["$n"]}, "facets: "),
    "11 facets": ({"text": "x", "facets": [f"f{n}" for n in range(11)]}, "10"),
    "facets without a name": ({"text": "x", "facets": [""]}, "facets[0] is empty"),
    "facets that are a text": ({"text": "x", "facets": "n"}, "expected array"),
    "unknown comparison": ({"text": "x", "where": {"page": {"$near": 1}}}, "$near"),
    "filter of a wrong type": ({"text": "x", "where": {"page": "one"}}, "page"),
    "filter is a list": ({"text": "x", "where": []}, "where"),
    "deep filter": ({"text": "x", "where": nots(16)}, "16 levels"),
    "half a character in a filter": ({"text": "x", "where": {"uri": {"$in": ["\ud800"]}}}, "surrogate"),
    "wide filter": ({"text": "x", "where": {"page": list(range(501))}}, "501"),
    "since is no time": ({"text": "x", "since": "soon"}, "invalid since 'soon'"),
    "since is a number": ({"text": "x", "since": 3}, "since"),
    "threshold is text": ({"text": "x", "threshold": "high"}, "threshold"),
}


@pytest.mark.parametrize("name", BAD)
def test_invalid_queries(client: Client, name: str) -> None:
    """Each is a clear 400."""
    query, word = BAD[name]
    content = json.dumps(query)
    refused(client.post("/v1/search", content=content, headers={"content-type": "application/json"}), 400, word)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("doc:1"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
FILTERS = st.recursive(
    st.dictionaries(
        st.sampled_from(["id", "uri", "page", "ordinal", "text", "colour", "n", "type", "a.b"]),
        JSON
        | st.dictionaries(
            st.sampled_from(["$eq", "$ne", "$in", "$nin", "$lt", "$gte", "$all", "$exists", "$prefix", "$x"]),
            JSON,
            max_size=2,
        ),
        max_size=2,
    ),
    lambda inner: st.fixed_dictionaries({"$not": inner}) | st.fixed_dictionaries({"$or": st.lists(inner, max_size=3)}),
    max_leaves=4,
)
QUERIES = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("text_weight", "image", "image_weight", "k", "cursor", "threshold", "distinct", "x"), JSON),
        **{
            name: JSON | st.lists(st.just(f"{3:032x}") | st.text(max_size=4), max_size=3)
            for name in ("like", "minus", "facets")
        },
        "text": JSON | st.text(max_size=30),
        "vector": JSON | st.lists(st.floats(-1e40, 1e40), min_size=256, max_size=256),
        "where": JSON | FILTERS,
    },
)


@settings(max_examples=60, deadline=None)
@given(query=QUERIES)
def test_any_query_is_answered_or_refused(client: Client, query: dict[str, Any]) -> None:
    """None is an internal error."""
    content = json.dumps(query)
    answer = client.post("/v1/search", content=content, headers={"content-type": "application/json"})
    if answer.status_code != 200:
        refused(answer, answer.status_code)
        assert 400 <= answer.status_code < 500, answer.text


def test_parts_that_cancel_each_other_out(client: Client) -> None:
    refused(client.post("/v1/search", json={"text": "red", "minus": ["red", "red"]}), 400, "cancel")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "invalid JSON"),
        (b"{", "invalid JSON"),
        (b"[]", "array"),
        (b"null", "null"),
        (b'"text"', "string"),
        (b'{"text": NaN}', "NaN"),
        (b"\xff\xfe\x00", "invalid JSON"),
        (b"[" * 100_000, "invalid JSON"),
        (b'{"where": ' + b'{"$not": ' * 5000 + b'{"page": 1}' + b"}" * 5000 + b', "text": "x"}', ""),
    ],
)
def test_bodies_that_are_not_queries(client: Client, content: bytes, word: str) -> None:
    answer = client.post("/v1/search", content=content, headers={"content-type": "application/json"})
    refused(answer, 400, word)


def test_invalid_images(client: Client) -> None:
    """The error names the fault; pixels are read from the header, before anything is decoded."""
    for content, status, word in (
        (b"", 400, "zero bytes"),
        (b"<html><body>not found</body></html>", 415, "HTML"),
        (b"\x00" * 100, 415, "no image"),
        (picture("red")[:60], 400, ""),
        (picture("red", size=(2000, 1001)), 413, "2,000 x 1,001"),
    ):
        answer = client.post("/v1/search", files={"image": ("a.jpg", content, "image/jpeg")})
        refused(answer, status, word)


def test_invalid_forms(client: Client) -> None:
    good = {"image": ("a.png", picture("red"), "image/png")}
    refused(client.post("/v1/search", files={"other": ("a", b"1")}), 400, "image")
    refused(client.post("/v1/search", files=good, data={"k": "many"}), 400, "k: invalid JSON")
    refused(client.post("/v1/search", files=good, data={"image": "x"}), 400)
    refused(client.post("/v1/search", files=[("image", good["image"])] * 2), 400, "files")
    broken = {"content-type": "multipart/form-data; boundary=x"}
    refused(client.post("/v1/search", content=b"--y\r\nnonsense", headers=broken), 400)
    refused(client.post("/v1/search", content=b"", headers={"content-type": "multipart/form-data"}), 400)


@pytest.mark.parametrize("charset", ["punycode", "undefined", "idna", "utf-7", "nonsense"])
def test_charsets_of_forms(client: Client, charset: str) -> None:
    """Python's codecs have errors of their own kinds."""
    kind = {"content-type": f"multipart/form-data; boundary=x; charset={charset}"}
    part = b'--x\r\nContent-Disposition: form-data; name="k"\r\n\r\n\xff\xd8\\ud800\r\n--x--\r\n'
    refused(client.post("/v1/search", content=part, headers=kind), 400)


def test_an_error_does_not_repeat_a_long_query(client: Client) -> None:
    answer = client.post("/v1/search", json={"text": "x", "where": {"page": {"A" * 100_000: 1}}})
    refused(answer, 400, "unknown comparison")
    assert len(answer.content) < 1000


def test_invalid_urls(client: Client) -> None:
    refused(client.get("/v1/search"), 400, "empty query")
    refused(client.get("/v1/search?q=a&q=b"), 400, "twice")
    refused(client.get("/v1/search", params={"q": "a", "where": "page=1"}), 400, "where: invalid JSON")
    refused(client.get("/v1/search", params={"q": "a", "color": "1"}), 400, "color")


def test_content_types_and_methods(client: Client) -> None:
    """JSON must be declared as JSON, which a form of a foreign web page cannot do."""
    refused(
        client.post("/v1/search", content='{"text": "x"}', headers={"content-type": "text/plain"}), 415, "text/plain"
    )
    refused(client.delete("/v1/search"), 405)
    refused(client.get("/v1/search/batch"), 405)
    refused(client.get("/v1/nothing"), 404)
    refused(client.get("/nothing"), 404)


def test_urls_are_not_fetched_unless_allowed(client: Client) -> None:
    refused(client.post("/v1/search", json={"image_url": "https://example.org/a.jpg"}), 403, "does not fetch")


def test_an_index_without_images() -> None:
    url = "memory://serve-words"
    fill(url, [chunk(1, "words")], HashingEmbedder())
    try:
        with served(url, opener=either(HashingEmbedder())) as other:
            refused(other.post("/v1/search", json={"image": b64(picture("red"))}), 400, "hashing embeds no images")
            assert other.found(text="words") == ["doc:1"]
    finally:
        forget(url)


def test_points(client: Client) -> None:
    """One by its id, with its vector on request."""
    point = client.get(f"/v1/points/{3:032x}").json()
    assert (point["uri"], point["page"]) == ("doc:3", 3)
    assert "vector" not in point
    vector = client.get(f"/v1/points/{3:032x}?vector=true").json()["vector"]
    assert np.allclose(vector, ColourEmbedder().query(["number 3 weighs much"])[0].values)
    refused(client.get("/v1/points/none"), 404, "no point")
    refused(client.get("/v1/points/" + "x" * 300), 404)
    refused(client.get("/v1/points/%00"), 404)


def test_dimensions_of_openai_embeddings(client: Client) -> None:
    dim = len(client.post("/v1/embeddings", json={"input": "red"}).json()["data"][0]["embedding"])
    assert client.post("/v1/embeddings", json={"input": "red", "dimensions": dim}).status_code == 200
    refused(client.post("/v1/embeddings", json={"input": "red", "dimensions": dim + 1}), 400, "dimensions")


def test_openai_embeddings(client: Client) -> None:
    """A text or several; floats or base64; the model's name as in the request."""
    one = client.post("/v1/embeddings", json={"input": "red", "model": "text-embedding-3-small"}).json()
    assert (one["object"], one["model"], one["usage"]["prompt_tokens"]) == ("list", "text-embedding-3-small", 1)
    wanted = ColourEmbedder().query(["red", "blue"])
    assert np.allclose(one["data"][0]["embedding"], wanted[0].values)
    both = client.post("/v1/embeddings", json={"input": ["red", "blue"], "encoding_format": "base64"}).json()
    assert [entry["index"] for entry in both["data"]] == [0, 1]
    assert both["model"] == "colours"
    assert np.allclose(np.frombuffer(base64.b64decode(both["data"][1]["embedding"]), "<f4"), wanted[1].values)
    refused(client.post("/v1/embeddings", json={"input": [[1, 2]]}), 400, "input[0]")
    refused(client.post("/v1/embeddings", json={"input": []}), 400, "empty")
    refused(client.post("/v1/embeddings", json={}), 400, "input is missing")
    refused(client.post("/v1/embeddings", json={"input": "x", "encoding_format": "hex"}), 400, "float")


def test_clip_retrieval_clients(client: Client) -> None:
    """The fields that its client sends and reads."""
    asked = {
        "text": "red", "image": None, "image_url": None, "embedding_input": None, "modality": "image", "num_images": 3,
        "indice_name": "any", "use_mclip": False, "deduplicate": True, "use_safety_model": True,
        "use_violence_detector": True, "aesthetic_score": 9, "aesthetic_weight": 0.5,
    }  # fmt: skip
    found = client.post("/knn-service", json=asked).json()
    assert (found[0]["url"], found[0]["id"]) == ("doc:red", f"{20:032x}")
    assert found[0]["similarity"] == pytest.approx(1, abs=1e-5)
    assert len(found) == 3
    plain = client.post("/knn-service", content=json.dumps({**asked, "text": "", "image": b64(picture("blue"))}))
    assert plain.json()[0]["url"] == "doc:blue"
    vector = ColourEmbedder().query(["green"])[0].values.tolist()
    assert client.post("/knn-service", json={"embedding_input": vector}).json()[0]["url"] == "doc:green"
    assert client.get("/indices-list").json() == ["memory://serve-api"]
    refused(client.post("/knn-service", json={}), 400, "empty query")


def test_the_image_search_example_clients(client: Client) -> None:
    assert (
        client.get("/search", params={"query": "red", "n_results": "2"}).json()["results"][0]["image_path"] == "doc:red"
    )
    found = client.post("/search", json={"text": "blue"}).json()
    assert found[0]["image_path"] == "doc:blue"
    assert len(found) == 5
    assert client.get("/health").json() == {"status": "healthy", "collection_size": 13}
    refused(client.get("/search"), 400, "text is missing")
    refused(client.get("/search", params={"query": "x", "n_results": "no"}), 400)


def test_types_and_highlights(client: Client) -> None:
    """Images only, or texts; and where the words of the query stand."""
    images = client.found(text="number 3", types=["image"], k=50)
    assert images
    assert not {uri for uri in images if uri.partition(":")[2].isdigit()}
    assert set(images).isdisjoint(client.found(text="number 3", types=["text"], k=50))
    refused(client.post("/v1/search", json={"text": "x", "types": ["video"]}), 400, "expected one of text, image")
    hit = client.post("/v1/search", json={"text": "numbers 3 weigh", "k": 1, "where": {"uri": "doc:3"}}).json()["hits"][
        0
    ]
    assert [hit["text"][start:end] for start, end in hit["highlights"]] == ["weighs"]


def test_python_finds_the_same() -> None:
    """Hits, scores, what they stand for, the next page; for each kind of search."""
    url = "memory://serve-alike"
    fill(url, [chunk(n, f"number {n % 7} of many") for n in range(30)] + [chunk(99, "red", image=b"")])
    with served(url) as client, open_index(url, ColourEmbedder()) as index:
        for options in ({}, {"distinct": True}, {"threshold": 0.8}, {"types": ["image"]}, {"where": {"ordinal": 0}}):
            query: dict[str, Any] = {"text": "number 3 of many", "k": 5, **options}
            answer = client.post("/v1/search", json=query).json()
            hits = index.search("number 3 of many", k=5, **options)  # type: ignore[arg-type]
            found = [(hit["uri"], hit["score"], hit["stands_for"], hit["highlights"]) for hit in answer["hits"]]
            spans = [[list(span) for span in one] for one in hits.highlights]
            assert found == [
                (hit.chunk.uri, hit.score, n, one) for hit, n, one in zip(hits, hits.stands_for, spans, strict=True)
            ]
            assert (answer["cursor"] is None) == (hits.cursor is None)
    forget(url)
