"""Starts the server, and stops it without dropping requests."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any, TextIO

from penstock.compose import open_index
from penstock.core.contracts import Reranker
from penstock.core.errors import MissingExtra, UsageError
from penstock.embedders.names import reranker as find_reranker
from penstock.server.metrics import Metrics

try:
    import httptools  # noqa: F401 - the parser of requests, whatever else uvicorn finds
    import python_multipart  # noqa: F401 - starlette imports it with the first form
    import uvicorn

    from penstock.server.app import Api
    from penstock.server.clients import Proxies
    from penstock.server.connections import KEEP_ALIVE, Connection
    from penstock.server.generations import Opener, ServedIndex
    from penstock.server.hosts import is_loopback
    from penstock.server.limits import LimitsMiddleware
    from penstock.server.listener import Listener
    from penstock.server.peers import Peers
    from penstock.server.settings import KEYS, Settings
    from penstock.server.tls import Certificates, TlsConnection
    from penstock.server.turns import Metered, Turns
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] == "penstock":
        raise
    raise MissingExtra(f"serving ({error.name})", "serve") from None

BACKLOG = 256
"""Connections that wait to be accepted."""

Accept = Callable[[socket.socket, Callable[[], asyncio.BaseProtocol]], Any]


class Server(uvicorn.Server):
    """On SIGTERM it refuses new requests and reports not ready for a while, finishes those it has, and closes."""

    def __init__(self, config: uvicorn.Config, accept: Accept, limits: LimitsMiddleware, drain: float) -> None:
        super().__init__(config)
        self._accept, self._limits, self._drain = accept, limits, drain
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup([])
        self.servers = [self._accept(listener, self._connection) for listener in sockets or ()]

    def _connection(self) -> asyncio.BaseProtocol:
        kind: Callable[..., asyncio.BaseProtocol] = self.config.http_protocol_class
        return kind(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Shut down: gently on the first signal, at once on the second. The signal is not raised again afterwards, as
        uvicorn would: to be stopped is no failure."""
        if self._loop is None or self._limits.draining:
            self.should_exit = self.force_exit = True
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # what is in progress is cancelled: no error
        elif sig == signal.SIGINT:  # Ctrl-C: there is no load balancer to wait for
            self._limits.draining = self.should_exit = True
        else:
            self._loop.call_soon_threadsafe(self.drain)

    def drain(self) -> None:
        """Begin to shut down. To be called on the event loop."""
        if not self._limits.draining:
            self._limits.draining = True
            asyncio.get_running_loop().call_later(self._drain, self._exit)

    def _exit(self) -> None:
        self.should_exit = True


def serve(
    index_url: str,
    settings: Settings | None = None,
    *,
    model: str | None = None,
    rerank: str | Reranker | None = None,
    opener: Opener | None = None,
    out: TextIO | None = None,
    started: Callable[[Server, str], object] | None = None,
) -> None:
    """Serve an index until SIGTERM or Ctrl-C. The url is printed, and passed to `started`.

    A missing index or model, or a port in use, is raised before anything listens. `rerank` is the reranker of searches
    that ask for one. `opener` opens the index with its models, if not `open_index`.
    """
    settings = settings or Settings()
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    certificates = None
    if settings.tls_cert and settings.tls_key:
        certificates = Certificates(settings.tls_cert, settings.tls_key, settings.tls_password)
        certificates.warn()
    metrics = Metrics()
    reranker = find_reranker(rerank) if isinstance(rerank, str) else rerank
    served = ServedIndex(index_url, opener or (lambda url: open_index(url, model)), settings, metrics, reranker)
    served.open()
    try:
        api = Api(served, settings, metrics)
        listener = _listen(settings.host, settings.port)
        peers, turns, trusts = Peers(), Turns(), Proxies(settings.trusted_proxies).trusts
        config = uvicorn.Config(
            Metered(api.app, turns, trusts),
            http=_connections(partial(Connection, peers=peers, turns=turns, trusts=trusts), certificates, turns),
            loop="asyncio",  # not one that another package brings in: they differ in what they buffer
            ws="none",
            log_level="error",  # no line for each invalid request
            access_log=False,
            proxy_headers=False,  # any client could send such headers
            server_header=False,
            lifespan="off",
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=max(1, round(settings.seconds)),
        )
        accept = partial(Listener, peers=peers, turns=turns, trusts=trusts)
        server = Server(config, accept, api.limits, settings.drain)
        url = _url(settings.host, listener, tls=certificates is not None)
        records = "-" in (settings.access_log, settings.audit_log)  # then stdout is for machines
        print(f"serving {served.url} at {url}", file=out or (sys.stderr if records else sys.stdout), flush=True)
        if not settings.guarded and not is_loopback(settings.host):
            message = (
                f"penstock: anybody who can reach {url} can search the index; set {KEYS} or --keys to require a key"
            )
            print(message, file=sys.stderr, flush=True)
        if started is not None:
            started(server, url)
        with api.administration.running(url, served):
            server.run([listener])
    finally:
        served.close()


def _connections(make: Callable[..., Connection], certificates: Certificates | None, turns: Turns) -> Any:
    """Makes the protocol of each connection that is accepted."""

    def connect(**options: Any) -> asyncio.BaseProtocol:
        connection = make(**options)
        if certificates is None:
            return connection
        return TlsConnection(asyncio.get_running_loop(), connection, certificates.context(), turns)

    return connect


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        # Without the protocol's number asyncio leaves Nagle's algorithm on: 40 ms a response.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise UsageError(f"cannot listen at host {host}: {error.strerror}") from None
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise UsageError(f"cannot listen at {host}, port {port}: {error.strerror}") from None
    return listener


def _url(host: str, listener: socket.socket, tls: bool) -> str:
    port = listener.getsockname()[1]
    return f"http{'s' if tls else ''}://{f'[{host}]' if ':' in host else host}:{port}/"
