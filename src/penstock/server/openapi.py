"""The API as an OpenAPI document. The schemas of requests are those that `schemas.validate` checks."""

from __future__ import annotations

from typing import Any

from penstock import __version__
from penstock.core.precision import PRECISIONS
from penstock.server import schemas
from penstock.server.authorization import ROUTES
from penstock.server.keys import SCOPES, SEARCH
from penstock.server.limits import PUBLIC
from penstock.server.schemas import Schema
from penstock.server.thumbnails import SIZES

_TEXT: Schema = {"type": "string"}
_NUMBER: Schema = {"type": "number"}
_COUNT: Schema = {"type": "integer"}


def _maybe(kind: str) -> Schema:
    return {"type": [kind, "null"]}


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "required": list(properties), "properties": properties}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _ref(name: str) -> Schema:
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
_HIGHLIGHTS = _list({"type": "array", "items": _COUNT, "minItems": 2, "maxItems": 2}) | {
    "description": "Where words of the query stand in the text: from, to, in characters."
}
_FACETS: Schema = {
    "type": "object",
    "description": "For each field that was named, its values and how many chunks have each.",
    "additionalProperties": _list(
        _object(value={"type": ["string", "number", "boolean"]}, count={"type": "integer", "minimum": 1})
    ),
}
_STANDS_FOR = {"type": "integer", "minimum": 1, "description": "Hits that this one stands for, itself among them."}
_LEGS: Schema = {
    "type": "object",
    "description": "Of a hybrid search: each leg that found it, a vector or words, and its rank there, from 1.",
    "additionalProperties": {"type": "integer", "minimum": 1},
}
_SPEC = {
    "model": _TEXT,
    "dim": _COUNT,
    "kind": {"type": "string", "enum": ["Dense", "Sparse", "MultiVector"]},
    "metric": _TEXT,
    "precision": {"type": "string", "enum": list(PRECISIONS)},
    "fingerprint": _TEXT,
    "images": {"type": "boolean", "description": "Whether it can be searched by images."},
}

SCHEMAS: dict[str, Schema] = {
    "Query": schemas.SEARCH,
    "Batch": schemas.BATCH,
    "Point": _object(**_POINT),
    "Hit": _object(
        **_POINT,
        score=_NUMBER,
        snippet=_TEXT,
        highlights=_HIGHLIGHTS,
        stands_for=_STANDS_FOR,
        legs=_LEGS,
        rank_before=_maybe("integer") | {"description": "Of a reranked search: its rank before, from 1."},
    ),
    "Hits": _object(
        hits=_list(_ref("Hit")),
        cursor=_maybe("string"),
        facets=_FACETS,
        hint=_maybe("string")
        | {"description": "Where nothing was found: the fields that the filter asks for and no chunk has."},
        took=_object(embed=_NUMBER, search=_NUMBER, rerank=_NUMBER, queue=_NUMBER) | {"description": "Milliseconds."},
    ),
    "FacetQuery": schemas.FACETS,
    "Facets": _object(facets=_FACETS),
    "Results": _object(results=_list(_ref("Hits"))),
    "EmbeddingsQuery": schemas.EMBEDDINGS,
    "Embeddings": _object(
        object=_TEXT,
        data=_list(_object(object=_TEXT, index=_COUNT, embedding={"type": ["array", "string"]})),
        model=_TEXT,
        usage=_object(prompt_tokens=_COUNT, total_tokens=_COUNT),
    ),
    "Status": _object(
        version=_TEXT,
        index=_maybe("string") | {"description": "Null where the key has no scope metrics, as are trouble and ledger."},
        model=_object(**_SPEC) | {"description": "The only vector, or the first of several."},
        vectors=_list(_object(name=_TEXT, **_SPEC)),
        words={"type": "boolean", "description": "Whether the index has full text, for hybrid searches."},
        reranker=_maybe("string") | {"description": "The model that reranks; null where there is none."},
        opened=_NUMBER,
        points=_maybe("integer"),
        trouble=_maybe("string"),
        limits={"type": "object"},
        ledger=_maybe("object"),
        pipeline=_maybe("object"),
    ),
    "KnnQuery": schemas.KNN,
    "KnnResults": _list(_object(id=_TEXT, similarity=_NUMBER, url=_TEXT, caption=_TEXT)),
    "ImageSearchQuery": schemas.IMAGE_SEARCH,
    "ImageSearchResults": _list(_object(image_path=_TEXT, similarity=_NUMBER)),
    "Error": _object(error=_object(type=_TEXT, message=_TEXT)),
}

_FORM = {
    "type": "object",
    "properties": {
        name: {"type": "string", "format": "binary"} if name == "image" else {"type": "string"}
        for name in schemas.SEARCH["properties"]
    },
}
_ERRORS = {
    "400": "The request is invalid.",
    "401": "The key is missing, wrong or expired.",
    "403": "The key has not the scope that the route needs, or the server may not do what is asked for.",
    "413": "The request or the image is too large.",
    "415": "The Content-Type or the kind of image is not supported.",
    "421": "The server does not answer for the Host that is named.",
    "429": "Too many requests, or too many wrong keys: try again after Retry-After.",
    "503": "The index or the model is unavailable, or the server is shutting down: try again after Retry-After.",
    "504": "The request took too long.",
}


_KEYS = "Where the server has keys. What a key may be for: " + "; ".join(
    f"{name}: {what}" for name, what in SCOPES.items()
)


def document(embeddings: bool = True) -> dict[str, Any]:
    """`embeddings`: whether the server embeds texts for its clients."""
    content = _document()
    if not embeddings:
        del content["paths"]["/v1/embeddings"]
    for path, methods in content["paths"].items():
        for route in methods.values():
            route["security"] = _security(path)
    return content


def _document() -> dict[str, Any]:
    in_path = {"name": "id", "in": "path", "required": True, "schema": _TEXT}
    size = _parameter("size", {"type": "integer", "enum": list(SIZES), "default": 256})
    using = _parameter("using", schemas.USING)
    with_vector = _parameter("vector", {"type": "boolean", "default": False})
    counting = "The values of fields of metadata, and how many chunks have each."
    return {
        "openapi": "3.1.0",
        "info": {"title": "Penstock", "version": __version__, "description": "Search an index built by Penstock."},
        "paths": {
            "/v1/search": {
                "get": _route("Search by text.", _json(_ref("Hits")), parameters=_search_parameters()),
                "post": _route(
                    "Search by text, an image, a vector, examples, or several of these together.",
                    _json(_ref("Hits")),
                    body=_json(_ref("Query")) | {"multipart/form-data": {"schema": _FORM}},
                ),
            },
            "/v1/search/batch": {
                "post": _route("Several searches.", _json(_ref("Results")), body=_json(_ref("Batch")))
            },
            "/v1/facets": {
                "get": _route(counting, _json(_ref("Facets")), parameters=_parameters(schemas.FACETS)),
                "post": _route(counting, _json(_ref("Facets")), body=_json(_ref("FacetQuery"))),
            },
            "/v1/points/{id}": {
                "get": _route("One point of the index.", _json(_ref("Point")), parameters=[in_path, with_vector, using])
            },
            "/v1/thumbs/{id}": {
                "get": _route("A thumbnail of an indexed image.", _files("image/jpeg"), parameters=[in_path, size])
            },
            "/v1/embeddings": {
                "post": _route(
                    "Embed texts; compatible with OpenAI's embeddings API.",
                    _json(_ref("Embeddings")),
                    body=_json(_ref("EmbeddingsQuery")),
                )
            },
            "/v1/status": {"get": _route("The index, the limits, and the state of the ledger.", _json(_ref("Status")))},
            "/healthz": {"get": _route("Whether the server is alive.", _json({"type": "object"}))},
            "/readyz": {"get": _route("Whether searches work.", _json({"type": "object"}))},
            "/metrics": {"get": _route("Metrics in the format of Prometheus.", _files("text/plain"))},
            "/openapi.json": {"get": _route("This document.", _json({"type": "object"}))},
            "/knn-service": {
                "post": _route(
                    "Compatible with clip-retrieval.", _json(_ref("KnnResults")), body=_json(_ref("KnnQuery"))
                )
            },
            "/indices-list": {"get": _route("Compatible with clip-retrieval.", _json(_list(_TEXT)))},
            "/search": {
                "get": _route(
                    "Compatible with SkyPilot's image search example.",
                    _json(_object(results=_ref("ImageSearchResults"))),
                    parameters=[
                        _parameter("query", _TEXT) | {"required": True},
                        _parameter("n_results", schemas.IMAGE_SEARCH["properties"]["n_results"]),
                        using,
                    ],
                ),
                "post": _route(
                    "Compatible with SkyPilot's image search example.",
                    _json(_ref("ImageSearchResults")),
                    body=_json(_ref("ImageSearchQuery")),
                ),
            },
            "/health": {
                "get": _route(
                    "Whether searches work; compatible with SkyPilot's image search example.",
                    _json(_object(status=_TEXT, collection_size=_maybe("integer"))),
                )
            },
            "/": {"get": _route("The search page.", _files("text/html"))},
        },
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": _KEYS},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": _KEYS},
            },
        },
    }


def _security(path: str) -> list[Schema]:
    """The scope that a path needs. The empty requirement is that of servers without keys."""
    if path in PUBLIC:
        return []
    scope = ROUTES.get(path, SEARCH)
    return [{}, *({scheme: [scope] if scope else []} for scheme in ("bearer", "key"))]


def _route(
    summary: str, response: Schema, *, parameters: list[Schema] | None = None, body: Schema | None = None
) -> Schema:
    errors = {status: {"description": why, "content": _json(_ref("Error"))} for status, why in _ERRORS.items()}
    route: Schema = {
        "summary": summary,
        "responses": {"200": {"description": "Success.", "content": response}, **errors},
    }
    if parameters:
        route["parameters"] = parameters
    if body:
        route["requestBody"] = {"required": True, "content": body}
    return route


def _search_parameters() -> list[Schema]:
    """The fields of a search in a url: q is the text."""
    q = _parameter("q", schemas.SEARCH["properties"]["text"])
    return [q, *(one for one in _parameters(schemas.SEARCH) if one["name"] not in ("text", "image"))]


def _parameters(body: Schema) -> list[Schema]:
    """The fields of a request in a url."""
    required = body.get("required", ())
    parameters = [_parameter(name, shape) for name, shape in body["properties"].items()]
    return [one | {"required": True} if one["name"] in required else one for one in parameters]


def _parameter(name: str, shape: Schema) -> Schema:
    """Lists and objects are written in JSON."""
    written = {"schema": shape} if shape.get("type") not in ("object", "array", None) else {"content": _json(shape)}
    return {"name": name, "in": "query", **written}


def _json(shape: Schema) -> Schema:
    return {"application/json": {"schema": shape}}


def _files(media_type: str) -> Schema:
    return {media_type: {}}
