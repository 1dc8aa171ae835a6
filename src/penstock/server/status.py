"""Routes about the server itself: alive, ready, and what it serves."""

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
from penstock.display.prometheus import run_text
from penstock.jobs import progress_file
from penstock.jobs.components import current_ledger
from penstock.jobs.queries import MAX_DEPTH, Query
from penstock.ledger import Ledger
from penstock.server import rates
from penstock.server.authorization import may
from penstock.server.clients import client_of
from penstock.server.fair import SERVER
from penstock.server.generations import PROBE, NamedVector, ServedIndex
from penstock.server.keys import METRICS
from penstock.server.problems import Problem, problem_of, retry_after, without_folders
from penstock.server.responses import SafeJSONResponse
from penstock.server.retrieval import Timings
from penstock.server.schemas import MAX_BATCH, MAX_HITS, MAX_TEXTS
from penstock.server.search import Searcher
from penstock.server.settings import Settings
from penstock.server.thumbnails import SIZES
from penstock.support.redaction import hide_secrets

PROBE_TTL = 1.0
"""Seconds for which the result of a probe is repeated."""
PROBE_TIMEOUT = 5.0
MAX_FAILURES = 20
"""Failures that are listed."""


class StatusRoutes:
    def __init__(self, served: ServedIndex, settings: Settings, searcher: Searcher) -> None:
        self._served, self._settings, self._searcher = served, settings, searcher
        self.draining: Callable[[], bool] = lambda: False
        self.keys_trouble: Callable[[], str | None] = lambda: None
        self._probe: asyncio.Task[Problem | None] | None = None
        self._probed = float("-inf")
        self._counted: tuple[float, int] | None = None

    async def alive(self, request: Request) -> Response:
        return SafeJSONResponse({"status": "alive"})

    async def ready(self, request: Request) -> Response:
        if (problem := await self._unready()) is not None:
            content = {"status": "not ready", "reason": problem.message}
            return SafeJSONResponse(content, 503, retry_after(None) | problem.headers)
        return SafeJSONResponse({"status": "ready"})

    async def health(self, request: Request) -> Response:
        """The route of SkyPilot's image search example; here it tells whether searches work."""
        if (problem := await self._unready()) is not None:
            content = {"status": "unhealthy", "reason": problem.message, "collection_size": 0}
            return SafeJSONResponse(content, 503, retry_after(None) | problem.headers)
        told = client_of(request.scope).key is not None or not self._settings.guarded
        return SafeJSONResponse({"status": "healthy", "collection_size": await self._size() if told else None})

    async def status(self, request: Request) -> Response:
        with self._served.lease() as generation:
            url, opened_at = generation.index.url, generation.opened_at
            described = {name: _describe(vector) for name, vector in generation.vectors.items()}
        # Paths, hosts, accounts and names of documents are for those who run the server.
        if not (reveals := may(request.scope, METRICS)):
            for one in described.values():
                one["model"] = without_folders(one["model"])
        content: dict[str, Any] = {
            "version": __version__,
            "index": url if reveals else None,
            "model": next(iter(described.values())),
            "vectors": [{"name": name, **one} for name, one in described.items()],
            "words": await self._words(client_of(request.scope).name),
            "reranker": self._reranker(reveals),
            "opened": opened_at,
            "points": await self._points(client_of(request.scope).name),
            "trouble": self._trouble() if reveals else None,
            "limits": self._limits(),
            "ledger": None,
            "pipeline": None,
        }
        if reveals and self._settings.state is not None:
            client = client_of(request.scope).name
            content["ledger"], content["pipeline"] = await self._searcher.in_thread(self._ledger, client)
        return SafeJSONResponse(content)

    def _reranker(self, reveals: bool) -> str | None:
        if (model := self._served.reranker) is None:
            return None
        return model.describe() if reveals else without_folders(model.describe())

    def _trouble(self) -> str | None:
        troubles = [trouble for trouble in (self._served.trouble, self.keys_trouble()) if trouble]
        return hide_secrets("; ".join(troubles)) or None

    def _limits(self) -> dict[str, Any]:
        settings = self._settings
        return {
            "k": MAX_HITS,
            "depth": MAX_DEPTH,
            "batch": MAX_BATCH,
            "body": settings.body,
            "pixels": settings.pixels,
            "seconds": settings.seconds,
            "rate": settings.rate or None,
            "costs": rates.to_json(),
            "texts": MAX_TEXTS if settings.embeddings else None,
            "queue": settings.queue,
            "keys": settings.guarded,
            "fetch_urls": settings.fetch_urls,
            "thumbs": list(SIZES),
        }

    async def _points(self, client: str) -> int | None:
        try:
            return await self._searcher.count(client)
        except SinkError:  # `ready` gives the reason; the rest of the status is still of use
            return None

    async def _words(self, client: str) -> bool:
        try:
            return await self._searcher.finds_words(client)
        except SinkError:
            return False

    async def run_metrics(self) -> str:
        """The figures of the run that fills the index, for Prometheus; nothing where none does, or nobody can tell."""
        if self._settings.state is None:
            return ""
        return await asyncio.to_thread(self._run_text)

    def _run_text(self) -> str:
        assert self._settings.state is not None
        try:
            progress = progress_file.read(current_ledger(self._settings.state))
            return run_text(progress) if progress else ""
        except (PenstockError, KeyError, TypeError, ValueError):  # of another version's run
            return ""

    def _ledger(self) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """The ledger's counts and failures, and the progress of a run, if there is one."""
        assert self._settings.state is not None
        try:
            with Ledger.reader(current_ledger(self._settings.state)) as ledger:
                failing = [
                    {"uri": f.uri, "stage": f.stage, "place": f.place, "cause": f.cause}
                    for f in islice(ledger.failures(), MAX_FAILURES)
                ]
                runs = [asdict(run) for run in ledger.runs(1)]
                counts = {**asdict(ledger.counts()), "runs": runs, "failing": failing, "asked": time.time()}
                return counts, progress_file.read(ledger.path)
        except PenstockError as error:
            return {"error": str(error)}, None

    async def _size(self) -> int:
        """The number of points, counted as often as the server is probed: the route is open to all."""
        if self._counted is None or self._counted[0] != self._probed:
            self._counted = self._probed, await self._searcher.count(SERVER)
        return self._counted[1]

    async def _unready(self) -> Problem | None:
        """Why a search would fail. A real one is tried; requests that come meanwhile get the same result."""
        if self.draining():
            return Problem(503, "draining", "draining: the server is shutting down")
        if self._probe is None or (self._probe.done() and time.monotonic() - self._probed > PROBE_TTL):
            self._probe = asyncio.get_running_loop().create_task(self._search())
        return await asyncio.shield(self._probe)

    async def _search(self) -> Problem | None:
        """Search by each of the vectors, before the searches of all clients. Where that takes too long, the server is
        busy and ready as long as what the probe waits for answers others, and hangs otherwise."""
        timings, name = Timings(), ""
        with self._served.lease() as generation:
            names = list(generation.vectors)
        try:
            async with asyncio.timeout(PROBE_TIMEOUT):
                for name in names:
                    timings = Timings()
                    await self._searcher.search(Query(text=PROBE, k=1, using=name), SERVER, timings)
            return None
        # Any error at all makes the server unready; only foreseen ones have a text that clients may see.
        except Exception as error:
            if isinstance(error, TimeoutError):
                latest = self._searcher.succeeded.get(name, float("-inf")) if timings.embed else generation.progressed
                if time.monotonic() - latest < PROBE_TIMEOUT:
                    return None
            return problem_of(error) or Problem(503, "internal", type(error).__name__)
        finally:
            self._probed = time.monotonic()


def _describe(vector: NamedVector) -> dict[str, Any]:
    return asdict(vector.spec) | {"images": vector.images is not None}
