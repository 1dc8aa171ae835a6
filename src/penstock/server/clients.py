"""Who makes a request: an address, and a key where the server has any."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from starlette.datastructures import Headers
from starlette.types import Scope

from penstock.core.errors import UsageError
from penstock.server.keys import Key

CLIENT = "penstock.client"
"""The name under which a request's scope has its client."""


@dataclass(frozen=True, slots=True)
class Client:
    address: str
    key: Key | None = None

    @property
    def name(self) -> str:
        """What limits and queues count by: the key, else the network of the address."""
        return f"key {self.key.name}" if self.key else network(self.address)


def client_of(scope: Scope) -> Client:
    client: Client = scope[CLIENT]
    return client


@lru_cache(1024)
def network(address: str) -> str:
    """The address; of IPv6 its /64, which is what one subscriber gets."""
    ip = parse_address(address)
    if isinstance(ip, IPv6Address):
        return str(ip_network((ip.packed[:8] + bytes(8), 64)))
    return address if ip is None else str(ip)  # a socket without addresses has none


Network = IPv4Network | IPv6Network


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Addresses and networks such as 10.0.0.1 and 10.0.0.0/8. Raises UsageError."""
    networks = []
    for text in texts:
        try:
            networks.append(ip_network(text))
        except ValueError as error:
            raise UsageError(
                f"invalid trusted proxy {text!r}: expected an address or a network such as 10.0.0.0/8 ({error})"
            ) from None
    return tuple(networks)


class Proxies:
    """The proxies that are trusted to say who their clients are: in X-Forwarded-For, -Proto and -Host."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = parse_networks(networks)

    def trusts(self, address: str) -> bool:
        if not self._networks or (ip := parse_address(address)) is None:
            return False
        return any(ip in network for network in self._networks)

    def resolve(self, scope: Scope) -> None:
        """Replace the scope's client, scheme and Host by those that a trusted proxy received."""
        if not self._networks or not self.trusts(address := str((scope.get("client") or ("?",))[0])):
            return
        headers = Headers(scope=scope)
        hops = [hop.strip() for hop in ",".join(headers.getlist("x-forwarded-for")).split(",")]
        # Each proxy adds the address that it saw at the end. What stands before an untrusted one may be made up.
        for hop in reversed(hops):
            if (ip := parse_address(hop)) is None:
                break
            address = str(ip)
            if not self.trusts(address):
                break
        scope["client"] = (address, 0)
        if (scheme := last(headers, "x-forwarded-proto").lower()) in ("http", "https"):
            scope["scheme"] = scheme
        if host := last(headers, "x-forwarded-host"):
            fields = [(name, value) for name, value in scope["headers"] if name != b"host"]
            scope["headers"] = [(b"host", host.encode("latin-1")), *fields]


def last(headers: Headers, name: str) -> str:
    """The last entry of a header that is a list: the one that the nearest proxy added."""
    return ",".join(headers.getlist(name)).rpartition(",")[2].strip()


def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """An IP address, perhaps with a port; None where it is not one."""
    text = text.partition("%")[0]
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        ip = ip_address(text)
    except ValueError:
        return None
    return getattr(ip, "ipv4_mapped", None) or ip
