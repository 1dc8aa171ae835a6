"""The API as an OpenAPI document. What requests may say comes from the shapes that they are held to."""

from __future__ import annotations

from typing import Any

from penstock import __version__
from penstock.server import shapes
from penstock.server.shapes import Shape
from penstock.server.thumbs import SIZES

_TEXT: Shape = {"type": "string"}
_NUMBER: Shape = {"type": "number"}
_COUNT: Shape = {"type": "integer"}


def _maybe(kind: str) -> Shape:
    return {"type": [kind, "null"]}


def _object(**properties: Shape) -> Shape:
    return {"type": "object", "required": list(properties), "properties": properties}


def _list(items: Shape) -> Shape:
    return {"type": "array", "items": items}


def _ref(name: str) -> Shape:
    return {"$ref": f"#/components/schemas/{name}"}


_POINT = {
    "id": _TEXT,
    "uri": _TEXT,
    "text": _TEXT,
    "page": _maybe("integer"),
    "headings": _list(_TEXT),
    "span": {"type": "array", "items": _COUNT, "minItems": 2, "maxItems": 2},
    "metadata": {"type": "object"},
    "thumb": _maybe("string"),
}
_STANDS = {"type": "integer", "minimum": 1, "description": "Hits that this one stands for, itself among them."}

SCHEMAS: dict[str, Shape] = {
    "Query": shapes.SEARCH,
    "Batch": shapes.BATCH,
    "Point": _object(**_POINT),
    "Hit": _object(**_POINT, score=_NUMBER, snippet=_TEXT, stands_for=_STANDS),
    "Hits": _object(
        hits=_list(_ref("Hit")),
        cursor=_maybe("string"),
        took=_object(embed=_NUMBER, search=_NUMBER, queue=_NUMBER) | {"description": "Milliseconds."},
    ),
    "Results": _object(results=_list(_ref("Hits"))),
    "EmbeddingsQuery": shapes.EMBEDDINGS,
    "Embeddings": _object(
        object=_TEXT,
        data=_list(_object(object=_TEXT, index=_COUNT, embedding={"type": ["array", "string"]})),
        model=_TEXT,
        usage=_object(prompt_tokens=_COUNT, total_tokens=_COUNT),
    ),
    "Status": _object(
        version=_TEXT,
        index=_TEXT,
        model={"type": "object"},
        opened=_NUMBER,
        points=_maybe("integer"),
        trouble=_maybe("string"),
        limits={"type": "object"},
        ledger=_maybe("object"),
        pipeline=_maybe("object"),
    ),
    "KnnQuery": shapes.KNN,
    "Neighbours": _list(_object(id=_TEXT, similarity=_NUMBER, url=_TEXT, caption=_TEXT)),
    "ExampleQuery": shapes.EXAMPLE,
    "Images": _list(_object(image_path=_TEXT, similarity=_NUMBER)),
    "Error": _object(error=_object(type=_TEXT, message=_TEXT)),
}

_FORM = {
    "type": "object",
    "properties": {
        name: {"type": "string", "format": "binary"} if name == "image" else {"type": "string"}
        for name in shapes.SEARCH["properties"]
    },
}
_REFUSALS = {
    "400": "What is asked cannot be meant.",
    "401": "No key, or a wrong one.",
    "413": "Too many bytes or pixels.",
    "415": "Neither JSON, nor a form, nor an image that can be read.",
    "429": "Too much at once: come again after Retry-After.",
    "503": "The index cannot be searched now, or the server is about to end.",
    "504": "It took too long.",
}


def document() -> dict[str, Any]:
    in_path = {"name": "id", "in": "path", "required": True, "schema": _TEXT}
    size = _parameter("size", {"type": "integer", "enum": list(SIZES), "default": 256})
    with_vector = _parameter("vector", {"type": "boolean", "default": False})
    return {
        "openapi": "3.1.0",
        "info": {"title": "Penstock", "version": __version__, "description": "Search in an index of Penstock."},
        "security": [{}, {"bearer": []}, {"key": []}],
        "paths": {
            "/v1/search": {
                "get": _route("Search by words.", _json(_ref("Hits")), parameters=_searched()),
                "post": _route(
                    "Search by words, an image, a vector, examples, or some of these together.",
                    _json(_ref("Hits")),
                    body=_json(_ref("Query")) | {"multipart/form-data": {"schema": _FORM}},
                ),
            },
            "/v1/search/batch": {
                "post": _route("Several searches.", _json(_ref("Results")), body=_json(_ref("Batch")))
            },
            "/v1/points/{id}": {
                "get": _route("What the index holds.", _json(_ref("Point")), parameters=[in_path, with_vector])
            },
            "/v1/thumbs/{id}": {"get": _route("A small picture.", _files("image/jpeg"), parameters=[in_path, size])},
            "/v1/embeddings": {
                "post": _route(
                    "Vectors of texts, as OpenAI's API has it.",
                    _json(_ref("Embeddings")),
                    body=_json(_ref("EmbeddingsQuery")),
                )
            },
            "/v1/status": {"get": _route("What is served, and how it is.", _json(_ref("Status")))},
            "/healthz": {"get": _route("Alive.", _json({"type": "object"}))},
            "/readyz": {"get": _route("Ready: model, index and a search work.", _json({"type": "object"}))},
            "/metrics": {"get": _route("For Prometheus.", _files("text/plain"))},
            "/openapi.json": {"get": _route("This document.", _json({"type": "object"}))},
            "/knn-service": {
                "post": _route("As clip-retrieval has it.", _json(_ref("Neighbours")), body=_json(_ref("KnnQuery")))
            },
            "/indices-list": {"get": _route("As clip-retrieval has it.", _json(_list(_TEXT)))},
            "/search": {
                "get": _route(
                    "As SkyPilot's image search example.",
                    _json(_object(results=_ref("Images"))),
                    parameters=[
                        _parameter("query", _TEXT) | {"required": True},
                        _parameter("n_results", shapes.EXAMPLE["properties"]["n_results"]),
                    ],
                ),
                "post": _route(
                    "As SkyPilot's image search example.", _json(_ref("Images")), body=_json(_ref("ExampleQuery"))
                ),
            },
            "/health": {
                "get": _route(
                    "As SkyPilot's image search example, but true.",
                    _json(_object(status=_TEXT, collection_size=_COUNT)),
                )
            },
            "/": {"get": _route("The page for people.", _files("text/html"))},
        },
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


def _route(about: str, answer: Shape, *, parameters: list[Shape] | None = None, body: Shape | None = None) -> Shape:
    refused = {status: {"description": why, "content": _json(_ref("Error"))} for status, why in _REFUSALS.items()}
    route: Shape = {"summary": about, "responses": {"200": {"description": "Well.", "content": answer}, **refused}}
    if parameters:
        route["parameters"] = parameters
    if body:
        route["requestBody"] = {"required": True, "content": body}
    return route


def _searched() -> list[Shape]:
    """A search in a url: q stands for the text; lists and objects are written in JSON."""
    found = [_parameter("q", shapes.SEARCH["properties"]["text"])]
    for name, shape in shapes.SEARCH["properties"].items():
        if shape["type"] in ("object", "array"):
            found.append({"name": name, "in": "query", "content": _json(shape)})
        elif name not in ("text", "image"):
            found.append(_parameter(name, shape))
    return found


def _parameter(name: str, shape: Shape) -> Shape:
    return {"name": name, "in": "query", "schema": shape}


def _json(shape: Shape) -> Shape:
    return {"application/json": {"schema": shape}}


def _files(media_type: str) -> Shape:
    return {media_type: {}}
