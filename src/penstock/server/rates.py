"""Rates of requests, and what a request costs: those that make the model or the index do more count as several."""

from __future__ import annotations

import time

from penstock.jobs.queries import Query
from penstock.jobs.rerank import candidates
from penstock.server.metrics import Metrics
from penstock.server.problems import too_many_requests
from penstock.support.latest import Latest

MAX_CLIENTS = 10_000
"""Clients whose rates are remembered; the one not seen for longest is forgotten."""
MAX_DEBT = 300.0
"""Seconds that a client waits at most, whatever it had done."""
TOKEN_UNIT = 128
"""Tokens of a model that cost as much as a request."""
TEXT_UNIT = 4 * TOKEN_UNIT
"""Bytes of a search's text that do."""
PIXEL_UNIT = 1_000_000
"""Pixels of an image that cost as much as a request."""
BODY_UNIT = 1 << 20
"""Bytes of a body that cost as much as a request."""
HITS_UNIT = 250
"""Hits to rank that cost as much as a request."""
PASSAGES_UNIT = 1
"""Passages to rerank that cost as much as a request: each is some 200 tokens of a model."""
EXAMPLES_UNIT = 25
"""Points to fetch that cost as much as a request."""


class RateLimiter:
    """A token bucket for each client: it fills at `rate` a second, and holds two seconds' worth. 0: no limit.

    A request takes one token when it arrives, and what it costs beyond that when that is known: once it is read, and
    once an image is seen. A request that costs more than the bucket holds is not refused, as no bucket would ever hold
    enough; it leaves the bucket in debt, and its client waits until that is paid.
    """

    def __init__(self, rate: float, metrics: Metrics | None = None) -> None:
        self._rate, self._most, self._metrics = rate, max(1.0, 2 * rate), metrics
        self._buckets: Latest[str, tuple[float, float]] = Latest(MAX_CLIENTS)

    def take(self, client: str) -> float:
        """Take a token: 0 where the client has one, else the seconds until it has."""
        if not self._rate:
            return 0.0
        tokens = self._level(client)
        wait = 0.0 if tokens >= 1 else (1 - tokens) / self._rate
        self._set(client, tokens if wait else tokens - 1)
        return wait

    def admit(self, client: str) -> None:
        """Take a token. Raises Problem where there is none."""
        if not (wait := self.take(client)):
            return
        if self._metrics is not None:
            self._metrics.count("penstock_refused_total", reason="rate")
        raise too_many_requests(
            f"more than {self._rate:g} requests a second; long texts, large images and batches count as several", wait
        )

    def charge(self, client: str, tokens: int) -> None:
        """Take further tokens, for a request that was admitted."""
        if self._rate and tokens > 0:
            self._set(client, max(self._level(client) - tokens, -MAX_DEBT * self._rate))

    def _level(self, client: str) -> float:
        now = time.monotonic()
        tokens, then = self._buckets.get(client, (self._most, now))
        return min(self._most, tokens + (now - then) * self._rate)

    def _set(self, client: str, tokens: float) -> None:
        self._buckets[client] = tokens, time.monotonic()


def of_search(query: Query) -> int:
    """What a search costs. Its images cost more, by `of_pixels`, once their size is known."""
    texts = [*query.minus] if query.text is None else [query.text, *query.minus]
    size = sum(len(text.encode()) for text in texts)
    examples = len(query.like) + len(query.unlike)
    depth = (query.offset + query.k) * (2 if query.distinct else 1) * (2 if query.hybrid else 1)
    passages = candidates(query).k if query.rerank else 0
    # The question is read with each passage, and the longer it is, the more pairs a long passage makes.
    reading = size // TEXT_UNIT + passages * (1 + size // TEXT_UNIT) // PASSAGES_UNIT
    return 1 + reading + depth // HITS_UNIT + examples // EXAMPLES_UNIT + len(query.facets)


def of_pixels(pixels: int) -> int:
    return pixels // PIXEL_UNIT


def to_json() -> dict[str, int]:
    """What costs as much as a request, for the server's status."""
    return {
        "tokens": TOKEN_UNIT,
        "text_bytes": TEXT_UNIT,
        "pixels": PIXEL_UNIT,
        "body_bytes": BODY_UNIT,
        "hits": HITS_UNIT,
        "passages": PASSAGES_UNIT,
        "examples": EXAMPLES_UNIT,
        "facets": 1,
    }
