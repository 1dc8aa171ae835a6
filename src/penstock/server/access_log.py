"""The outermost layer: each request gets an id, each response its security headers, and both a line of the access log.

A line holds no texts of queries, unless the settings ask for them.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from penstock.server.audit import Audit
from penstock.server.authorization import REFUSAL
from penstock.server.clients import CLIENT, Client
from penstock.server.headers import secure
from penstock.server.json_log import JsonLog, now
from penstock.server.settings import Settings

REQUEST_ID = "X-Request-ID"
SANE_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,100}")
REFUSALS = frozenset({401, 403, 421, 429})
MAX_PATH = 300
"""Characters of a path that are logged."""
MAX_QUERY = 2000
"""Characters of a query string, and of a body, that are logged where that is asked for."""

_stages: ContextVar[dict[str, float] | None] = ContextVar("stages", default=None)


def note_stages(milliseconds: Mapping[str, float]) -> None:
    """Have the stages of a search logged with its request."""
    if (stages := _stages.get()) is not None:
        stages.update({name: round(value / 1000, 6) for name, value in milliseconds.items()})


class AccessMiddleware:
    def __init__(self, app: ASGIApp, settings: Settings, log: JsonLog | None, audit: Audit) -> None:
        self._app, self._log, self._audit = app, log, audit
        self._foreign_pages, self._log_queries = bool(settings.origins), settings.log_queries

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self._foreign_pages, MAX_QUERY if self._log_queries else 0)
        began = time.perf_counter()
        _stages.set({} if self._log is not None else None)
        try:
            await self._app(scope, exchange.receive, exchange.send)
        finally:
            self._record(exchange, scope, time.perf_counter() - began)

    def _record(self, exchange: _Exchange, scope: Scope, seconds: float) -> None:
        client: Client = scope.get(CLIENT) or Client(str((scope.get("client") or ("?",))[0]))
        route = getattr(scope.get("route"), "path", None)
        path = scope.get("raw_path", b"").decode("latin-1")[:MAX_PATH]
        if exchange.status in REFUSALS:
            about = {"method": scope["method"][:20], "route": route, "path": path, "id": exchange.id}
            self._audit.refused(client, exchange.status, why=scope.get(REFUSAL), **about)
        if self._log is None:
            return
        record: dict[str, Any] = {
            "time": now(),
            "event": "request",
            "id": exchange.id,
            "client": client.address,
            "key": client.key and client.key.name,
            "method": scope["method"][:20],
            "route": route,
            "path": path,
            "status": exchange.status,
            "bytes_in": exchange.bytes_in,
            "bytes_out": exchange.bytes_out,
            "seconds": round(seconds, 6),
        }
        if stages := _stages.get():
            record["stages"] = stages
        if self._log_queries:
            record["query"] = scope.get("query_string", b"").decode("latin-1")[:MAX_QUERY]
            record["body"] = exchange.body.decode("utf-8", "replace")
        self._log.write(record)


class _Exchange:
    """One request and its response: passes messages on, counts, and adds headers."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, foreign_pages: bool, max_body: int) -> None:
        self._scope, self._receive, self._send, self._foreign_pages = scope, receive, send, foreign_pages
        headers = Headers(scope=scope)
        sent = headers.get(REQUEST_ID, "")
        self.id = sent if SANE_ID.fullmatch(sent) else secrets.token_hex(8)
        self.status = 499
        """Until there is a response: the client has gone."""
        self.bytes_in = self.bytes_out = 0
        self.body = b""
        # Of a form, the beginning may be that of a picture.
        self._max_body = max_body if headers.get("content-type", "").startswith("application/json") else 0

    async def receive(self) -> Message:
        message = await self._receive()
        if body := message.get("body"):
            self.bytes_in += len(body)
            if len(self.body) < self._max_body:
                self.body += body[: self._max_body - len(self.body)]
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers[REQUEST_ID] = self.id
            https = self._scope.get("scheme") == "https"
            secure(headers, self._scope["path"], https=https, foreign_pages=self._foreign_pages)
        elif message["type"] == "http.response.body":
            self.bytes_out += len(message.get("body", b""))
        await self._send(message)
