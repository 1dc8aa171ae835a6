"""The routes of the API."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from penstock.core.errors import PenstockError
from penstock.core.records import Dense, Point
from penstock.jobs.queries import Query
from penstock.server import openapi, rates, schemas
from penstock.server.access_log import REQUEST_ID, AccessMiddleware, note_stages
from penstock.server.administration import Administration
from penstock.server.bodies import Bodies
from penstock.server.clients import client_of
from penstock.server.compatibility import CompatibilityRoutes
from penstock.server.generations import ServedIndex
from penstock.server.image_fetcher import ImageFetcher
from penstock.server.limits import LimitsMiddleware
from penstock.server.media_types import JSON, json_body, media_type
from penstock.server.metrics import Metrics
from penstock.server.page_files import PageFiles, not_modified
from penstock.server.problems import INTERNAL, Problem, bad_request, problem_of
from penstock.server.queries import FacetQuery, parse_facet_query, parse_query
from penstock.server.rates import RateLimiter
from penstock.server.responses import SafeJSONResponse, to_json
from penstock.server.retrieval import gathered
from penstock.server.search import Searcher, no_such_point
from penstock.server.settings import Settings
from penstock.server.shares import SearchLimit
from penstock.server.status import StatusRoutes
from penstock.server.thumbnails import SIZES, Thumbnails

FORM = "multipart/form-data"
HOUR = 3600
R = TypeVar("R")


class Api:
    def __init__(
        self, served: ServedIndex, settings: Settings, metrics: Metrics, fetcher: ImageFetcher | None = None
    ) -> None:
        self._served, self._settings, self._metrics = served, settings, metrics
        fetcher = fetcher or ImageFetcher(settings)
        self._thumbnails = Thumbnails(settings, fetcher, served.neighbours)
        limiter = RateLimiter(settings.rate, metrics)
        self.search_limit = SearchLimit(settings.queue, metrics, limiter)
        self._searcher = Searcher(served, settings, metrics, self._thumbnails, fetcher, limiter)
        self._page = PageFiles()
        self._compatibility = CompatibilityRoutes(served, self._searcher, self.search_limit, settings)
        self.status = StatusRoutes(served, settings, self._searcher)
        self.administration = Administration(settings, metrics)
        self.status.keys_trouble = lambda: self.administration.trouble
        keyring = self.administration.keyring
        bodies = Bodies(settings.body, limiter, served.neighbours)
        self.limits = LimitsMiddleware(self._starlette(), settings, metrics, self._page.paths, keyring, bodies)
        self.status.draining = lambda: self.limits.draining
        metrics.gauge("penstock_queue_depth", "Searches that run or wait.", lambda: self.search_limit.active)
        metrics.gauge("penstock_model_queue_depth", "Inputs that wait for a model.", lambda: served.depth)

    @property
    def app(self) -> ASGIApp:
        app: ASGIApp = self.limits
        if self._settings.origins:
            app = CORSMiddleware(
                app,
                allow_origins=self._settings.origins,
                allow_methods=["GET", "POST"],
                allow_headers=["Authorization", "X-API-Key", "Content-Type", REQUEST_ID],
                expose_headers=["Retry-After", "ETag", REQUEST_ID],
            )
        administration = self.administration
        return AccessMiddleware(app, self._settings, administration.access_log, administration.audit)

    def routes(self) -> list[BaseRoute]:
        compatibility, status = self._compatibility, self.status
        return [
            Route("/v1/search", self.search_by_url, methods=["GET"]),
            Route("/v1/search", self.search, methods=["POST"]),
            Route("/v1/search/batch", self.search_batch, methods=["POST"]),
            Route("/v1/facets", self.facets_by_url, methods=["GET"]),
            Route("/v1/facets", self.facets, methods=["POST"]),
            Route("/v1/points/{id}", self.point, methods=["GET"]),
            Route("/v1/thumbs/{id}", self.thumbnail, methods=["GET"]),
            Route("/v1/embeddings", compatibility.embeddings, methods=["POST"]),
            Route("/v1/status", status.status, methods=["GET"]),
            Route("/healthz", status.alive, methods=["GET"]),
            Route("/readyz", status.ready, methods=["GET"]),
            Route("/metrics", self.metrics, methods=["GET"]),
            Route("/openapi.json", self.openapi, methods=["GET"]),
            Route("/knn-service", compatibility.knn, methods=["POST"]),
            Route("/indices-list", compatibility.indices, methods=["GET"]),
            Route("/search", compatibility.search_by_url, methods=["GET"]),
            Route("/search", compatibility.search, methods=["POST"]),
            Route("/health", status.health, methods=["GET"]),
            Route("/", self._page.file, methods=["GET"]),
            Route("/{name}", self._page.file, methods=["GET"]),
        ]

    def _starlette(self) -> Starlette:
        app = Starlette(routes=self.routes())
        app.router.redirect_slashes = False
        for kind in (Problem, PenstockError, TimeoutError, Exception):
            app.add_exception_handler(kind, _error_response)
        app.add_exception_handler(HTTPException, _http_error_response)
        app.add_exception_handler(ClientDisconnect, _no_response)
        return app

    # ------------------------------------------------------------ searching

    async def search_by_url(self, request: Request) -> Response:
        fields = _unique(request.query_params.multi_items())
        if "q" in fields:
            fields["text"] = fields.pop("q")
        return await self._search(request, parse_query(schemas.from_strings(fields, schemas.SEARCH)))

    async def search(self, request: Request) -> Response:
        if media_type(request) == FORM:
            fields, image = await _form(request, self._settings.body)

            def parse() -> Query:
                return parse_query(schemas.from_strings(fields, schemas.SEARCH), image)

            return await self._search(request, await self._searcher.parse(parse, len(image or b""), _client(request)))
        return await self._search(request, await self._parse(request, parse_query))

    async def search_batch(self, request: Request) -> Response:
        client, queries = _client(request), await self._parse(request, _batch)
        with self.search_limit.enter(client, len(queries), sum(map(rates.of_search, queries))):
            results = await gathered([self._searcher.search(query, client) for query in queries])
        for number, result in enumerate(results):
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                problem = problem_of(result)
                if problem is None:
                    raise result
                message = f"queries[{number}]: {problem.message}"
                raise Problem(problem.status, problem.kind, message, problem.headers)
        parts = await self._searcher.in_thread(lambda: [to_json(one) for one in results], client)
        return Response(b'{"results":[' + b",".join(parts) + b"]}", media_type=JSON)

    async def facets_by_url(self, request: Request) -> Response:
        fields = _unique(request.query_params.multi_items())
        return await self._facets(request, parse_facet_query(schemas.from_strings(fields, schemas.FACETS)))

    async def facets(self, request: Request) -> Response:
        return await self._facets(request, await self._parse(request, parse_facet_query))

    async def _facets(self, request: Request, query: FacetQuery) -> Response:
        client = _client(request)
        with self.search_limit.enter(client, cost=len(query.names)):
            return SafeJSONResponse(await self._searcher.facets(query, client))

    async def _parse(self, request: Request, parse: Callable[[Any], R]) -> R:
        content = await json_body(request)
        task = partial(_parsed, content, parse)
        return await self._searcher.parse(task, len(content), _client(request))

    async def _search(self, request: Request, query: Query) -> Response:
        client = _client(request)
        with self.search_limit.enter(client, cost=rates.of_search(query)):
            results = await self._searcher.search(query, client)
        note_stages(results["took"])
        return SafeJSONResponse(results)

    # ------------------------------------------------------------ points and thumbnails

    async def point(self, request: Request) -> Response:
        point = await self._point(request)
        content: dict[str, Any] = self._searcher.to_json(point.chunk)
        if request.query_params.get("vector") == "true":
            with self._served.lease() as generation:
                name = generation.schema.name(request.query_params.get("using"))
            vector = point.vectors.get(name)
            content["vector"] = vector.values.tolist() if isinstance(vector, Dense) else None
        return SafeJSONResponse(content)

    async def thumbnail(self, request: Request) -> Response:
        size = request.query_params.get("size", "256")
        if size not in map(str, SIZES):
            raise bad_request(f"size: expected one of {', '.join(map(str, SIZES))}")
        client, chunk = _client(request), (await self._point(request)).chunk
        picture = await self._searcher.in_thread(lambda: self._thumbnails.picture(chunk), client)
        etag = picture.etag(int(size))
        visibility = "private" if self._settings.guarded else "public"
        headers = {"ETag": etag, "Cache-Control": f"{visibility}, max-age={HOUR}"}
        if not_modified(request, etag):
            return Response(status_code=304, headers=headers)
        with self._metrics.timed("thumb"):
            content = await self._thumbnails.render(picture, int(size), self._searcher.in_thread, client)
        return Response(content, media_type="image/jpeg", headers=headers)

    async def _point(self, request: Request) -> Point:
        id = request.path_params["id"]
        if not 0 < len(id) <= 200 or not id.isprintable():
            raise no_such_point(id)
        if not (points := await self._searcher.points([id], _client(request))):
            raise no_such_point(id)
        return points[0]

    # ------------------------------------------------------------ about the server

    async def metrics(self, request: Request) -> Response:
        text = self._metrics.text() + await self.status.run_metrics()
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def openapi(self, request: Request) -> Response:
        return SafeJSONResponse(openapi.document(embeddings=self._settings.embeddings))


def _client(request: Request) -> str:
    return client_of(request.scope).name


def _parsed(content: bytearray, parse: Callable[[Any], R]) -> R:
    return parse(schemas.parse_json(content))


def _batch(body: Any) -> list[Query]:
    """Check all queries before any is searched for."""
    schemas.validate(body, schemas.BATCH)
    return [parse_query(one, name=f"queries[{n}]") for n, one in enumerate(body["queries"])]


def _unique(items: Iterable[tuple[str, str]]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for name, value in items:
        if name in fields:
            raise bad_request(f"{name[:100]}: sent twice; expected once")
        fields[name] = value
    return fields


async def _form(request: Request, max_size: int) -> tuple[dict[str, str], bytes | None]:
    """The texts of a form, and the file that is sent as `image`."""
    try:
        async with request.form(max_files=1, max_fields=32, max_part_size=max_size) as form:
            texts = [(name, value) for name, value in form.multi_items() if isinstance(value, str)]
            files = {name: await value.read() for name, value in form.multi_items() if not isinstance(value, str)}
    except UnicodeError:  # the form names its own codec, and codecs raise errors of many kinds
        raise bad_request("the form's texts are not in the charset that it declares") from None
    if other := files.keys() - {"image"}:
        raise bad_request(f"{other.pop()[:100]}: unexpected file; expected one named image")
    return _unique(texts), files.get("image")


async def _error_response(request: Request, error: Exception) -> Response:
    return (problem_of(error) or INTERNAL).response()


async def _no_response(request: Request, error: Exception) -> Response:
    """Nobody receives it; the status is the one that other servers log for clients that have gone."""
    return Response(status_code=499)


_HTTP_KINDS: Mapping[int, str] = {400: "bad_request", 404: "not_found", 405: "method_not_allowed"}


async def _http_error_response(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = _HTTP_KINDS.get(error.status_code, "refused")
    message = "no such page or route" if error.status_code == 404 else error.detail
    return Problem(error.status_code, kind, message, error.headers).response()
