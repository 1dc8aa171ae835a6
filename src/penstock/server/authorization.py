"""Which key a request has, and whether that may do what it asks."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.types import Scope

from penstock.server.clients import client_of
from penstock.server.keys import EMBED, METRICS, SEARCH, Key, Keyring, WrongKeys
from penstock.server.metrics import Metrics
from penstock.server.problems import Problem, too_many_requests

ROUTES: Mapping[str, str | None] = {"/metrics": METRICS, "/v1/embeddings": EMBED, "/v1/status": None}
"""The scope that a path needs, where it is not `search`; None: any key."""
REFUSAL = "penstock.refusal"
"""The name under which a request's scope has why its key was refused, for the audit log."""


class Authorization:
    def __init__(self, keyring: Keyring, metrics: Metrics) -> None:
        self._keyring, self._metrics = keyring, metrics
        self._wrong = WrongKeys()

    @property
    def required(self) -> bool:
        return bool(self._keyring)

    def authenticate(self, scope: Scope) -> Key:
        """The key of a request. Raises Problem.

        A network that sent many wrong keys has to wait, and keys of the environment with it: people chose them, so
        they might be guessed. Generated keys cannot be, so they pass: others may share the address of a guesser.
        """
        if not (secret := _secret(Headers(scope=scope))):
            raise _refused(scope, "missing key")
        network = client_of(scope).name
        wait = self._wrong.wait(network)
        key = self._keyring.find(secret, generated_only=wait > 0)
        if key is None and wait:
            scope[REFUSAL] = "many wrong keys"
            self._metrics.count("penstock_refused_total", reason="keys")
            raise too_many_requests("too many wrong keys from this address", wait)
        if key is None:
            self._wrong.add(network)
            raise _refused(scope, "wrong key")
        if key.expired:
            raise _refused(scope, f"expired key {key.name}")
        return key

    def authorize(self, scope: Scope, key: Key) -> None:
        """Check that the key may use the path. Raises Problem."""
        needed = ROUTES.get(scope["path"], SEARCH)
        if needed is None or needed in key.scopes:
            return
        scope[REFUSAL] = f"no scope {needed}"
        raise Problem(
            403,
            "forbidden",
            f"the key {key.name} has no scope {needed}: use one that was made with --scope {needed}",
            {"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{needed}"'},
        )


def may(scope: Scope, needed: str) -> bool:
    """Whether a request's key has the scope; each request may where the server has no keys."""
    key = client_of(scope).key
    return key is None or needed in key.scopes


def has_secret(scope: Scope) -> bool:
    """Whether a request has a key, be it right or wrong."""
    return bool(_secret(Headers(scope=scope)))


def _secret(headers: Headers) -> bytes:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    sent = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
    return sent.encode("latin-1")


def _refused(scope: Scope, why: str) -> Problem:
    scope[REFUSAL] = why
    return Problem(
        401,
        "unauthorized",
        f"{why}: send one as Authorization: Bearer KEY, or as X-API-Key: KEY",
        {"WWW-Authenticate": "Bearer"},
    )
