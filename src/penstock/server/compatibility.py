"""Routes of other services' APIs: OpenAI's embeddings, clip-retrieval's knn-service, SkyPilot's image search."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from penstock.core.records import Dense
from penstock.jobs.queries import Query
from penstock.server import schemas
from penstock.server.authorization import may
from penstock.server.generations import ServedGeneration, ServedIndex
from penstock.server.keys import METRICS
from penstock.server.limits import SearchLimit
from penstock.server.media_types import json_body
from penstock.server.problems import bad_request, without_folders
from penstock.server.queries import parse_query
from penstock.server.responses import SafeJSONResponse
from penstock.server.search import Searcher, Timings


class CompatibilityRoutes:
    """All of them take `using` as well, for indexes with several vectors a chunk."""

    def __init__(self, served: ServedIndex, searcher: Searcher, search_limit: SearchLimit) -> None:
        self._served, self._searcher, self._search_limit = served, searcher, search_limit

    # ------------------------------------------------------------ OpenAI

    async def embeddings(self, request: Request) -> Response:
        body = schemas.validate(schemas.parse_json(await json_body(request)), schemas.EMBEDDINGS)
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        with self._search_limit.enter(), self._served.lease() as generation:
            target = generation.vector(body.get("using"))
            model, dim = target.spec.model, target.spec.dim
            if body.get("dimensions") not in (None, dim):
                raise bad_request(f"dimensions: {model} has {dim:,} and cannot shorten them")
            vectors = await self._searcher.embed(target.texts, texts, Timings())
            tokens = await self._searcher.timed("files", "tokenize", lambda: _count_tokens(generation, texts))
        data = []
        for number, vector in enumerate(vectors):
            if not isinstance(vector, Dense):
                raise bad_request(f"{model} makes {target.spec.kind} vectors; this route returns Dense ones only")
            values: Any = vector.values.tolist()
            if body["encoding_format"] == "base64":
                values = base64.b64encode(vector.values.astype("<f4").tobytes()).decode()
            data.append({"object": "embedding", "index": number, "embedding": values})
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        shown = body.get("model") or (model if may(request.scope, METRICS) else without_folders(model))
        content = {"object": "list", "data": data, "model": shown, "usage": usage}
        return SafeJSONResponse(content)

    # ------------------------------------------------------------ clip-retrieval

    async def knn(self, request: Request) -> Response:
        """One modality a query, text before image; as many hits as are asked for in one page."""
        body = schemas.validate(schemas.parse_json(await json_body(request)), schemas.KNN)
        fields: dict[str, Any] = {"using": body.get("using")}
        for name in ("text", "image", "image_url", "embedding_input"):
            if body.get(name):
                fields["vector" if name == "embedding_input" else name] = body[name]
                break
        query = replace(parse_query(fields), k=body["num_images"], distinct=body["deduplicate"])
        return SafeJSONResponse([hit["metadata"] | _neighbour(hit) for hit in await self._hits(query)])

    async def indices(self, request: Request) -> Response:
        with self._served.lease() as generation:
            return SafeJSONResponse([generation.index.url if may(request.scope, METRICS) else "index"])

    # ------------------------------------------------------------ SkyPilot's image search

    async def search_by_url(self, request: Request) -> Response:
        names = {"query": "text", "n_results": "n_results", "using": "using"}
        fields = {ours: request.query_params[name] for name, ours in names.items() if name in request.query_params}
        return SafeJSONResponse({"results": await self._images(schemas.from_strings(fields, schemas.IMAGE_SEARCH))})

    async def search(self, request: Request) -> Response:
        return SafeJSONResponse(await self._images(schemas.parse_json(await json_body(request))))

    async def _images(self, body: Any) -> list[dict[str, Any]]:
        body = schemas.validate(body, schemas.IMAGE_SEARCH)
        query = parse_query({"text": body["text"], "k": body["n_results"], "using": body.get("using")})
        return [{"image_path": hit["uri"], "similarity": hit["score"]} for hit in await self._hits(query)]

    async def _hits(self, query: Query) -> list[dict[str, Any]]:
        with self._search_limit.enter():
            hits: list[dict[str, Any]] = (await self._searcher.search(query))["hits"]
        return hits


def _neighbour(hit: dict[str, Any]) -> dict[str, Any]:
    """The fields that clip-retrieval's clients read."""
    return {"id": hit["id"], "similarity": hit["score"], "url": hit["uri"], "caption": hit["text"]}


def _count_tokens(generation: ServedGeneration, texts: list[str]) -> int:
    """Tokens of the model's tokenizer, or words where it has none."""
    tokenizer = generation.embedder.tokenizer
    return sum(map(len, tokenizer.encode(texts) if tokenizer else (text.split() for text in texts)))
