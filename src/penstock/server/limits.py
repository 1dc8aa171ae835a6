"""Who may ask, how often, how much and how long; and that every answer is one a client can read.

The outermost layer but for CORS: nothing behind it need think of keys, clocks or exceptions.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from penstock.server.metrics import Metrics
from penstock.server.problems import INTERNAL, Problem, busy, problem
from penstock.server.settings import Settings

log = logging.getLogger("penstock.server")

ALWAYS = frozenset({"/healthz", "/readyz", "/health"})
"""What is asked about the server itself: without a key, at any rate, and while it drains."""
OPEN = ALWAYS | {"/", "/openapi.json"}
HELD = 256 << 20
"""Bytes of all requests that are inside, together: or one that is larger, alone."""
CLIENTS = 10_000
"""Whose rates are remembered; the one not seen for longest is forgotten."""


class Gate:
    """Lets so many searches in, and no more."""

    def __init__(self, capacity: int, metrics: Metrics) -> None:
        self._capacity, self._metrics, self.inside = capacity, metrics, 0

    @contextmanager
    def enter(self, searches: int = 1) -> Iterator[None]:
        # One batch larger than the gate passes when it is alone.
        if self.inside and self.inside + searches > self._capacity:
            self._metrics.count("penstock_refused_total", reason="queue")
            raise busy(f"{self.inside} searches are being worked on already", 1)
        self.inside += searches
        try:
            yield
        finally:
            self.inside -= searches


class Rates:
    """A bucket of tokens for every client: it fills at `rate` a second, and holds two seconds' worth."""

    def __init__(self, rate: float) -> None:
        self._rate, self._most = rate, max(1.0, 2 * rate)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str) -> float:
        """0 if the client may ask, else the seconds until it may."""
        now = time.monotonic()
        tokens, then = self._buckets.pop(client, (self._most, now))
        tokens = min(self._most, tokens + (now - then) * self._rate)
        wait = 0.0 if tokens >= 1 else (1 - tokens) / self._rate
        self._buckets[client] = (tokens if wait else tokens - 1, now)
        if len(self._buckets) > CLIENTS:
            self._buckets.popitem(last=False)
        return wait


class Guard:
    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics, public: frozenset[str]) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics
        self._page = public | {"/"}
        self._open = OPEN | public
        self._keys = [key.encode() for key in settings.keys]
        self._rates = Rates(settings.rate) if settings.rate else None
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
        answer, body = _Answer(send), _Body(scope, receive, self)
        try:
            self._admit(scope)
            body.check(self._settings.body)
            async with asyncio.timeout(self._settings.seconds):
                await self._app(scope, body, answer)
        except ClientDisconnect:
            answer.status = 499  # nobody is left to be told; as other servers count it
        # Whatever it is, the client gets an answer, and the log the name of what nobody foresaw.
        except Exception as error:
            await self._explain(error, scope, receive, answer)
        finally:
            self.held -= body.size
            route = getattr(scope.get("route"), "path", "none")
            self._metrics.count("penstock_requests_total", route=route, status=str(answer.status))
            self._metrics.observe("penstock_request_seconds", time.perf_counter() - began, route=route)

    async def _explain(self, error: Exception, scope: Scope, receive: Receive, answer: _Answer) -> None:
        told = problem(error)
        if told is None:
            route = getattr(scope.get("route"), "path", "none")
            log.error("%s %s: %s: %.500r", scope["method"], route, type(error).__name__, str(error))
            log.debug("", exc_info=error)
            told = INTERNAL
        if not answer.started:
            await told.response()(scope, receive, answer)

    def _admit(self, scope: Scope) -> None:
        path = scope["path"]
        if path in ALWAYS:
            return
        if self.draining and path != "/metrics":
            raise Problem(503, "draining", "the server is about to end", {"Retry-After": "1", "Connection": "close"})
        if path in self._page:  # a dozen small files at once: less work than one search, and nothing works without them
            return
        if path in self._open:  # the page's own files come from memory, and a page with half of them is none
            return
        client = str((scope.get("client") or ("?",))[0])
        if self._keys:
            # Wrong keys are counted against the address, so that nobody can go on guessing.
            if (key := self._key(Headers(scope=scope))) is None:
                self._pace(client)
                wanted = {"WWW-Authenticate": "Bearer"}
                raise Problem(401, "unauthorized", "a key is wanted: Authorization: Bearer KEY, or X-API-Key", wanted)
            client = f"key {key}"
        self._pace(client)

    def _pace(self, client: str) -> None:
        if self._rates is not None and (wait := self._rates.take(client)):
            self._metrics.count("penstock_refused_total", reason="rate")
            raise busy(f"more than {self._settings.rate:g} requests a second", wait)

    def _key(self, headers: Headers) -> int | None:
        """Which key it is. Every key is compared to its end, so that the time tells nothing."""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = (token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")).encode("latin-1")
        found = None
        for number, key in enumerate(self._keys):
            if hmac.compare_digest(given, key):
                found = number
        return found


class _Answer:
    """Sends on, remembers the status, and adds what every answer has."""

    def __init__(self, send: Send) -> None:
        self._send, self.status, self.started = send, 500, False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.started = message["status"], True
            headers = MutableHeaders(scope=message)
            headers["X-Content-Type-Options"] = "nosniff"
            headers["Referrer-Policy"] = "no-referrer"
            headers.setdefault("Cache-Control", "no-store")
        await self._send(message)


class _Body:
    """Refuses a body that is too large, by what it says of itself, and else as it comes in; and one too many."""

    def __init__(self, scope: Scope, receive: Receive, guard: Guard) -> None:
        self._receive, self._guard, self.size, self._most = receive, guard, 0, 0
        self._told = Headers(scope=scope).get("content-length", "")

    def check(self, most: int) -> None:
        self._most = most
        if self._told.isdecimal() and int(self._told) > most:
            raise self._large()

    async def __call__(self) -> Message:
        message = await self._receive()
        arrived = len(message.get("body", b""))
        self.size += arrived
        self._guard.held += arrived
        if self.size > self._most:
            raise self._large()
        if self._guard.held > max(HELD, self.size):
            raise busy("the requests that are inside are large enough together", 1)
        return message

    def _large(self) -> Problem:
        return Problem(413, "too_large", f"the request has more than {self._most:,} bytes", {"Connection": "close"})
