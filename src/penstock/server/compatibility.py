"""Routes of other services' APIs: OpenAI's embeddings, clip-retrieval's knn-service, SkyPilot's image search."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from penstock.core.records import Dense, Vector
from penstock.jobs.queries import Query
from penstock.server import schemas
from penstock.server.authorization import may
from penstock.server.clients import client_of
from penstock.server.generations import ServedIndex
from penstock.server.keys import METRICS
from penstock.server.media_types import json_body
from penstock.server.problems import Problem, bad_request, without_folders
from penstock.server.queries import parse_query
from penstock.server.rates import TOKEN_UNIT, of_search
from penstock.server.responses import SafeJSONResponse, to_json
from penstock.server.retrieval import Timings
from penstock.server.search import Searcher
from penstock.server.settings import Settings
from penstock.server.shares import SearchLimit

TEXTS = 8
"""Texts to embed that take the place of a search."""


class CompatibilityRoutes:
    """All of them take `using` as well, for indexes with several vectors a chunk."""

    def __init__(self, served: ServedIndex, searcher: Searcher, search_limit: SearchLimit, settings: Settings) -> None:
        self._served, self._searcher, self._search_limit, self._settings = served, searcher, search_limit, settings

    # ------------------------------------------------------------ OpenAI

    async def embeddings(self, request: Request) -> Response:
        if not self._settings.embeddings:
            raise Problem(403, "forbidden", "this server does not embed texts for its clients: search by them instead")
        client, body = client_of(request.scope).name, await self._body(request, schemas.EMBEDDINGS)
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        with self._served.lease() as generation:
            target = generation.vector(body.get("using"))
            model, dim = target.spec.model, target.spec.dim
            if body.get("dimensions") not in (None, dim):
                raise bad_request(f"dimensions: {model} has {dim:,} and cannot shorten them")
            tokens = await self._searcher.timed("files", "tokenize", lambda: target.tokens(texts), client)
            with self._search_limit.enter(client, math.ceil(len(texts) / TEXTS), 1 + sum(tokens) // TOKEN_UNIT):
                submitted = [target.submit_text(text, client, own) for text, own in zip(texts, tokens, strict=True)]
                vectors = await self._searcher.embed(submitted, Timings())
        if any(not isinstance(vector, Dense) for vector in vectors):
            raise bad_request(f"{model} makes {target.spec.kind} vectors; this route returns Dense ones only")
        entries = await self._searcher.in_thread(partial(_entries, vectors, body["encoding_format"]), client)
        usage = {"prompt_tokens": sum(tokens), "total_tokens": sum(tokens)}
        shown = body.get("model") or (model if may(request.scope, METRICS) else without_folders(model))
        content = to_json({"object": "list", "model": shown, "usage": usage})
        data = b',"data":[' + b",".join(entries) + b"]}"
        return Response(content[:-1] + data, media_type="application/json")

    # ------------------------------------------------------------ clip-retrieval

    async def knn(self, request: Request) -> Response:
        """One modality a query, text before image; as many hits as are asked for in one page."""
        body = await self._body(request, schemas.KNN)
        fields: dict[str, Any] = {"using": body.get("using")}
        for name in ("text", "image", "image_url", "embedding_input"):
            if body.get(name):
                fields["vector" if name == "embedding_input" else name] = body[name]
                break
        query = replace(parse_query(fields), k=body["num_images"], distinct=body["deduplicate"])
        return SafeJSONResponse([hit["metadata"] | _neighbour(hit) for hit in await self._hits(request, query)])

    async def indices(self, request: Request) -> Response:
        with self._served.lease() as generation:
            return SafeJSONResponse([generation.index.url if may(request.scope, METRICS) else "index"])

    # ------------------------------------------------------------ SkyPilot's image search

    async def search_by_url(self, request: Request) -> Response:
        names = {"query": "text", "n_results": "n_results", "using": "using"}
        fields = {ours: request.query_params[name] for name, ours in names.items() if name in request.query_params}
        body = schemas.validate(schemas.from_strings(fields, schemas.IMAGE_SEARCH), schemas.IMAGE_SEARCH)
        return SafeJSONResponse({"results": await self._images(request, body)})

    async def search(self, request: Request) -> Response:
        return SafeJSONResponse(await self._images(request, await self._body(request, schemas.IMAGE_SEARCH)))

    async def _images(self, request: Request, body: Any) -> list[dict[str, Any]]:
        query = parse_query({"text": body["text"], "k": body["n_results"], "using": body.get("using")})
        return [{"image_path": hit["uri"], "similarity": hit["score"]} for hit in await self._hits(request, query)]

    async def _hits(self, request: Request, query: Query) -> list[dict[str, Any]]:
        client = client_of(request.scope).name
        with self._search_limit.enter(client, cost=of_search(query)):
            hits: list[dict[str, Any]] = (await self._searcher.search(query, client))["hits"]
        return hits

    async def _body(self, request: Request, schema: schemas.Schema) -> Any:
        content = await json_body(request, untyped=True)

        def parse() -> Any:
            return schemas.validate(schemas.parse_json(content), schema)

        return await self._searcher.parse(parse, len(content), client_of(request.scope).name)


def _entries(vectors: Sequence[Vector], encoding: str) -> list[bytes]:
    """Entries of a response, each rendered by itself: together they would hold up the event loop."""
    entries = []
    for number, vector in enumerate(vectors):
        assert isinstance(vector, Dense)
        values: Any = vector.values.tolist()
        if encoding == "base64":
            values = base64.b64encode(vector.values.astype("<f4").tobytes()).decode()
        entries.append(to_json({"object": "embedding", "index": number, "embedding": values}))
    return entries


def _neighbour(hit: dict[str, Any]) -> dict[str, Any]:
    """The fields that clip-retrieval's clients read."""
    return {"id": hit["id"], "similarity": hit["score"], "url": hit["uri"], "caption": hit["text"]}
