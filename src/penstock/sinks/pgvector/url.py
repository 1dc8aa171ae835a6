"""Urls of tables, and names as statements write them."""

from __future__ import annotations

import re
from dataclasses import replace

from penstock.core.errors import UsageError
from penstock.sinks import address

EXAMPLE = "pgvector://user@host:5432/database/table"
MANIFESTS = "penstock_manifests"

_NAME = re.compile(r"(?! )[\w\"' -]*[^\W_][\w\"' -]*(?<! )")


def parse(url: str, more: frozenset[str] = frozenset()) -> address.Address:
    """The address, perhaps with more options. Raises UsageError for names that no table or schema can have, and for two
    hosts."""
    options = frozenset({"tls", "schema", "host", "service"}) | more
    at = address.parse(url, "pgvector", EXAMPLE, port=0, names=2, options=options, hostless=True)
    if at.folder is not None:
        raise UsageError(f"{url!r} does not name a server; write it like {EXAMPLE}")
    for name in (at.names[-1], at.options.get("schema", "public")):
        if not _NAME.fullmatch(name) or len(name.encode()) > 63 or name == MANIFESTS:
            raise UsageError(
                f"invalid name {name!r} in {url!r}: expected letters, digits, spaces, quotes, - and _, at most 63 bytes"
            )
    if (socket := at.options.get("host")) is None:
        return at
    if at.host or at.tls or not socket.startswith("/"):
        raise UsageError(
            f"invalid url {url!r}: `host=` names the folder of a socket, as in"
            " pgvector:///database/table?host=/var/run/postgresql, without another host or tls"
        )
    return replace(at, host=socket)


def identifier(name: str) -> str:
    doubled = name.replace('"', '""')
    return f'"{doubled}"'
