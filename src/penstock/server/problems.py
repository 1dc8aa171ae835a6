"""Errors as clients see them: a status and `{"error": {"type", "message"}}`."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping

from penstock.core.errors import (
    EmbedError,
    LimitExceeded,
    MissingExtra,
    ModelError,
    ParseError,
    SinkError,
    SpaceMismatch,
    Transient,
    Unsupported,
    UsageError,
)
from penstock.jobs.snippets import one_line
from penstock.server.headers import SECURITY
from penstock.server.responses import SafeJSONResponse
from penstock.support.redaction import hide_secrets

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
    # Errors of an index are SinkErrors by the time they come here, so these two can only be a model's.
    (Transient, 503, "model_unavailable"),
    (ModelError, 503, "model_unavailable"),
    (TimeoutError, 504, "timeout"),
)

_UNAVAILABLE = {
    "index_unavailable": "the index is unavailable at the moment; the server's log has the reason",
    "model_unavailable": "the model is unavailable or busy at the moment; the server's log has the reason",
}
"""What a driver says is for the log alone: it names paths, statements, hosts and accounts."""

_FOLDERS = re.compile(r"(?<![\w./-])/(?:[^\s/'\"]+/)+")
"""The folders of an absolute path; the path of a url is not one."""

MAX_MESSAGE = 500
"""Characters of a message: it may repeat names that a client made up."""


def without_folders(text: str) -> str:
    """Leave the last part of each path: a model is named by the folder that it is in, which clients need not know."""
    return _FOLDERS.sub("…/", text)


class Problem(Exception):
    """An error response."""

    def __init__(self, status: int, kind: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.kind, self.message = status, kind, without_folders(message)
        self.headers = dict(headers or {})

    def response(self) -> SafeJSONResponse:
        message = self.message if len(self.message) <= MAX_MESSAGE else f"{self.message[:MAX_MESSAGE]} …"
        # Connections refuse requests without any other layer, so the headers are added here already.
        headers = {**SECURITY, **self.headers}
        return SafeJSONResponse({"error": {"type": self.kind, "message": message}}, self.status, headers=headers)


INTERNAL = Problem(500, "internal", "internal error; the server's log has the details")


def bad_request(message: str) -> Problem:
    return Problem(400, "bad_request", message)


def not_found(message: str) -> Problem:
    return Problem(404, "not_found", message)


def too_many_requests(message: str, seconds: float) -> Problem:
    return Problem(429, "too_many_requests", message, retry_after(seconds))


def retry_after(seconds: float | None) -> dict[str, str]:
    """The Retry-After header: rounded up, and a second where nothing is known."""
    return {"Retry-After": str(max(1, math.ceil(seconds or 0)))}


def problem_of(error: BaseException) -> Problem | None:
    """The response to a foreseen error; None for a fault of the server's, whose text is for the log alone."""
    if isinstance(error, Problem):
        return error
    for kind, status, name in _KINDS:
        if isinstance(error, kind):
            text = one_line(str(error))
            if name in _UNAVAILABLE:
                log.warning("%s: %.500s", name, hide_secrets(text))
                seconds = error.retry_after if isinstance(error, Transient) else None
                return Problem(status, name, _UNAVAILABLE[name], retry_after(seconds))
            return Problem(status, name, text or "the request took too long")
    return None
