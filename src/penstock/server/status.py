"""How the server is: alive, ready, and what it serves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import asdict
from itertools import islice
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from penstock import __version__
from penstock.core.errors import PenstockError, SinkError
from penstock.jobs import progress_file as bulletin
from penstock.jobs.components import current_ledger
from penstock.ledger import Ledger
from penstock.server.answers import Json
from penstock.server.asking import DEPTH, Ask
from penstock.server.engine import Engine
from penstock.server.problems import problem
from penstock.server.searching import Searcher
from penstock.server.settings import Settings
from penstock.server.shapes import MOST, TOGETHER
from penstock.server.thumbs import SIZES

FRESH = 1.0
"""Seconds that an answer to `ready?` is good for: asking is free, and a probe is not."""
PATIENCE = 5.0
NAMED = 20
"""Failures that are named."""


class Status:
    def __init__(self, engine: Engine, settings: Settings, searcher: Searcher) -> None:
        self._engine, self._settings, self._searcher = engine, settings, searcher
        self.draining: Callable[[], bool] = lambda: False
        self._probe: asyncio.Task[str | None] | None = None
        self._probed = float("-inf")

    async def alive(self, request: Request) -> Response:
        return Json({"status": "alive"})

    async def ready(self, request: Request) -> Response:
        if (why := await self._unready()) is not None:
            return Json({"status": "not ready", "reason": why}, 503, {"Retry-After": "1"})
        return Json({"status": "ready"})

    async def health(self, request: Request) -> Response:
        """As the image search example of SkyPilot answers, but for that it is true."""
        if (why := await self._unready()) is not None:
            return Json({"status": "unhealthy", "reason": why, "collection_size": 0}, 503, {"Retry-After": "1"})
        return Json({"status": "healthy", "collection_size": await self._searcher.count()})

    async def status(self, request: Request) -> Response:
        with self._engine.lease() as generation:
            told: dict[str, Any] = {
                "version": __version__,
                "index": generation.index.url,
                "model": asdict(generation.space) | {"images": generation.images is not None},
                "opened": generation.opened_at,
            }
        settings = self._settings
        told["points"] = await self._points()
        told["trouble"] = self._engine.trouble
        told["limits"] = {
            "k": MOST,
            "depth": DEPTH,
            "batch": TOGETHER,
            "body": settings.body,
            "pixels": settings.pixels,
            "seconds": settings.seconds,
            "rate": settings.rate or None,
            "queue": settings.queue,
            "keys": bool(settings.keys),
            "fetch_urls": settings.fetch_urls,
            "thumbs": list(SIZES),
        }
        told["ledger"] = told["pipeline"] = None
        if settings.state is not None:
            (told["ledger"], told["pipeline"]), _ = await asyncio.wrap_future(self._engine.work("files", self._ledger))
        return Json(told)

    async def _points(self) -> int | None:
        try:
            return await self._searcher.count()
        except SinkError:  # `ready` says why; the rest of the status is still worth telling
            return None

    def _ledger(self) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """What the ledger knows, and how a run is getting on, if one does."""
        assert self._settings.state is not None
        try:
            with Ledger.reader(current_ledger(self._settings.state)) as ledger:
                failing = [
                    {"uri": f.uri, "stage": f.stage, "place": f.place, "cause": f.cause}
                    for f in islice(ledger.failures(), NAMED)
                ]
                runs = [asdict(run) for run in ledger.runs(1)]
                told = {**asdict(ledger.counts()), "runs": runs, "failing": failing, "asked": time.time()}
                return told, bulletin.read(ledger.path)
        except PenstockError as error:
            return {"error": str(error)}, None

    async def _unready(self) -> str | None:
        """Why a search would not be answered: a real one is made. Those who ask meanwhile get the same answer."""
        if self.draining():
            return "draining: the server is about to end"
        if self._probe is None or (self._probe.done() and time.monotonic() - self._probed > FRESH):
            self._probe = asyncio.get_running_loop().create_task(self._probing())
        return await asyncio.shield(self._probe)

    async def _probing(self) -> str | None:
        try:
            async with asyncio.timeout(PATIENCE):
                await self._searcher.answer(Ask(text="ready?", k=1))
            return None
        # Any reason at all is a reason not to be ready; those that we know are told.
        except Exception as error:
            found = problem(error)
            return found.message if found else type(error).__name__
        finally:
            self._probed = time.monotonic()
