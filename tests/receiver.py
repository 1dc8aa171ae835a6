"""A webhook on this machine."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self


class Message(NamedTuple):
    headers: Mapping[str, str]
    body: bytes

    @property
    def fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = json.loads(self.body)
        return fields


class Receiver:
    """Keeps what it is sent. `answer` gives the status and headers for each message; it may raise, or wait."""

    def __init__(self, answer: Callable[[Message], tuple[int, dict[str, str]]] | None = None, port: int = 0) -> None:
        self.answer = answer or (lambda message: (204, {}))
        self.messages: list[Message] = []
        """Those that were answered by 2xx."""
        self.tries: list[Message] = []
        self.connections: set[Any] = set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                receiver.connections.add(self.client_address)
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if len(body) < int(self.headers["Content-Length"]):  # the sender was killed
                    self.close_connection = True
                    return
                message = Message(dict(self.headers), body)
                receiver.tries.append(message)
                status, headers = receiver.answer(message)
                if 200 <= status < 300:
                    receiver.messages.append(message)
                self.send_response(status)
                for name, value in {"Content-Length": "0", **headers}.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def names(self) -> list[str]:
        """The last parts of the uris that it was told of."""
        return sorted(message.fields["uri"].rpartition("/")[2] for message in self.messages)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
