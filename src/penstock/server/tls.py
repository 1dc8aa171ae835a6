"""TLS by files, which are read again when they change."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import sys
import time
from asyncio.sslproto import SSLProtocol
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from penstock.core.errors import UsageError
from penstock.server.connections import PIECE, Connection
from penstock.server.settings import TLS_PASSWORD
from penstock.server.turns import Turns

log = logging.getLogger("penstock.server")

HANDSHAKE = 10
"""Seconds for a client to shake hands."""
EVERY = 1.0
"""Seconds between two looks at the files."""
_EXPIRED, _NOT_YET = 10, 9  # X509_V_ERR_CERT_HAS_EXPIRED, X509_V_ERR_CERT_NOT_YET_VALID


class Certificates:
    """The context for new connections, from a certificate (with its chain) and a key, as PEM files."""

    def __init__(self, cert: Path, key: Path, password: str = "") -> None:
        self._cert, self._key, self._password = cert, key, password
        self._files = self._status()
        self._context = self._load()
        self._looked = time.monotonic()

    def context(self) -> ssl.SSLContext:
        """A renewed certificate is taken once it fits its key; until then the one before serves on."""
        now = time.monotonic()
        if now - self._looked >= EVERY:
            self._looked = now
            if (files := self._status()) != self._files:
                self._files = files
                try:
                    self._context = self._load()
                    log.info("the certificate %s has been read again", self._cert)
                except UsageError as error:
                    log.warning("the certificate before serves on: %s", error)
        return self._context

    def warn(self) -> None:
        """Say so on stderr where clients will not accept the certificate for its dates."""
        if problem := validity(self._context, self._cert):
            print(f"penstock: the certificate {self._cert} {problem}; clients will refuse it", file=sys.stderr)

    def _status(self) -> list[tuple[int, int, int] | None]:
        return [_status(path) for path in (self._cert, self._key)]

    def _load(self) -> ssl.SSLContext:
        for option, path in (("--tls-cert", self._cert), ("--tls-key", self._key)):
            try:
                with open(path, "rb"):
                    pass
            except OSError as error:
                raise UsageError(f"cannot read {path} ({option}): {error.strerror}") from None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION  # a handshake that nobody would be charged for
        context.set_alpn_protocols(["http/1.1"])
        asked: list[None] = []

        def password() -> str:
            asked.append(None)
            return self._password

        try:
            # With a password at hand OpenSSL does not ask for one on the terminal.
            context.load_cert_chain(self._cert, self._key, password=password)
        except (ssl.SSLError, OSError, ValueError) as error:
            raise UsageError(self._explain(error, bool(asked))) from None
        return context

    def _explain(self, error: Exception, encrypted: bool) -> str:
        reason = str(getattr(error, "reason", "") or "")
        if "MISMATCH" in reason:
            return f"the key {self._key} does not belong to the certificate {self._cert}: expected the one it is for"
        if encrypted:
            state = "is wrong" if self._password else "is not set"
            return f"the key {self._key} is encrypted and {TLS_PASSWORD} {state}: set it to the key's password"
        return f"{self._cert} and {self._key} are no certificate and key: expected PEM files ({reason or error})"


def validity(context: ssl.SSLContext, cert: Path) -> str | None:
    """What is wrong with the certificate's dates: judged by a client that trusts the certificate itself."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        client.load_verify_locations(cert)
    except (ssl.SSLError, OSError):
        return None
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server, server_hostname="localhost"),
        context.wrap_bio(to_server, to_client, server_side=True),
    )
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                return {_EXPIRED: "has expired", _NOT_YET: "is not valid yet"}.get(error.verify_code)
            except ssl.SSLError:
                return None
    return None


class TlsConnection(SSLProtocol):
    """Counts a connection from when it is accepted, and bounds the time until hands are shaken. A handshake takes the
    event loop as long as several requests: it has its turns, and its client is charged."""

    max_size = PIECE  # 256 KiB otherwise, in each connection

    def __init__(
        self, loop: asyncio.AbstractEventLoop, connection: Connection, context: ssl.SSLContext, turns: Turns
    ) -> None:
        self._shaken: asyncio.Future[Any] = loop.create_future()
        self._shaken.add_done_callback(_seen)
        super().__init__(loop, connection, context, self._shaken, server_side=True, ssl_handshake_timeout=HANDSHAKE)
        self._connection, self._turns = connection, turns
        self._turn: Callable[[], None] | None = None

    def connection_made(self, transport: Any) -> None:
        self._socket: asyncio.Transport = transport
        refused = self._connection.enter(transport) is not None
        super().connection_made(transport)
        if refused:
            transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._turn is not None:
            self._turn()
        self._connection.leave()
        super().connection_lost(exc)

    def buffer_updated(self, nbytes: int) -> None:
        if self._shaken.done() or self._connection.trusted:
            super().buffer_updated(nbytes)
            return
        self._turn = self._turns.take(self._connection.network, partial(self._take_turn, nbytes))
        if self._turn is None:
            self._shake(nbytes)
        else:  # what has come stays in the buffer
            self._socket.pause_reading()

    def _take_turn(self, nbytes: int) -> None:
        self._turn = None
        if not self._socket.is_closing():
            self._socket.resume_reading()
            self._shake(nbytes)

    def _shake(self, nbytes: int) -> None:
        began = time.thread_time()
        super().buffer_updated(nbytes)
        self._turns.spend(self._connection.network, time.thread_time() - began)


def _seen(done: asyncio.Future[Any]) -> None:
    """A handshake that fails is the client's affair: nothing is logged."""
    if not done.cancelled():
        done.exception()


def _status(path: Path) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
