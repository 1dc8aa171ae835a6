"""What went wrong, as a client is told it: a status and `{"error": {"type", "message"}}`."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from penstock.core.errors import (
    EmbedError,
    LimitExceeded,
    MissingExtra,
    ParseError,
    SinkError,
    SpaceMismatch,
    Unsupported,
    UsageError,
)
from penstock.server.answers import Json

log = logging.getLogger("penstock.server")

_KINDS: tuple[tuple[type[BaseException], int, str], ...] = (
    (LimitExceeded, 413, "too_large"),
    (Unsupported, 415, "unsupported_image"),
    (ParseError, 400, "bad_image"),
    (MissingExtra, 501, "not_installed"),
    (UsageError, 400, "bad_request"),
    (EmbedError, 400, "cannot_be_embedded"),
    (SpaceMismatch, 503, "index_unavailable"),
    (SinkError, 503, "index_unavailable"),
    (TimeoutError, 504, "timeout"),
)


LONGEST = 500
"""Characters of a message: names that a client made up may be in it."""
AWAY = "the index cannot be asked at the moment; the log says why"
"""What a store's driver says is for the log alone: it tells of places, statements and hosts."""


class Problem(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, kind: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.kind, self.message, self.headers = status, kind, message, dict(headers or {})

    def response(self) -> Json:
        message = self.message if len(self.message) <= LONGEST else f"{self.message[:LONGEST]} …"
        told = {"error": {"type": self.kind, "message": message}}
        return Json(told, self.status, headers=self.headers)


INTERNAL = Problem(500, "internal", "something went wrong here; the server's log says what")


def bad(message: str) -> Problem:
    return Problem(400, "bad_request", message)


def busy(message: str, seconds: float) -> Problem:
    return Problem(429, "too_many_requests", message, {"Retry-After": str(max(1, round(seconds)))})


def problem(error: BaseException) -> Problem | None:
    """The answer to an error that was foreseen; None for a fault of our own, whose text is for the log alone."""
    if isinstance(error, Problem):
        return error
    for kind, status, name in _KINDS:
        if isinstance(error, kind):
            said = " ".join(str(error).split())
            if status == 503:
                log.warning("%s: %.500s", name, said)
                return Problem(status, name, AWAY, {"Retry-After": "1"})
            return Problem(status, name, said or "it took too long")
    return None
