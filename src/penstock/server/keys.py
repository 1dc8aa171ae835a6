"""API keys: what each may do, and which one a secret belongs to."""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

SEARCH, EMBED, METRICS = "search", "embed", "metrics"
SCOPES = {
    SEARCH: "searches, facets, points and thumbnails",
    EMBED: "vectors of texts, by /v1/embeddings",
    METRICS: "/metrics, and in /v1/status where the index is and what its ledger says",
}
"""What a key may be for. Every key reads the rest of /v1/status. There is none for writing, as no route writes."""
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
PREFIX = "psk_"
"""How a generated secret begins, so that scanners for secrets recognize it."""
MAX_WRONG = 20
"""Wrong keys that a network may send within PERIOD."""
PERIOD = 60.0
MAX_NETWORKS = 10_000
"""Networks whose wrong keys are counted; the one that began first is forgotten."""


@dataclass(frozen=True, slots=True)
class Key:
    name: str
    """For logs and metrics; the secret itself is kept nowhere."""
    scopes: frozenset[str] = frozenset(SCOPES)
    expires: datetime | None = None
    generated: bool = False
    """Whether its secret is 256 random bits, and not what somebody chose."""

    @property
    def expired(self) -> bool:
        return self.expires is not None and self.expires <= datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class KeptKey:
    """A key with the hash of its secret."""

    key: Key
    digest: bytes
    created: datetime | None = None


def digest(secret: bytes) -> bytes:
    """Hash a secret. SHA-256 is enough at rest: what is kept there are hashes of 256 random bits, which no dictionary
    has, and a slow hash would let anybody keep the server busy. Secrets that people chose are never written down."""
    return hashlib.sha256(secret).digest()


class Keyring:
    """The keys that the server accepts: those of the environment, and those of a file, which may change."""

    def __init__(self, secrets: Sequence[str], kept: Sequence[KeptKey] | None = None) -> None:
        """`kept`: the keys of the file; None where there is no file."""
        self._required = bool(secrets) or kept is not None
        self._chosen = [
            KeptKey(Key(f"environment:{number}"), digest(secret.encode())) for number, secret in enumerate(secrets, 1)
        ]
        self._kept = tuple(kept or ())

    def __bool__(self) -> bool:
        """Whether a key is required: also where the last one of the file was revoked."""
        return self._required

    @property
    def names(self) -> list[str]:
        return [one.key.name for one in (*self._chosen, *self._kept)]

    def replace(self, kept: Iterable[KeptKey]) -> None:
        """Take the keys of the file as they are now. Safe to call from any thread."""
        self._kept = tuple(kept)

    def find(self, secret: bytes, *, generated_only: bool = False) -> Key | None:
        """The key with this secret. All are compared to their ends, so that timing reveals nothing."""
        sent, match = digest(secret), None
        for one in self._kept if generated_only else (*self._chosen, *self._kept):
            if hmac.compare_digest(sent, one.digest):
                match = one.key
        return match


class WrongKeys:
    """Counts the wrong keys of each network, so that secrets which people chose cannot be guessed."""

    def __init__(self) -> None:
        self._windows: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def wait(self, network: str) -> float:
        """Seconds for which this network has sent too many; 0 where it has not."""
        until, count = self._windows.get(network, (0.0, 0))
        return max(0.0, until - time.monotonic()) if count >= MAX_WRONG else 0.0

    def add(self, network: str) -> None:
        now = time.monotonic()
        until, count = self._windows.get(network, (0.0, 0))
        if until <= now:
            self._windows.pop(network, None)
            until, count = now + PERIOD, 0
        self._windows[network] = (until, count + 1)
        if len(self._windows) > MAX_NETWORKS:
            self._windows.popitem(last=False)
