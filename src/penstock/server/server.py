"""Listens, serves, and ends without cutting anybody off."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from ipaddress import ip_address
from types import FrameType
from typing import TextIO

from penstock.compose import open_index
from penstock.core.errors import MissingExtra, UsageError
from penstock.server.metrics import Metrics
from penstock.server.settings import KEYS, Settings

try:
    import python_multipart  # noqa: F401 - starlette wants it when the first form comes
    import uvicorn

    from penstock.server.app import Api
    from penstock.server.connections import KEPT, Connection
    from penstock.server.engine import Engine, Opener
    from penstock.server.limits import Guard
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] == "penstock":
        raise
    raise MissingExtra(f"serving ({error.name})", "serve") from None


class Server(uvicorn.Server):
    """Told to end, it says so for a while and refuses what is new, finishes what it has begun, and closes."""

    def __init__(self, config: uvicorn.Config, guard: Guard, drain: float) -> None:
        super().__init__(config)
        self._guard, self._drain = guard, drain
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal begins the end, a second one does not wait. Not kept for later: ending was no failure."""
        if self._loop is None or self._guard.draining:
            self.should_exit = self.force_exit = True
        elif sig == signal.SIGINT:  # nobody's load balancer presses Ctrl-C
            self._guard.draining = self.should_exit = True
        else:
            self._loop.call_soon_threadsafe(self.drain)

    def drain(self) -> None:
        """On the event loop."""
        if not self._guard.draining:
            self._guard.draining = True
            asyncio.get_running_loop().call_later(self._drain, self._leave)

    def _leave(self) -> None:
        self.should_exit = True


def serve(
    index_url: str,
    settings: Settings | None = None,
    *,
    model: str | None = None,
    opener: Opener | None = None,
    out: TextIO | None = None,
    started: Callable[[Server, str], object] | None = None,
) -> None:
    """Serve an index until SIGTERM or Ctrl-C. The url it listens at is printed, and handed to `started`.

    What stands in the way (no index, no model, a port that is taken) is raised before anything listens.
    `opener`: how an index is opened with its model, if not by `open_index`.
    """
    settings = settings or Settings()
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    metrics = Metrics()
    engine = Engine(index_url, opener or (lambda url: open_index(url, model)), settings, metrics)
    engine.open()
    try:
        api = Api(engine, settings, metrics)
        listening = _listening(settings.host, settings.port)
        config = uvicorn.Config(
            api.app,
            http=Connection,
            ws="none",
            log_level="error",  # not a line for whatever strangers send
            access_log=False,
            proxy_headers=False,  # whoever asks could say to be anybody
            server_header=False,
            lifespan="off",
            timeout_keep_alive=KEPT,
            timeout_graceful_shutdown=max(1, round(settings.seconds)),
        )
        server = Server(config, api.guard, settings.drain)
        url = _url(settings.host, listening)
        print(f"serving {engine.url} at {url}", file=out or sys.stdout, flush=True)
        if not settings.keys and not _loopback(settings.host):
            print(f"penstock: whoever reaches {url} can search it; {KEYS} sets keys", file=sys.stderr, flush=True)
        if started is not None:
            started(server, url)
        server.run([listening])
    finally:
        engine.close()


def _listening(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        # asyncio looks for the protocol by its name before it turns Nagle's algorithm off: 40 ms an answer.
        made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise UsageError(f"cannot listen at {host}: {error.strerror}") from None
    try:
        if os.name == "posix":
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(1024)
        made.setblocking(False)
    except OSError as error:
        made.close()
        raise UsageError(f"cannot listen at {host}, port {port}: {error.strerror}") from None
    return made


def _url(host: str, listening: socket.socket) -> str:
    port = listening.getsockname()[1]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def _loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
