"""Routes that clients of others know: OpenAI's embeddings, clip-retrieval's knn-service, SkyPilot's image search."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from penstock.core.records import Dense
from penstock.server import shapes
from penstock.server.answers import Json
from penstock.server.asking import Ask, asked
from penstock.server.engine import Engine, Generation
from penstock.server.limits import Gate
from penstock.server.problems import bad
from penstock.server.searching import Searcher, Took


class Compat:
    def __init__(self, engine: Engine, searcher: Searcher, gate: Gate) -> None:
        self._engine, self._searcher, self._gate = engine, searcher, gate

    # ------------------------------------------------------------ OpenAI

    async def embeddings(self, request: Request) -> Response:
        told = shapes.check(shapes.parsed(await request.body()), shapes.EMBEDDINGS)
        texts = [told["input"]] if isinstance(told["input"], str) else told["input"]
        with self._gate.enter(), self._engine.lease() as generation:
            if told.get("dimensions") not in (None, generation.space.dim):
                raise bad(f"dimensions: {generation.space.model} makes {generation.space.dim:,}, and no fewer")
            vectors = await self._searcher.embedded(generation.texts, texts, Took())
            tokens = await self._searcher.timed("files", "tokenize", lambda: _tokens(generation, texts))
            model = generation.space.model
        data = []
        for number, vector in enumerate(vectors):
            if not isinstance(vector, Dense):
                raise bad(f"{model} gives more than one vector a text")
            values: Any = vector.values.tolist()
            if told["encoding_format"] == "base64":
                values = base64.b64encode(vector.values.astype("<f4").tobytes()).decode()
            data.append({"object": "embedding", "index": number, "embedding": values})
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return Json({"object": "list", "data": data, "model": told.get("model") or model, "usage": usage})

    # ------------------------------------------------------------ clip-retrieval

    async def knn(self, request: Request) -> Response:
        """One modality a query, the text before the image; as many hits as are asked for at once."""
        told = shapes.check(shapes.parsed(await request.body()), shapes.KNN)
        query: dict[str, Any] = {}
        for theirs in ("text", "image", "image_url", "embedding_input"):
            if told.get(theirs):
                query = {"vector" if theirs == "embedding_input" else theirs: told[theirs]}
                break
        hits = await self._hits(replace(asked(query), k=told["num_images"], distinct=told["deduplicate"]))
        return Json([hit["metadata"] | _known(hit) for hit in hits])

    async def indices(self, request: Request) -> Response:
        with self._engine.lease() as generation:
            return Json([generation.index.url])

    # ------------------------------------------------------------ SkyPilot's image search

    async def search(self, request: Request) -> Response:
        given = {"text": request.query_params.get("query"), "n_results": request.query_params.get("n_results")}
        fields = {name: value for name, value in given.items() if value is not None}
        return Json({"results": await self._images(shapes.coerced(fields, shapes.EXAMPLE))})

    async def search_body(self, request: Request) -> Response:
        return Json(await self._images(shapes.parsed(await request.body())))

    async def _images(self, body: Any) -> list[dict[str, Any]]:
        told = shapes.check(body, shapes.EXAMPLE)
        hits = await self._hits(asked({"text": told["text"], "k": told["n_results"]}))
        return [{"image_path": hit["uri"], "similarity": hit["score"]} for hit in hits]

    async def _hits(self, ask: Ask) -> list[dict[str, Any]]:
        with self._gate.enter():
            hits: list[dict[str, Any]] = (await self._searcher.answer(ask))["hits"]
        return hits


def _known(hit: dict[str, Any]) -> dict[str, Any]:
    """What clip-retrieval's clients look for."""
    return {"id": hit["id"], "similarity": hit["score"], "url": hit["uri"], "caption": hit["text"]}


def _tokens(generation: Generation, texts: list[str]) -> int:
    """As the model counts; words, where it has no tokenizer to count with."""
    tokenizer = generation.embedder.tokenizer
    return sum(map(len, tokenizer.encode(texts) if tokenizer else (text.split() for text in texts)))
