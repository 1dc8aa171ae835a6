"""The routes: what is asked goes to where it is answered, and comes back as JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from penstock.core.errors import PenstockError
from penstock.core.records import VECTOR, Dense, Point
from penstock.server import openapi, shapes
from penstock.server.answers import Json
from penstock.server.asking import Ask, asked
from penstock.server.compat import Compat
from penstock.server.engine import Engine
from penstock.server.fetching import Fetcher
from penstock.server.limits import Gate, Guard
from penstock.server.metrics import Metrics
from penstock.server.page import Page, known
from penstock.server.problems import INTERNAL, Problem, bad, problem
from penstock.server.searching import Searcher, missing
from penstock.server.settings import Settings
from penstock.server.status import Status
from penstock.server.thumbs import SIZES, Thumbs

JSON = "application/json"
FORM = "multipart/form-data"
HOUR = 3600
LARGE = 1 << 16
"""Bytes of a request from which making it out takes long enough to be noticed by others."""

R = TypeVar("R")


class Api:
    def __init__(self, engine: Engine, settings: Settings, metrics: Metrics, fetcher: Fetcher | None = None) -> None:
        self._engine, self._settings, self._metrics = engine, settings, metrics
        fetcher = fetcher or Fetcher(settings)
        self._thumbs = Thumbs(settings, fetcher)
        self.gate = Gate(settings.queue, metrics)
        self._searcher = Searcher(engine, settings, metrics, self._thumbs, fetcher)
        self._page = Page()
        self._compat = Compat(engine, self._searcher, self.gate)
        self.status = Status(engine, settings, self._searcher)
        self.guard = Guard(self._routed(), settings, metrics, self._page.paths)
        self.status.draining = lambda: self.guard.draining
        metrics.gauge("penstock_queue_depth", "Searches inside: worked on, or waiting.", lambda: self.gate.inside)
        metrics.gauge("penstock_model_queue_depth", "Inputs that wait for the model.", lambda: engine.depth)

    @property
    def app(self) -> ASGIApp:
        if not self._settings.origins:
            return self.guard
        return CORSMiddleware(
            self.guard,
            allow_origins=self._settings.origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "X-API-Key", "Content-Type"],
            expose_headers=["Retry-After", "ETag"],
        )

    def routes(self) -> list[BaseRoute]:
        compat, status = self._compat, self.status
        return [
            Route("/v1/search", self.search, methods=["GET"]),
            Route("/v1/search", self.search_body, methods=["POST"]),
            Route("/v1/search/batch", self.batch, methods=["POST"]),
            Route("/v1/points/{id}", self.point, methods=["GET"]),
            Route("/v1/thumbs/{id}", self.thumb, methods=["GET"]),
            Route("/v1/embeddings", compat.embeddings, methods=["POST"]),
            Route("/v1/status", status.status, methods=["GET"]),
            Route("/healthz", status.alive, methods=["GET"]),
            Route("/readyz", status.ready, methods=["GET"]),
            Route("/metrics", self.metrics, methods=["GET"]),
            Route("/openapi.json", self.openapi, methods=["GET"]),
            Route("/knn-service", compat.knn, methods=["POST"]),
            Route("/indices-list", compat.indices, methods=["GET"]),
            Route("/search", compat.search, methods=["GET"]),
            Route("/search", compat.search_body, methods=["POST"]),
            Route("/health", status.health, methods=["GET"]),
            Route("/", self._page.file, methods=["GET"]),
            Route("/{name}", self._page.file, methods=["GET"]),
        ]

    def _routed(self) -> Starlette:
        app = Starlette(routes=self.routes())
        app.router.redirect_slashes = False
        for kind in (Problem, PenstockError, TimeoutError, Exception):
            app.add_exception_handler(kind, _told)
        app.add_exception_handler(HTTPException, _refused)
        return app

    # ------------------------------------------------------------ searching

    async def search(self, request: Request) -> Response:
        fields = _fields(request.query_params.multi_items())
        if "q" in fields:
            fields["text"] = fields.pop("q")
        return await self._answered(asked(shapes.coerced(fields, shapes.SEARCH)))

    async def search_body(self, request: Request) -> Response:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == FORM:
            fields, image = await _form(request, self._settings.body)
            return await self._answered(
                await self._read(lambda: asked(shapes.coerced(fields, shapes.SEARCH), image), len(image or b""))
            )
        content = await body(request)
        return await self._answered(await self._read(lambda: asked(shapes.parsed(content)), len(content)))

    async def batch(self, request: Request) -> Response:
        content = await body(request)
        asks = await self._read(lambda: _batch(content), len(content))
        with self.gate.enter(len(asks)):
            answers = await asyncio.gather(*map(self._searcher.answer, asks), return_exceptions=True)
        for number, answer in enumerate(answers):
            if isinstance(answer, BaseException):
                found = problem(answer)
                if found is None:
                    raise answer
                raise Problem(found.status, found.kind, f"queries[{number}]: {found.message}", found.headers)
        return Json({"results": answers})

    async def _read(self, task: Callable[[], R], size: int) -> R:
        """Makes out what a request says: if it is a large one, elsewhere than on the event loop."""
        return task() if size < LARGE else await self._files(task)

    async def _answered(self, ask: Ask) -> Response:
        with self.gate.enter():
            return Json(await self._searcher.answer(ask))

    # ------------------------------------------------------------ looking

    async def point(self, request: Request) -> Response:
        point = await self._point(request.path_params["id"])
        told = self._searcher.shown(point.chunk)
        if request.query_params.get("vector") == "true":
            vector = point.vectors.get(VECTOR)
            told["vector"] = vector.values.tolist() if isinstance(vector, Dense) else None
        return Json(told)

    async def thumb(self, request: Request) -> Response:
        size = request.query_params.get("size", "256")
        if size not in map(str, SIZES):
            raise bad(f"size: there are {', '.join(map(str, SIZES))}")
        chunk = (await self._point(request.path_params["id"])).chunk
        picture = await self._files(lambda: self._thumbs.picture(chunk))
        etag = picture.etag(int(size))
        shared = "private" if self._settings.keys else "public"
        headers = {"ETag": etag, "Cache-Control": f"{shared}, max-age={HOUR}"}
        if known(request, etag):
            return Response(status_code=304, headers=headers)
        with self._metrics.timed("thumb"):
            small = await self._thumbs.small(picture, int(size), self._files)
        return Response(small, media_type="image/jpeg", headers=headers)

    async def _files(self, task: Callable[[], R]) -> R:
        found, _ = await asyncio.wrap_future(self._engine.work("files", task))
        return found

    async def _point(self, id: str) -> Point:
        if not 0 < len(id) <= 200 or not id.isprintable():
            raise missing(id)
        if not (points := await self._searcher.points([id])):
            raise missing(id)
        return points[0]

    # ------------------------------------------------------------ telling

    async def metrics(self, request: Request) -> Response:
        return PlainTextResponse(self._metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def openapi(self, request: Request) -> Response:
        return Json(openapi.document())


async def body(request: Request) -> bytes:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != JSON:
        raise Problem(415, "unsupported_type", f"Content-Type: {kind[:100] or 'none'}; {JSON} is wanted")
    return await request.body()


def _batch(content: bytes) -> list[Ask]:
    """Shapes first, and all of them: half a batch is searched for nobody."""
    told = shapes.parsed(content)
    shapes.check(told, shapes.BATCH)
    return [asked(one, name=f"queries[{n}]") for n, one in enumerate(told["queries"])]


def _fields(given: Iterable[tuple[str, str]]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for name, value in given:
        if name in fields:
            raise bad(f"{name[:100]}: it is there twice")
        fields[name] = value
    return fields


async def _form(request: Request, most: int) -> tuple[dict[str, str], bytes | None]:
    """A form: `image` is a file, all else is said as in a url."""
    try:
        async with request.form(max_files=1, max_fields=32, max_part_size=most) as form:
            texts = [(name, value) for name, value in form.multi_items() if isinstance(value, str)]
            files = {name: await value.read() for name, value in form.multi_items() if not isinstance(value, str)}
    except UnicodeError:  # codecs are many, and the form says which is its own
        raise bad("the form's texts are not of the charset that it names") from None
    if other := files.keys() - {"image"}:
        raise bad(f"{other.pop()[:100]}: the file's field is called image")
    return _fields(texts), files.get("image")


async def _told(request: Request, error: Exception) -> Response:
    return (problem(error) or INTERNAL).response()


_KINDS: Mapping[int, str] = {400: "bad_request", 404: "not_found", 405: "method_not_allowed"}


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = _KINDS.get(error.status_code, "refused")
    message = "there is nothing here" if error.status_code == 404 else error.detail
    return Problem(error.status_code, kind, message, error.headers).response()
