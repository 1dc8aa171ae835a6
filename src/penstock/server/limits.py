"""Middleware for API keys, rates, sizes and time limits; every error leaves it as a response that a client can read.

It is the outermost layer but for CORS and the access log, so nothing behind it deals with keys, clocks or exceptions.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from penstock.server.authorization import Authorization
from penstock.server.clients import CLIENT, Client, Proxies, client_of
from penstock.server.hosts import Hosts
from penstock.server.keys import Keyring
from penstock.server.metrics import Metrics
from penstock.server.problems import INTERNAL, Problem, problem_of, too_many_requests
from penstock.server.settings import Settings
from penstock.support.redaction import hide_secrets

log = logging.getLogger("penstock.server")

PROBES = frozenset({"/healthz", "/readyz", "/health"})
"""Open without a key, at any rate, and while the server drains."""
PUBLIC = PROBES | {"/", "/openapi.json"}
"""Open without a key."""
MAX_HELD = 256 << 20
"""Bytes of all requests in progress; a larger one passes alone."""
MAX_CLIENTS = 10_000
"""Clients whose rates are remembered; the one not seen for longest is forgotten."""


class SearchLimit:
    """Bounds the searches that run or wait at once."""

    def __init__(self, capacity: int, metrics: Metrics) -> None:
        self._capacity, self._metrics, self.active = capacity, metrics, 0

    @contextmanager
    def enter(self, searches: int = 1) -> Iterator[None]:
        # A batch larger than the capacity passes when it is alone.
        if self.active and self.active + searches > self._capacity:
            self._metrics.count("penstock_refused_total", reason="queue")
            raise too_many_requests(f"{self.active} searches are in progress already", 1)
        self.active += searches
        try:
            yield
        finally:
            self.active -= searches


class RateLimiter:
    """A token bucket for each client: it fills at `rate` a second, and holds two seconds' worth."""

    def __init__(self, rate: float) -> None:
        self._rate, self._most = rate, max(1.0, 2 * rate)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str) -> float:
        """Take a token: 0 where the client has one, else the seconds until it has."""
        now = time.monotonic()
        tokens, then = self._buckets.pop(client, (self._most, now))
        tokens = min(self._most, tokens + (now - then) * self._rate)
        wait = 0.0 if tokens >= 1 else (1 - tokens) / self._rate
        self._buckets[client] = (tokens if wait else tokens - 1, now)
        if len(self._buckets) > MAX_CLIENTS:
            self._buckets.popitem(last=False)
        return wait


class LimitsMiddleware:
    def __init__(
        self, app: ASGIApp, settings: Settings, metrics: Metrics, public: frozenset[str], keyring: Keyring
    ) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics
        self._page = public | {"/"}
        self._public = PUBLIC | public
        self._authorization = Authorization(keyring, metrics)
        self._proxies = Proxies(settings.trusted_proxies)
        self._hosts = Hosts(
            settings.host, settings.allowed_hosts, settings.origins, keys=settings.guarded, page=self._page
        )
        self._rates = RateLimiter(settings.rate) if settings.rate else None
        self.held = 0
        self.draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1000})
            elif scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        response, body = _Response(send), _Body(scope, receive, self)
        try:
            self._proxies.resolve(scope)
            scope[CLIENT] = Client(str((scope.get("client") or ("?",))[0]))
            self._hosts.admit(scope)
            self._admit(scope)
            body.check(self._settings.body)
            async with asyncio.timeout(self._settings.seconds):
                await self._app(scope, body, response)
        except ClientDisconnect:
            response.status = 499  # the client has gone; the status that other servers log for it
        # Any error becomes a response; the log has the type of those that were not foreseen.
        except Exception as error:
            await self._explain(error, scope, receive, response)
        finally:
            self.held -= body.size
            route = getattr(scope.get("route"), "path", "none")
            self._metrics.count("penstock_requests_total", route=route, status=str(response.status))
            self._metrics.observe("penstock_request_seconds", time.perf_counter() - began, route=route)

    async def _explain(self, error: Exception, scope: Scope, receive: Receive, response: _Response) -> None:
        problem = problem_of(error)
        if problem is None:
            route = getattr(scope.get("route"), "path", "none")
            log.error("%s %s: %s: %.500r", scope["method"], route, type(error).__name__, hide_secrets(str(error)))
            log.debug("", exc_info=error)
            problem = INTERNAL
        if not response.started:
            await problem.response()(scope, receive, response)

    def _admit(self, scope: Scope) -> None:
        path = scope["path"]
        if path in PROBES:
            return
        if self.draining and path != "/metrics":
            raise Problem(503, "draining", "the server is shutting down", {"Retry-After": "1", "Connection": "close"})
        if path in self._page:  # a dozen small files from memory, and the page needs all of them
            return
        if path in self._public:
            return
        key = None
        if self._authorization.required:
            try:
                key = self._authorization.authenticate(scope)
            except Problem:
                self._check_rate(client_of(scope))  # it counts against the address
                raise
            scope[CLIENT] = replace(client_of(scope), key=key)
        self._check_rate(client_of(scope))
        if key is not None:
            self._authorization.authorize(scope, key)

    def _check_rate(self, client: Client) -> None:
        if self._rates is not None and (wait := self._rates.take(client.name)):
            self._metrics.count("penstock_refused_total", reason="rate")
            raise too_many_requests(f"more than {self._settings.rate:g} requests a second", wait)


class _Response:
    """Passes messages on, and remembers the status."""

    def __init__(self, send: Send) -> None:
        self._send, self.status, self.started = send, 500, False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.started = message["status"], True
        await self._send(message)


class _Body:
    """Refuses a body that is too large, by its Content-Length or as it comes in; and one too many for the memory."""

    def __init__(self, scope: Scope, receive: Receive, limits: LimitsMiddleware) -> None:
        self._receive, self._limits, self.size, self._max_size = receive, limits, 0, 0
        self._content_length = Headers(scope=scope).get("content-length", "")

    def check(self, max_size: int) -> None:
        self._max_size = max_size
        if self._content_length.isdecimal() and int(self._content_length) > max_size:
            raise self._too_large()

    async def __call__(self) -> Message:
        message = await self._receive()
        arrived = len(message.get("body", b""))
        self.size += arrived
        self._limits.held += arrived
        if self.size > self._max_size:
            raise self._too_large()
        if self._limits.held > max(MAX_HELD, self.size):
            raise too_many_requests("the requests in progress are too large together", 1)
        return message

    def _too_large(self) -> Problem:
        message = f"the request has more than {self._max_size:,} bytes"
        return Problem(413, "too_large", message, {"Connection": "close"})
