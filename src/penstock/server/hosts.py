"""Names that the server answers to, and web pages that may ask it.

Without a check of Host, a page whose name is pointed at the server's address (DNS rebinding) reads the index. Without
one of Origin, any page sends searches.
"""

from __future__ import annotations

from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.types import Scope

from penstock.core.errors import UsageError
from penstock.server.heads import split_host
from penstock.server.problems import Problem

LOCAL = frozenset({"localhost", "127.0.0.1", "[::1]"})
PROBES = frozenset({"/healthz", "/readyz"})
"""Answered under any name: a load balancer has its own for the server."""
_PORTS = {"http": "80", "https": "443"}


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def parse_allowed_host(text: str) -> str:
    """A name, an address, *.example.org, or * for all. Raises UsageError."""
    name = text.lower().removeprefix("*.")
    if text == "*":
        return text
    if ":" in name and not name.startswith("["):
        name = f"[{name}]"
    parts = split_host(name)
    if parts is None or parts[1]:
        raise UsageError(f"invalid allowed host {text!r}: expected a name without a port, *.example.org, or * for any")
    return f"*.{parts[0]}" if text.startswith("*.") else parts[0]


class Hosts:
    """Judges the Host, and the origin, of each request.

    Listening on loopback, only loopback's names are accepted, and `allowed`. Elsewhere all addresses are, too (no name
    is looked up for them); and all names, where keys are required and no names are given.
    """

    def __init__(
        self, host: str, allowed: tuple[str, ...], origins: tuple[str, ...], keys: bool, page: frozenset[str]
    ) -> None:
        names = [parse_allowed_host(name) for name in allowed]
        self._local = is_loopback(host)
        self._any = "*" in names or (keys and not self._local and not names)
        self._endings = tuple(name[1:] for name in names if name.startswith("*."))
        self._names = LOCAL | set(names) | {own[0] for own in [split_host(_bracketed(host))] if own}
        self._origins = frozenset(origins)
        self._open = page | PROBES | {"/", "/openapi.json", "/health"}

    def admit(self, scope: Scope) -> None:
        """Raises Problem."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if scope["path"] not in PROBES:
            self._check_host(host)
        if scope["path"] not in self._open and scope["method"] != "OPTIONS":
            self._check_origin(scope, headers, host)

    def _check_host(self, host: str) -> None:
        if (parts := split_host(host)) is None:
            raise Problem(400, "bad_request", "invalid Host: expected a name or an address, with or without a port")
        name = parts[0].removesuffix(".")
        if self._any or name in self._names or name.endswith(self._endings or ("\n",)):
            return
        if not self._local and (name.startswith("[") or _is_address(name)):
            return
        raise Problem(
            421,
            "wrong_host",
            f"this server does not answer to the name {name!r}: start it with --allowed-host {name} if it should",
        )

    def _check_origin(self, scope: Scope, headers: Headers, host: str) -> None:
        site = headers.get("sec-fetch-site", "")
        if site == "same-origin":  # a page cannot set this header
            return
        if (origin := headers.get("origin")) is not None:
            if origin not in self._origins and not _same(origin, host):
                raise _refused(f"pages of {origin[:200]!r}")
        elif site in ("cross-site", "same-site"):
            # Requests without an origin: of images, frames and links. A link is followed by a person.
            link = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
            shown = bool(self._origins) and scope["path"].startswith("/v1/thumbs/")
            if not (scope["method"] in ("GET", "HEAD") and (link or shown)):
                raise _refused("pages of other origins")


def _refused(who: str) -> Problem:
    message = f"{who} may not use this server: start it with --origin ORIGIN for those that should"
    return Problem(403, "forbidden_origin", message)


def _same(origin: str, host: str) -> bool:
    """Whether an origin has this Host; of either scheme, as a proxy may take TLS off."""
    scheme, separator, authority = origin.partition("://")
    own, other = split_host(host), split_host(authority)
    if not separator or scheme not in _PORTS or own is None or other is None:
        return False
    port = _PORTS[scheme]
    return own[0] == other[0] and (own[1] or port) == (other[1] or port)


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
