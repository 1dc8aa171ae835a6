"""The OpenAPI document: valid, of all routes, and true of their requests and responses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from penstock.server import keys_file, openapi
from penstock.server.app import Api
from penstock.server.generations import ServedIndex
from penstock.server.limits import PUBLIC
from penstock.server.metrics import Metrics
from penstock.server.settings import Settings
from penstock.sinks.memory import forget
from tests.server.serving import Client, either, fill, served, with_settings

DOCUMENT = openapi.document()


def validator(schema: dict[str, Any]) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({**schema, "components": DOCUMENT["components"]})


def test_it_is_valid() -> None:
    pytest.importorskip("openapi_spec_validator").validate(DOCUMENT)


def test_it_is_served(client: Client) -> None:
    assert client.get("/openapi.json").json() == DOCUMENT


def test_it_has_every_route_and_no_other() -> None:
    settings = Settings()
    api = Api(ServedIndex("memory://none", either(), settings, Metrics()), settings, Metrics())
    routed: set[tuple[str, str]] = set()
    for route in api.routes():
        routed |= {(route.path, method.lower()) for method in route.methods - {"HEAD"}}  # type: ignore[attr-defined]
    documented = {(path, method) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert routed - {("/{name}", "get")} == documented


REQUESTS: list[tuple[str, str, dict[str, Any] | None]] = [
    ("get", "/v1/search?q=weighs", None),
    ("post", "/v1/search", {"text": "weighs", "k": 3, "distinct": True, "minus": ["much"], "where": {"page": [1, 2]}}),
    ("post", "/v1/search", {"text": "weighs", "where": {"n": {"$gte": 3}}, "facets": ["n", "type"]}),
    ("post", "/v1/search", {"text": "weighs", "where": {"m": 3}}),
    ("post", "/v1/search/batch", {"queries": [{"text": "weighs"}, {"like": [f"{20:032x}"]}]}),
    ("get", "/v1/facets?names=%5B%22n%22%5D&limit=3", None),
    ("post", "/v1/facets", {"names": ["n", "type"], "where": {"page": [1, 2]}, "limit": 5}),
    ("get", f"/v1/points/{3:032x}", None),
    ("post", "/v1/embeddings", {"input": ["a", "b"]}),
    ("post", "/v1/embeddings", {"input": "a", "encoding_format": "base64"}),
    ("get", "/v1/status", None),
    ("get", "/healthz", None),
    ("get", "/readyz", None),
    ("get", "/openapi.json", None),
    ("post", "/knn-service", {"text": "weighs", "num_images": 3}),
    ("get", "/indices-list", None),
    ("get", "/search?query=weighs", None),
    ("post", "/search", {"text": "weighs"}),
    ("get", "/health", None),
]


def described(method: str, path: str) -> dict[str, Any]:
    path = path.partition("?")[0]
    if path.startswith("/v1/points/"):
        path = "/v1/points/{id}"
    found: dict[str, Any] = DOCUMENT["paths"][path][method]
    return found


@pytest.mark.parametrize(("method", "path", "body"), REQUESTS)
def test_responses_are_as_described(client: Client, method: str, path: str, body: dict[str, Any] | None) -> None:
    """And so are the requests."""
    route = described(method, path)
    if body is not None:
        validator(route["requestBody"]["content"]["application/json"]["schema"]).validate(body)
    answer = client.request(method, path, json=body)
    assert answer.status_code == 200, answer.text
    validator(route["responses"]["200"]["content"]["application/json"]["schema"]).validate(answer.json())


@pytest.mark.parametrize(
    "body",
    [
        {"text": 5}, {"text": ""}, {"k": 0}, {"k": 1.5}, {"limit": 1}, {"vector": []}, {"vector": ["a"]}, {"like": "x"},
        {"minus": ["a"] * 9}, {"where": []}, {"distinct": "yes"}, {"threshold": "1"}, {"text_weight": -1},
        {"facets": "n"}, {"facets": ["a"] * 11}, {"facets": [""]},
    ],
)  # fmt: skip
def test_requests_that_the_document_forbids_are_refused(client: Client, body: dict[str, Any]) -> None:
    """With an error as documented."""
    body = {"text": "x", **body}
    route = described("post", "/v1/search")
    assert not validator(route["requestBody"]["content"]["application/json"]["schema"]).is_valid(body)
    answer = client.post("/v1/search", json=body)
    assert answer.status_code == 400
    validator(route["responses"]["400"]["content"]["application/json"]["schema"]).validate(answer.json())


def test_it_says_which_scope_each_route_needs() -> None:
    """Public routes need none, others a key by either header or, where the server has no keys, nothing."""
    assert set(DOCUMENT["components"]["securitySchemes"]) == {"bearer", "key"}
    for path, methods in DOCUMENT["paths"].items():
        scope = {"/metrics": ["metrics"], "/v1/embeddings": ["embed"], "/v1/status": []}.get(path, ["search"])
        for route in methods.values():
            expected = [] if path in PUBLIC else [{}, {"bearer": scope}, {"key": scope}]
            assert route["security"] == expected, path
            assert {"401", "403", "421", "429"} <= set(route["responses"])


def test_what_a_key_without_metrics_gets_is_as_described(tmp_path: Path) -> None:
    secret, _ = keys_file.add(tmp_path / "keys.toml", "reader", ["search"])
    fill("memory://serve-described", [])
    with served("memory://serve-described", with_settings(keys_file=tmp_path / "keys.toml")) as client:
        answer = client.get("/v1/status", headers={"X-API-Key": secret})
    schema = described("get", "/v1/status")["responses"]["200"]["content"]["application/json"]["schema"]
    validator(schema).validate(answer.json())
    forget("memory://serve-described")
