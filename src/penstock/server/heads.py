"""Strict check of a request's head, before a parser sees it.

What two servers in a row could read differently is refused: it is how one request is smuggled inside another.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address

from penstock.server.problems import Problem

MAX_HEAD = 64 << 10
"""Bytes of a request's line and headers."""
MAX_FIELDS = 128
"""Headers of a request."""
END = b"\r\n\r\n"

_request_line = re.compile(rb"(?!CONNECT )[A-Z]{1,20} /[!\"$-~]* HTTP/1\.([01])").fullmatch
_fields = re.compile(rb"(?:[\w!#$%&'*+.^`|~-]+:[\t -~\x80-\xff]*(?:\r\n|\Z))+").fullmatch
_name = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,62}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,62}[a-z0-9_])?)*\.?").fullmatch


@dataclass(frozen=True, slots=True)
class Framing:
    """How the end of a request's body is found."""

    length: int
    chunked: bool


def malformed(expected: str) -> Problem:
    return Problem(400, "bad_request", f"invalid request: expected {expected}")


def check_start(start: bytes) -> None:
    """Check the part of a head that has arrived, so that no time is spent waiting for its end. Raises Problem."""
    line, end, _ = start.partition(b"\r\n")
    if end and not _request_line(line):
        raise malformed("a line such as GET /path HTTP/1.1")
    if not end and not (b"A"[0] <= start[0] <= b"Z"[0]):
        raise malformed("HTTP/1.1")
    ends = start.count(b"\r\n")
    if start.count(b"\n") != ends or start.count(b"\r") - start.endswith(b"\r") != ends:
        raise malformed("lines that end with CR LF")


def check_head(head: bytes) -> Framing:
    """Check a whole head, without the empty line at its end. Raises Problem."""
    line, _, fields = head.partition(b"\r\n")
    if not (match := _request_line(line)):
        raise malformed("a line such as GET /path HTTP/1.1")
    if fields and not _fields(fields):
        raise malformed("headers such as Name: value, one a line")
    lines = fields.split(b"\r\n")
    if len(lines) > MAX_FIELDS:
        raise Problem(431, "too_large", f"the request has {len(lines):,} headers; at most {MAX_FIELDS} are allowed")
    hosts, lengths, codings = [], [], []
    for line in lines:
        name, _, value = line.partition(b":")
        match name.lower():
            case b"host":
                hosts.append(value)
            case b"content-length":
                lengths.append(value.strip(b" \t"))
            case b"transfer-encoding":
                codings.append(value.strip(b" \t").lower())
    old = match[1] == b"0"
    if len(hosts) > 1 or not (hosts or old):
        raise malformed("one Host")
    if hosts and split_host(hosts[0].decode("latin-1").strip(" \t")) is None:
        raise malformed("Host to be a name or an address, with or without a port")
    if codings and (codings != [b"chunked"] or old or lengths):
        raise malformed("either Content-Length or Transfer-Encoding: chunked")
    if lengths and (len(lengths) > 1 or not lengths[0].isdigit() or len(lengths[0]) > 15):
        raise malformed("one Content-Length, in decimal digits")
    return Framing(int(lengths[0]) if lengths else 0, bool(codings))


@lru_cache(256)
def split_host(host: str) -> tuple[str, str] | None:
    """The name or address in lower case, and the port; None where it is not a valid Host."""
    if len(host) > 300:
        return None
    if host.startswith("["):
        name, bracket, rest = host[1:].partition("]")
        try:
            name = f"[{IPv6Address(name)}]"
        except ValueError:
            return None
        if not bracket or "%" in name or (rest and not rest.startswith(":")):
            return None
        port = rest[1:]
    else:
        name, colon, port = host.lower().partition(":")
        if not _name(name) or (colon and not port):
            return None
    if port and not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 1 << 16):
        return None
    return name, port
