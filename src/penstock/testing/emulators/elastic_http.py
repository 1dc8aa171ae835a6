"""How the emulator of Elasticsearch and OpenSearch is reached: HTTP, log-in, media types and JSON."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlsplit

from penstock.testing.emulators.elastic_index import Refusal, refuse


@dataclass(frozen=True, slots=True)
class Fault:
    """A planned failure of a request: its status, the seconds until it is answered, and a Retry-After header."""

    status: int
    after: float
    retry_after: int | None


def parse_json(data: bytes) -> dict[str, Any]:
    def refuse_constant(name: str) -> Any:
        raise ValueError(f"Non-standard token '{name}'")

    try:
        value = json.loads(data, parse_constant=refuse_constant)
    except (ValueError, RecursionError) as error:
        raise refuse("x_content_parse_exception", str(error)) from None
    if not isinstance(value, dict):
        raise refuse("parsing_exception", "Expected [START_OBJECT]")
    return value


class Server(Protocol):
    """The server as its handler sees it."""

    flavor: str
    version: int
    product: bool
    secrets: set[str]
    requests: list[tuple[str, str]]
    largest: int

    def fault(self, path: str) -> Fault | None: ...
    def answer(self, method: str, path: str, params: dict[str, str], body: bytes) -> tuple[int, Any]: ...


def handler(server: Server) -> type[BaseHTTPRequestHandler]:
    """The class that answers a server's requests."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def do(self) -> None:
            split = urlsplit(self.path)
            server.requests.append((self.command, self.path))
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            if fault := server.fault(self.path):
                time.sleep(fault.after)
                if fault.status == 0:
                    self.close_connection = True
                    return
                refusal = Refusal(fault.status, "injected_exception", f"injected {fault.status}")
                self.answer(fault.status, refusal.body(), fault.retry_after)
                return
            try:
                self.authorize()
                self.negotiate(bool(body), split.path)
                if length > server.largest:
                    raise Refusal(413, "content_too_long_exception", "entity content is too long")
                params = dict(parse_qsl(split.query, keep_blank_values=True))
                status, answer = server.answer(self.command, split.path, params, body)
            except Refusal as refusal:
                status, answer = refusal.status, refusal.body()
            except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
                status, answer = 400, refuse("parse_exception", f"{type(error).__name__}: {error}").body()
            self.answer(status, answer)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do

        def authorize(self) -> None:
            if server.secrets and self.headers.get("Authorization") not in server.secrets:
                raise Refusal(401, "security_exception", "missing or wrong authentication credentials for REST request")

        def negotiate(self, has_body: bool, path: str) -> None:
            content = self.headers.get("Content-Type", "")
            kinds = ("json", "x-ndjson") if path.endswith("_bulk") else ("json",)
            plain = content.replace("vnd.elasticsearch+", "").partition(";")[0]
            if has_body and plain not in {f"application/{kind}" for kind in kinds}:
                raise Refusal(406, "illegal_argument_exception", f"Content-Type header [{content}] is not supported")
            for name in ("Accept", "Content-Type"):
                value = self.headers.get(name, "")
                if "vnd.elasticsearch" in value and server.flavor == "opensearch":
                    raise Refusal(406, "illegal_argument_exception", f"{name} header [{value}] is not supported")
                requested = re.search(r"compatible-with=(\d+)", value)
                if requested and int(requested[1]) not in (server.version, server.version - 1):
                    either = f"either version {server.version} or {server.version - 1}"
                    reason = f"{name} version must be {either}, but found {requested[1]}"
                    raise refuse("media_type_header_exception", reason)

        def answer(self, status: int, answer: Any, retry_after: int | None = None) -> None:
            data = json.dumps(answer, ensure_ascii=False).encode()
            self.send_response(status)
            if retry_after is not None:
                self.send_header("Retry-After", str(retry_after))
            kind = "application/json"
            if server.flavor == "elasticsearch":
                if "vnd.elasticsearch" in self.headers.get("Accept", ""):
                    kind = f"application/vnd.elasticsearch+json;compatible-with={server.version}"
                if server.product:
                    self.send_header("X-Elastic-Product", "Elasticsearch")
            if status == 401:
                self.send_header("WWW-Authenticate", 'Basic realm="security"')
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Log nothing: tests read `requests`."""

    return Handler
