"""Where a collection is: on a server, or in a folder or file of this machine.

    qdrant://host:6333/notes?tls=1      the collection `notes` of a server
    chroma://./stores/notes             the collection `notes` in the folder ./stores; or ///srv/stores/notes

Keys and passwords are not part of it: they come from environment variables, which every adapter names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from penstock.core.errors import UsageError


@dataclass(frozen=True, slots=True)
class Address:
    url: str
    """To show: it holds no secret."""
    names: tuple[str, ...]
    """What the path says on a server: a database and a table, or one collection. In a folder, the last part of it."""
    host: str = ""
    port: int = 0
    user: str = ""
    folder: Path | None = None
    """Of this machine, instead of a host."""
    options: dict[str, str] = field(default_factory=dict)

    @property
    def tls(self) -> bool:
        return self.options.get("tls", "0") in ("1", "true", "yes")


def parse(url: str, scheme: str, example: str, *, port: int, names: int = 1, options: frozenset[str]) -> Address:
    """Raises UsageError, which shows an example, where the url cannot be meant."""
    if not url.lower().startswith(f"{scheme}://") or re.search(r"[\0-\x1f\x7f]", url):
        raise UsageError(f"{_shown(url)!r} does not name a place; write it like {example}")
    head, _, query = url.partition("?")
    rest = head[len(scheme) + 3 :]
    given = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := sorted(given.keys() - options):
        raise UsageError(f"{head}: unknown option {unknown[0]!r}; there are: {', '.join(sorted(options)) or 'none'}")
    if rest.startswith(("/", ".", "~")):
        folder, _, name = rest.rstrip("/").rpartition("/")
        if not folder or name in ("", ".", ".."):
            raise UsageError(f"{head!r} names no collection; write it like {example}")
        return Address(url, (name,), folder=Path(folder).expanduser(), options=given)
    try:
        parts = urlsplit(head)
        host, number = parts.hostname or "", parts.port or port
    except ValueError:
        raise UsageError(f"{_shown(head)!r} has no such port; write it like {example}") from None
    if parts.password is not None:
        raise UsageError(f"{_shown(head)!r}: a url is no place for a password; set the environment variable")
    path = tuple(unquote(part) for part in parts.path.strip("/").split("/") if part)
    if not host or len(path) != names:
        raise UsageError(f"{head!r} does not name a place; write it like {example}")
    return Address(url, path, host, number, unquote(parts.username or ""), options=given)


def _shown(url: str) -> str:
    return re.sub(r"://[^/@]*@", "://", url).partition("?")[0]
