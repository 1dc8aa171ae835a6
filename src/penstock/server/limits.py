"""Middleware for API keys, rates, sizes and time limits; every error leaves it as a response that a client can read.

It is the outermost layer but for CORS and the access log, so nothing behind it deals with keys, clocks or exceptions.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from penstock.server.authorization import Authorization, has_secret
from penstock.server.bodies import Bodies, Body, Gone
from penstock.server.clients import CLIENT, Client, Proxies, client_of
from penstock.server.hosts import Hosts
from penstock.server.keys import Keyring
from penstock.server.metrics import Metrics
from penstock.server.problems import INTERNAL, Problem, problem_of
from penstock.server.settings import Settings
from penstock.support.redaction import hide_secrets

log = logging.getLogger("penstock.server")

PROBES = frozenset({"/healthz", "/readyz", "/health"})
"""Open without a key, at any rate, and while the server drains. /health with a key is a request like others."""
PUBLIC = PROBES | {"/", "/openapi.json"}
"""Open without a key."""


class LimitsMiddleware:
    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        metrics: Metrics,
        public: frozenset[str],
        keyring: Keyring,
        bodies: Bodies,
    ) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics
        self._page = public | {"/"}
        self._public = PUBLIC | public
        self._authorization = Authorization(keyring, metrics)
        self._proxies = Proxies(settings.trusted_proxies)
        self._hosts = Hosts(
            settings.host, settings.allowed_hosts, settings.origins, keys=settings.guarded, page=self._page
        )
        self._rates, self._bodies = bodies.rates, bodies
        self.draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1000})
            elif scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        response, body = _Response(send), Body(scope, receive, self._bodies)
        try:
            self._proxies.resolve(scope)
            scope[CLIENT] = Client(str((scope.get("client") or ("?",))[0]))
            self._hosts.admit(scope)
            self._admit(scope)
            await body.run(self._app, response, self._settings.seconds)
        except (ClientDisconnect, Gone):
            response.status = 499  # the client has gone; the status that other servers log for it
        # Any error becomes a response; the log has the type of those that were not foreseen.
        except Exception as error:
            await self._explain(error, scope, receive, response)
        finally:
            body.release()
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
        if path in PROBES and not (path == "/health" and self._authorization.required and has_secret(scope)):
            return
        if self.draining and path != "/metrics":
            raise Problem(503, "draining", "the server is shutting down", {"Retry-After": "1", "Connection": "close"})
        if path in self._page:  # a dozen small files from memory, and the page needs all of them
            return
        if path in self._public and path not in PROBES:
            return
        key = None
        if self._authorization.required:
            try:
                key = self._authorization.authenticate(scope)
            except Problem:
                self._rates.admit(client_of(scope).name)  # it counts against the address
                raise
            scope[CLIENT] = replace(client_of(scope), key=key)
        self._rates.admit(client_of(scope).name)
        if key is not None:
            self._authorization.authorize(scope, key)


class _Response:
    """Passes messages on, and remembers the status."""

    def __init__(self, send: Send) -> None:
        self._send, self.status, self.started = send, 500, False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.started = message["status"], True
        await self._send(message)
