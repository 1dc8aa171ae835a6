"""Metrics and health of runs over HTTP: for Prometheus, and for whoever starts them again when one is stuck.

One thread, which answers one connection after the other.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer
from typing import Any

from penstock import __version__
from penstock.core.errors import UsageError
from penstock.display.prometheus import run_text, runs_text
from penstock.engine.progress import Progress

SECONDS = 5.0
"""Seconds that a client may take."""
SILENT, STUCK = 60.0, 600.0
"""Seconds without a sign of life of the run; and without any progress while something waits, and nothing is away: after
that it is stuck."""


class Health:
    """Takes a run's progress."""

    def __init__(self, *, may_end: bool = False) -> None:
        """`may_end`: one of several, which may have ended, and the process goes on."""
        self.latest: Progress | None = None
        self._seen = self._moved = time.monotonic()
        self._counts: dict[str, int] = {}
        self._may_end = may_end

    def __call__(self, progress: Progress) -> None:
        self.latest, self._seen = progress, time.monotonic()
        if progress.counts != self._counts or not progress.queued or progress.waiting:
            self._counts, self._moved = progress.counts, self._seen

    def rest(self, seconds: float) -> None:
        """Expect no progress for so many seconds."""
        self._seen = self._moved = time.monotonic() + seconds

    @property
    def trouble(self) -> str:
        """Why the run is stuck, if it is."""
        now = time.monotonic()
        if self._may_end and (last := self.latest) and last.live is None and not (last.listing or last.queued):
            return ""
        if now - self._seen > SILENT:
            return f"no sign of life for {now - self._seen:.0f} s"
        if now - self._moved > STUCK:
            return f"documents are worked on, and none has got on for {now - self._moved:.0f} s"
        return ""


class Healths:
    """The health of several runs by name; the name of a single one is ''."""

    def __init__(self, names: Iterable[str] | None = None) -> None:
        self._of = {"": Health()} if names is None else {name: Health(may_end=True) for name in names}

    def __getitem__(self, name: str) -> Health:
        return self._of[name]

    @property
    def metrics(self) -> str:
        runs = {name: one.latest.to_json() for name, one in self._of.items() if one.latest is not None}
        if runs.keys() == {""}:
            return run_text(runs[""])
        return runs_text(runs) if runs else ""

    @property
    def trouble(self) -> str:
        troubles = {name: one.trouble for name, one in self._of.items()}
        return "; ".join(f"{name}: {trouble}" if name else trouble for name, trouble in troubles.items() if trouble)


class _Server(TCPServer):
    healths: Healths
    allow_reuse_address = True

    def __init__(self, host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version, sys_version = f"penstock/{__version__}", ""

    def handle(self) -> None:
        timer = threading.Timer(SECONDS, self._hang_up)
        timer.start()
        try:
            super().handle()
        finally:
            timer.cancel()

    def _hang_up(self) -> None:
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def do_GET(self) -> None:
        healths = self.server.healths
        if self.path == "/metrics":
            self._answer(200, healths.metrics, "text/plain; version=0.0.4; charset=utf-8")
        elif self.path == "/healthz":
            trouble = healths.trouble
            self._answer(503 if trouble else 200, f"{trouble or 'alive'}\n")
        else:
            self._answer(404, "there are /metrics and /healthz\n")

    def _answer(self, status: int, text: str, kind: str = "text/plain; charset=utf-8") -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None: ...


@contextmanager
def endpoint(address: str, healths: Healths) -> Iterator[None]:
    """Serve `/metrics` and `/healthz` at `HOST:PORT`."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"invalid address {address!r}: expected HOST:PORT, such as 127.0.0.1:9100")
    try:
        server = _Server(host.strip("[]"), int(port))
    except OSError as error:
        raise UsageError(f"cannot serve metrics at {address}: {error.strerror}") from error
    server.healths = healths
    thread = threading.Thread(target=server.serve_forever, name="penstock-metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
