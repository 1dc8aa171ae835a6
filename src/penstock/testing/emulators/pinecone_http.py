"""How the emulator of Pinecone is reached: HTTP, the key and the API's versions."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

from penstock.testing.emulators.listener import to_json
from penstock.testing.emulators.pinecone_filter import Refusal
from penstock.testing.emulators.pinecone_index import Index

VERSIONS = ("2025-10", "2026-07")
URL = 8000
"""Bytes of a url."""


Answer = tuple[int, Any, dict[str, str]]


class Server(Protocol):
    """The server as its listeners see it."""

    key: str
    requests: list[tuple[str, str, int]]

    def fault(self, path: str) -> tuple[int, int | None] | None: ...
    def control(self, method: str, path: str, body: bytes, version: str) -> Answer: ...
    def data(self, index: Index, method: str, path: str, params: dict[str, list[str]], body: bytes) -> Answer: ...


def handler(server: Server, index: Index | None) -> type[BaseHTTPRequestHandler]:
    """The class that answers the requests of the control plane, or of an index."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def do(self) -> None:
            split = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            server.requests.append((self.command, self.path, len(body)))
            status, retry_after = server.fault(split.path) or (None, None)
            if status == 0:
                self.close_connection = True
                return
            try:
                if status is not None:
                    raise Refusal(status, f"injected {status}")
                if self.headers.get("Api-Key") != server.key:
                    raise Refusal(401, "Invalid API Key")
                if (version := self.headers.get("X-Pinecone-Api-Version", "")) not in VERSIONS:
                    raise Refusal(400, f"unknown API version {version!r}")
                if len(self.path) > URL:
                    raise Refusal(414, "URI Too Long")
                params = parse_qs(split.query, keep_blank_values=True)
                if index is None:
                    answer = server.control(self.command, split.path, body, version)
                else:
                    answer = server.data(index, self.command, split.path, params, body)
            except Refusal as refusal:
                headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
                answer = refusal.status, _error(split.path, refusal), headers
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                answer = 400, _error(split.path, Refusal(400, f"{type(error).__name__}: {error}")), {}
            self.answer(*answer)

        do_GET = do_POST = do_DELETE = do

        def answer(self, status: int, answer: Any, headers: dict[str, str]) -> None:
            data = b"" if answer is None else to_json(answer)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Log nothing: tests read `requests`."""

    return Handler


_CODES = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "FORBIDDEN", 404: "NOT_FOUND", 409: "ALREADY_EXISTS"}


def _error(path: str, refusal: Refusal) -> dict[str, Any]:
    if path.startswith("/indexes"):
        error = {"code": _CODES.get(refusal.status, "UNKNOWN"), "message": refusal.message}
        return {"error": error, "status": refusal.status}
    return {"code": {400: 3, 404: 5, 429: 8}.get(refusal.status, 2), "message": refusal.message, "details": []}
