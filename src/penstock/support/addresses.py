"""Which addresses may be fetched from: those of the internet, or of one's own network, and never those from which a
cloud hands its machines their keys."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def _networks(names: Iterable[str]) -> tuple[Network, ...]:
    return tuple(map(ip_network, names))


METADATA = _networks(
    (
        "169.254.0.0/16",  # AWS, Azure, Google, Oracle, IBM, DigitalOcean, Hetzner, OpenStack, Tencent, Scaleway, ...
        "168.63.129.16/32",  # Azure's platform
        "192.0.0.192/32",  # Oracle Cloud Classic
        "100.100.100.200/32",  # Alibaba
        "fe80::/10",  # OpenStack: fe80::a9fe:a9fe
        "fd00:ec2::/32",  # AWS: its metadata, time, names, and keys of pods
        "fd20:ce::/32",  # Google
        "fd00:c1::/32",  # Oracle
        "fd00:42::/32",  # Scaleway
        "fd00:a9fe:a9fe::/48",  # Akamai
    )
)
"""Addresses, beside those that no cloud uses, from which machines of a cloud get their settings and keys."""
OWN = _networks(("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "::1/128", "fc00::/7"))
"""This machine and private networks."""
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_SPECIAL = _networks(
    (
        "192.0.0.0/24",
        "192.88.99.0/24",
        "198.18.0.0/15",
        # IPv6: protocols (Teredo, ORCHID, benchmarks), documentation
        "2001::/23",
        "2001:db8::/32",
        "3fff::/20",
    )
)
"""Networks for protocols, tests and documentation; what Python knows of them depends on its version."""
_NAT64 = IPv6Network("64:ff9b::/96")
"""What stands before an IPv4 address that a gateway leads to."""
_ISATAP = (0x00005EFE, 0x02005EFE)
"""What stands before an IPv4 address that a tunnel of the network leads to."""


def public(address: str) -> bool:
    """Whether the address is one of the internet, not of this machine or of a network around it."""
    ip = _bare(address)
    if _among(ip, METADATA) or _among(ip, _SPECIAL):
        return False
    if isinstance(ip, IPv6Address):
        if ip not in _GLOBAL_UNICAST:
            return False
        if int(ip) >> 32 & 0xFFFFFFFF in _ISATAP and not public(str(_last(ip))):
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def near(address: str) -> bool:
    """Whether it is public or of one's own network. Not of the link: there a cloud hands its machines their keys."""
    ip = _bare(address)
    return not _among(ip, METADATA) and (_among(ip, OWN) or public(address))


def _bare(address: str) -> Address:
    """The address that is reached; of an IPv4 one that is written within an IPv6 one, the IPv4 one."""
    ip = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv4Address):
        return ip
    if ip.ipv4_mapped is not None or ip in _NAT64:
        return _last(ip)
    return ip if ip.sixtofour is None else ip.sixtofour


def _last(ip: IPv6Address) -> IPv4Address:
    return IPv4Address(int(ip) & 0xFFFFFFFF)


def _among(ip: Address, networks: Iterable[Network]) -> bool:
    return any(ip.version == network.version and ip in network for network in networks)
