"""The settings of a server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from penstock.core.errors import UsageError
from penstock.server.clients import parse_networks
from penstock.server.heads import split_host
from penstock.server.hosts import parse_allowed_host

KEYS = "PENSTOCK_API_KEYS"
TLS_PASSWORD = "PENSTOCK_TLS_KEY_PASSWORD"


@dataclass(frozen=True, slots=True)
class Settings:
    host: str = "127.0.0.1"
    port: int = 8080
    """0: any free port."""
    roots: tuple[Path, ...] = ()
    """Folders whose images may be shown, where they are in the index."""
    state: Path | None = None
    """The ledger that the status reports."""
    fetch_urls: bool = False
    """Whether the server may fetch urls: of images that a search names, and of those in the index."""
    origins: tuple[str, ...] = ()
    """Origins whose web pages may call the API, such as `https://example.org`. By default only the server's own."""
    keys: tuple[str, ...] = field(default=(), repr=False)
    """API keys. Where there are any, searching needs one."""
    rate: float = 0.0
    """Requests a second that one key or address may make; 0: no limit."""
    body: int = 16 << 20
    """The largest request, in bytes."""
    pixels: int = 50_000_000
    """The largest image, in pixels."""
    seconds: float = 10.0
    """The longest that a request may take."""
    queue: int = 256
    """Searches at once, running or waiting; further ones are refused with 429."""
    batch: int = 32
    """Texts that the model embeds at once, at most."""
    threads: int = 8
    """Threads that search the index."""
    drain: float = 2.0
    """Seconds between reporting that the server shuts down and closing its port, so that a load balancer notices."""
    poll: float = 2.0
    """Seconds between two checks of which generation of the index is current, and of the file of keys."""
    keys_file: Path | None = None
    """A file of keys, as `penstock keys` makes it; it is followed as it changes."""
    access_log: str | None = None
    """A file for a line about each request, or `-` for stdout."""
    audit_log: str | None = None
    """A file for who did, or was refused, what matters; or `-` for stdout."""
    log_queries: bool = False
    """Whether the access log has the texts of queries as well."""
    allowed_hosts: tuple[str, ...] = ()
    """Further names that the server answers to: `search.example.org`, `*.example.org`, or `*` for any."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses and networks of proxies that may say who their clients are, by X-Forwarded-For, -Proto and -Host."""
    tls_cert: Path | None = None
    """A PEM file with the certificate and its chain; with `tls_key` the server speaks HTTPS."""
    tls_key: Path | None = None
    tls_password: str = field(default="", repr=False)
    """The password of an encrypted `tls_key`."""
    embeddings: bool = True
    """Whether texts are embedded for clients that want the vectors."""

    def __post_init__(self) -> None:
        if not 0 <= self.port < 1 << 16:
            raise UsageError(f"invalid port {self.port}: expected 0 to 65535")
        for name in ("body", "pixels", "seconds", "queue", "batch", "threads", "poll"):
            if not getattr(self, name) > 0:
                raise UsageError(f"invalid {name} {getattr(self, name)}: expected a number above 0")
        if self.rate < 0:
            raise UsageError(f"invalid rate {self.rate}: expected 0 or more requests a second")
        for origin in self.origins:
            scheme, _, authority = origin.partition("://")
            if scheme not in ("http", "https") or split_host(authority) is None or authority != authority.lower():
                raise UsageError(
                    f"invalid origin {origin!r}: expected a scheme and a host, such as https://example.org"
                )
        for name in self.allowed_hosts:
            parse_allowed_host(name)
        parse_networks(self.trusted_proxies)
        if (self.tls_cert is None) != (self.tls_key is None):
            raise UsageError("TLS needs both a certificate and its key: expected --tls-cert and --tls-key")
        for root in self.roots:
            if not root.is_dir():
                raise UsageError(f"{root} is not a folder, so no images can be shown from it")
        if self.log_queries and self.access_log is None:
            raise UsageError("queries are logged in the access log: set access_log (--access-log FILE) as well")

    @property
    def guarded(self) -> bool:
        """Whether requests need a key."""
        return bool(self.keys) or self.keys_file is not None


def keys_from(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Read the keys from the environment. Set but empty it is an accident, which must not open the server."""
    if (value := environment.get(KEYS)) is None:
        return ()
    keys = tuple(key for part in value.split(",") if (key := part.strip()))
    if not keys:
        raise UsageError(f"{KEYS} is set but holds no key: expected KEY,KEY,...; unset it to serve without keys")
    return keys
