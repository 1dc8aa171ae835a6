"""What a server is told once, when it starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from penstock.core.errors import UsageError

KEYS = "PENSTOCK_API_KEYS"


@dataclass(frozen=True, slots=True)
class Settings:
    host: str = "127.0.0.1"
    port: int = 8080
    """0: any that is free."""
    roots: tuple[Path, ...] = ()
    """Folders whose images may be shown, if they are in the index."""
    state: Path | None = None
    """The ledger that the status tells of."""
    fetch_urls: bool = False
    """Whether the server may fetch: an image that a search names by its url, and those in the index that have one."""
    origins: tuple[str, ...] = ()
    """Whose web pages may ask: `https://example.org`. None but our own, if nothing is said."""
    keys: tuple[str, ...] = field(default=(), repr=False)
    """Where there are keys, nobody searches without one."""
    rate: float = 0.0
    """Requests a second that one key or address may make; 0: as many as it likes."""
    body: int = 16 << 20
    """The largest request, in bytes."""
    pixels: int = 50_000_000
    seconds: float = 10.0
    """How long a request may take."""
    queue: int = 256
    """Searches inside at once, working or waiting: the next one is told to come again."""
    batch: int = 32
    """Texts that the model gets at once, at most."""
    threads: int = 8
    """Searches of the index at once."""
    drain: float = 2.0
    """Seconds between saying that the end is near and closing the door, so that a load balancer sees it."""
    look: float = 2.0
    """Seconds between two looks at where the index is now."""

    def __post_init__(self) -> None:
        if not 0 <= self.port < 1 << 16:
            raise UsageError(f"port {self.port}: there are 0 to 65535")
        for name in ("body", "pixels", "seconds", "queue", "batch", "threads", "look"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name}: {getattr(self, name)} is not above 0")
        if self.rate < 0:
            raise UsageError(f"rate: {self.rate} is below 0")
        for origin in self.origins:
            parts = urlsplit(origin)
            if parts.scheme not in ("http", "https") or f"{parts.scheme}://{parts.netloc}" != origin:
                raise UsageError(f"{origin!r} is no origin; write it like https://example.org")
        for root in self.roots:
            if not root.is_dir():
                raise UsageError(f"{root} is no folder, so no images can be shown from there")


def keys_from(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The keys that the environment holds. Set, but to nothing, is an accident that must not open the door."""
    if (told := environment.get(KEYS)) is None:
        return ()
    keys = tuple(key for part in told.split(",") if (key := part.strip()))
    if not keys:
        raise UsageError(f"{KEYS} is set but holds no key; unset it to serve without keys")
    return keys
