"""Plain sockets: what no client library would send."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.server.serving import Client

HEALTH = (b"GET /healthz HTTP/1.1", b"Host: localhost", b"")


@contextmanager
def line(client: Client, *begins: bytes, source: str = "127.0.0.1") -> Iterator[socket.socket]:
    """A plain socket; all of 127.0.0.0/8 are this machine's addresses."""
    address = (client.base_url.host, client.base_url.port or 80)
    with socket.create_connection(address, source_address=(source, 0)) as connection:
        connection.settimeout(30)  # however busy the machine is
        connection.sendall(b"\r\n".join(begins))
        yield connection


def rest(connection: socket.socket) -> bytes:
    """All bytes until the server closes; those before a reset may be lost."""
    whole = b""
    with suppress(ConnectionResetError):
        while piece := connection.recv(1 << 16):
            whole += piece
    return whole


def reply(connection: socket.socket) -> bytes:
    """One response with a Content-Length, to its end; what has come where the connection ends before."""
    whole = b""
    while True:
        head, end, body = whole.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        if end and (not length or len(body) >= int(length[1])):
            return whole
        if not (piece := connection.recv(1 << 16)):
            return whole
        whole += piece
