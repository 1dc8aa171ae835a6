"""Urls of indexes: of a collection on a server, or of a folder or file of this machine.

    qdrant://host:6333/notes?tls=1      the collection `notes` of a server
    chroma://./stores/notes             the collection `notes` in the folder ./stores; or ///srv/stores/notes

Keys and passwords are not part of them: they come from environment variables, which every sink names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from penstock.core.errors import UsageError
from penstock.core.precision import BITS, INT8

QUANTIZATION = "quantization"
"""The option of a url by which a server keeps copies of dense vectors in fewer bits."""


@dataclass(frozen=True, slots=True)
class Address:
    url: str
    """Without secrets, so it can be shown."""
    names: tuple[str, ...]
    """The parts of the path on a server: a database and a table, or one collection. In a folder, its last part."""
    host: str = ""
    port: int = 0
    user: str = ""
    folder: Path | None = None
    """Of this machine, instead of a host."""
    options: dict[str, str] = field(default_factory=dict)

    @property
    def tls(self) -> bool:
        return self.options.get("tls", "0") in ("1", "true", "yes")

    @property
    def quantization(self) -> str:
        """The precision of the copies of dense vectors by which a server makes its choice; "" where it has none."""
        return self.options.get(QUANTIZATION, "")


def parse(
    url: str, scheme: str, example: str, *, port: int, names: int = 1, options: frozenset[str], hostless: bool = False
) -> Address:
    """Parse the url of a collection. Raises UsageError, which shows an example, where it is not one.

    `hostless`: a url without a host names a server too, which the client knows from its environment, and perhaps the
    first of the names with it.
    """
    if not url.lower().startswith(f"{scheme}://") or re.search(r"[\0-\x1f\x7f\ud800-\udfff]", url):
        raise UsageError(f"invalid url {_printable(url)!r}: expected one like {example}")
    head, _, query = url.partition("?")
    rest = head[len(scheme) + 3 :]
    known = _options(query, options, head)
    if rest.startswith((".", "~") if hostless else ("/", ".", "~")):
        folder, _, name = rest.rstrip("/").rpartition("/")
        if not folder or name in ("", ".", ".."):
            raise UsageError(f"{head!r} names no collection; expected a url like {example}")
        return Address(url, (name,), folder=_encodable(Path(folder).expanduser(), url), options=known)
    try:
        parts = urlsplit(head)
        host, number = parts.hostname or "", parts.port or port
    except ValueError:
        raise UsageError(f"invalid host or port in {_printable(head)!r}: expected a url like {example}") from None
    if parts.password is not None:
        raise UsageError(f"{_printable(head)!r} has a password in it; set the environment variable instead")
    path = tuple(unquote(part) for part in parts.path.strip("/").split("/") if part)
    fewest = names if host else names - 1
    if not fewest <= len(path) <= names or not (host or hostless):
        raise UsageError(f"invalid url {head!r}: expected one like {example}")
    return Address(url, path, host, number, unquote(parts.username or ""), options=known)


def local(url: str, scheme: str, example: str, *, options: frozenset[str] = frozenset()) -> tuple[Path, dict[str, str]]:
    """Parse the url of a folder or file: its path and its options. Raises UsageError where it is not one."""
    head, separator, tail = url.partition("://")
    path, _, query = tail.partition("?")
    if not separator or head.lower() != scheme or not path.strip():
        raise UsageError(f"invalid url {url!r}: expected one like {example}")
    if "\0" in path:
        raise UsageError(f"invalid url {url!r}: its path has a NUL byte")
    return _encodable(Path(path).expanduser(), url), _options(query, options, url)


def _encodable(path: Path, url: str) -> Path:
    """The path. Raises UsageError where it is not UTF-8, as the drivers of stores take it."""
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError:
        shown = url.encode(errors="backslashreplace").decode()
        raise UsageError(f"{shown}: its path is not UTF-8: use another folder or name for the index") from None
    return path


def _options(query: str, known: frozenset[str], url: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := sorted(options.keys() - known):
        raise UsageError(f"{url}: unknown option {unknown[0]!r}; expected {', '.join(sorted(known)) or 'none'}")
    if (chosen := options.get(QUANTIZATION, INT8)) not in (INT8, BITS):
        raise UsageError(f"{url}: invalid {QUANTIZATION} {chosen!r:.50}; expected {INT8} or {BITS}")
    return options


def _printable(url: str) -> str:
    return re.sub(r"://[^/@]*@", "://", url).partition("?")[0]
