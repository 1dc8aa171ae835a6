"""Who makes a request: an address, and a key where the server has any."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network

from starlette.types import Scope

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


def network(address: str) -> str:
    """The address; of IPv6 its /64, which is what one subscriber gets."""
    try:
        ip = ip_address(address)
    except ValueError:  # a socket without addresses
        return address
    if isinstance(ip, IPv6Address):
        return str(ip.ipv4_mapped or ip_network((ip.packed[:8] + bytes(8), 64)))
    return str(ip)
