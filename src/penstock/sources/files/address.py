"""A url with and without its secrets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from penstock.support.redaction import LEAST, SECRET_NAME


class Address:
    """`uri` is the url as people may see it: without user and password, and without a query that holds a signature
    or a key (such a query is left out whole). `hide` takes them out of what others wrote, such as an error."""

    def __init__(self, url: str, storage: Mapping[str, Any]) -> None:
        self.url = url
        scheme, _, rest = url.partition("://")
        self.scheme = scheme.lower()
        web = self.scheme in ("http", "https")
        # In a store's url `?` and `#` are letters of a key like any other, but for a signature.
        before, _, query = (rest.partition("#")[0] if web else rest).partition("?")
        pairs = [pair.partition("=") for pair in query.split("&")]
        self.signed = any(equals and SECRET_NAME.search(unquote(name)) for name, equals, _ in pairs)
        host, slash, path = (before if web or self.signed else rest).partition("/")
        self.user, _, bare = host.rpartition("@")
        # abfs://container@account names a container, not a person.
        self.host = bare if web or ":" in self.user else host
        self.uri = f"{self.scheme}://{self.host}{slash}{path}"
        if not web:
            self.uri = self.uri.rstrip("/")
        if web and query and not self.signed:
            self.uri += f"?{query}"
        secrets = {*_secrets(storage)}
        if self.host != host:
            secrets |= {self.user, *self.user.split(":", 1)[1:]}
        if self.signed:
            secrets |= {query, *(value for _, _, value in pairs)}
        secrets |= {unquote(secret) for secret in secrets}
        self._secrets = sorted((secret for secret in secrets if len(secret) >= LEAST), key=len, reverse=True)

    def hide(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def cause(self, error: BaseException) -> str:
        """The cause of an error, in a line without secrets."""
        text = " ".join(str(error).split())
        return self.hide(f"{type(error).__name__}: {text}" if text else type(error).__name__)

    def __repr__(self) -> str:
        return self.uri


def _secrets(storage: Mapping[str, Any]) -> Iterator[str]:
    for name, value in storage.items():
        if isinstance(value, Mapping):
            yield from _secrets(value)
        elif isinstance(value, str) and SECRET_NAME.search(str(name)):
            yield value
