"""Fetching pages of the web: as `fetching` does, and politely.

Few requests to a host at a time, with pauses, by its robots.txt, and none while it is away; compressed, and only where
the page has changed since; what nothing reads is refused by its content type, before its body is fetched.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from http.client import HTTPResponse
from threading import Lock
from typing import IO, BinaryIO
from urllib.parse import quote, urldefrag, urlsplit, urlunsplit

from penstock.core.errors import LimitExceeded, ParseError, SourceError, Unsupported, UsageError
from penstock.support import decoding, fetching
from penstock.support.addresses import near, public
from penstock.support.cuts import Connections
from penstock.support.fetching import (
    PRINTABLE,
    Fetcher,
    HostAway,
    HostBusy,
    Judge,
    NotStored,
    Pieces,
    good,
    spooled,
)
from penstock.support.hosts import Hosts
from penstock.support.robots import Robots

BYTES = 32 << 20
SECONDS = 30.0
AGENT = "penstock"
ACCEPT = "text/html,application/xhtml+xml,application/pdf;q=0.9,*/*;q=0.8"
DOCUMENTS = (
    *("text/*", "application/*xml", "application/*json", "application/pdf", "application/rtf", "message/rfc822"),
    *("application/msword", "application/vnd.ms-*", "application/vnd.openxmlformats*", "application/vnd.oasis.*"),
    *("application/epub+zip", "application/octet-stream"),
)
"""Content types of what may have text."""
WAITING = 2
"""Threads that wait for one host; more are told that it is busy."""
URL = 8000
"""Characters of the longest url."""
_VALIDATOR = 512
"""Characters of the longest etag that is kept."""
_text = re.compile(r"[ -~]+").fullmatch
_media_type = re.compile(r"[a-z0-9.+-]+/[a-z0-9.+-]+").fullmatch
_PORTS = {"http": 80, "https": 443}
_contact = re.compile(r"(?:https?://|mailto:)[!-'*-~]+").fullmatch


@dataclass(frozen=True, slots=True)
class Page:
    content: BinaryIO
    """At its beginning; to be closed."""
    media_type: str | None
    """What the host says it is, without parameters."""
    url: str
    """Where it was found, after redirects."""
    etag: str = ""
    modified: str = ""
    """The header Last-Modified, as it is."""
    unchanged: bool = False
    """It is as it was when it had the etag or date that were given: the content is empty."""


class PageFetcher:
    """Fetches pages, for many threads at once. Each call blocks; a page that fails raises what Fetcher raises, HostAway
    where its host was not asked, Forbidden where its robots.txt forbids it, and Unsupported for what nothing reads.

    It takes `seconds` at most from a page's turn on, and as much as a robots.txt may take for each host before that. By
    default few threads wait for one host, so that a host that hangs does not hold all of a pool: the others raise
    HostAway, and their pages are to be tried again. `Hosts()` has them wait.
    """

    def __init__(
        self,
        *,
        most: int = BYTES,
        seconds: float = SECONDS,
        judge: Judge = public,
        agent: str = AGENT,
        contact: str = "",
        robots: bool = True,
        media_types: Sequence[str] = DOCUMENTS,
        hosts: Hosts | None = None,
    ) -> None:
        """`most` bytes of a page, as it is sent and decompressed; `contact`: the url or mailto: of whoever fetches, for
        the hosts' logs; `media_types`: patterns of those to fetch. Raises MissingExtra where robots.txt is to be
        heeded and its parser is not installed."""
        if not _text(agent):
            raise UsageError(f"invalid agent {agent!r}: expected printable ASCII characters")
        check_contact(contact)
        self._media_types, self._most = media_types, most
        self._hosts = hosts or Hosts(waiting=WAITING)
        self._connections = Connections()
        self._headers = {
            "User-Agent": f"{agent} (+{contact})" if contact else agent,
            "Accept": ACCEPT,
            "Accept-Encoding": decoding.accepted(),
        }
        self._fetcher = Fetcher(
            most,
            seconds,
            judge,
            manners=self._hosts,
            headers=self._headers,
            permit=self._permit,
            connections=self._connections,
        )
        self._robots = Robots(self._fetcher, self._hosts, agent) if robots else None

    def __call__(self, url: str, *, etag: str = "", modified: str = "") -> Page:
        """Fetch a page, or learn that it is as it was when it had that etag or date."""
        url = canonical(url)
        asked = {"If-None-Match": etag, "If-Modified-Since": modified}
        conditions = {name: value for name, value in asked.items() if _kept(value)}
        answer = _Answer(self._media_types, self._most)
        with spooled() as file:
            found = replace(self._fetcher, headers=self._headers | conditions, receive=answer.receive)(url, file)
        return Page(
            file,
            answer.media_type,
            canonical(found),
            answer.etag or (etag if answer.unchanged else ""),
            answer.modified or (modified if answer.unchanged else ""),
            answer.unchanged,
        )

    def interrupt(self) -> None:
        """Have the calls in progress give up: they raise SourceError, and no host is blamed. From another thread."""
        self._hosts.interrupt()
        if self._robots is not None:
            self._robots.interrupt()
        self._connections.cut()

    def _permit(self, url: str) -> None:
        if len(url) > URL:
            raise ParseError(f"its url has more than {URL:,} characters")
        if self._robots is not None:
            self._robots(url)


@dataclass(slots=True)
class _Answer:
    media_types: Sequence[str]
    most: int
    media_type: str | None = None
    etag: str = ""
    modified: str = ""
    unchanged: bool = False

    def receive(self, response: HTTPResponse, pieces: Pieces, into: IO[bytes]) -> None:
        self.etag = _kept(response.getheader("ETag", ""))
        self.modified = _kept(response.getheader("Last-Modified", ""))
        if response.status == 304:
            self.unchanged = True
            return
        self.media_type = _bare(response.getheader("Content-Type", ""))
        if self.media_type is not None and not any(fnmatch(self.media_type, each) for each in self.media_types):
            raise Unsupported(f"it is sent as {self.media_type}, which nothing here reads")
        if response.length is not None and response.length > self.most:
            raise LimitExceeded(f"it has {response.length:,} bytes, more than {self.most:,}")
        for piece in decoding.decoded(pieces, response.getheader("Content-Encoding", ""), self.most):
            try:
                into.write(piece)
            except OSError as error:
                raise NotStored(f"this machine has no room for it: {error.strerror}") from None


def canonical(url: str) -> str:
    """The url as it is asked for: without a fragment, in ASCII, its host in lower case, without the scheme's own port.
    Raises ParseError for what is no url to fetch."""
    with suppress(ValueError):  # a port that is no number, brackets, a host that no name can be
        parts = urlsplit(urldefrag(url.strip()).url)
        host = (parts.hostname or "").encode("idna" if not url.isascii() else "ascii").decode()
        host = f"[{host}]" if ":" in host else host
        if parts.port is not None and parts.port != _PORTS.get(parts.scheme):
            host += f":{parts.port}"
        if parts.username is not None:
            host = f"@{host}"  # not to be fetched, and not to be repeated
        path, query = (quote(part, safe=PRINTABLE) for part in (parts.path or "/", parts.query))
        url = urlunsplit((parts.scheme, host, path, query, ""))
        if good(url):
            return url
    raise ParseError("invalid url: expected one such as https://example.org/page, without a user")


def check_contact(contact: str) -> None:
    """Raise UsageError unless it is a url or mailto:, or nothing."""
    if contact and not _contact(contact):
        raise UsageError(
            f"invalid contact {contact!r}: expected a url such as https://example.org/bot or mailto:me@example.org"
        )


def _kept(validator: str) -> str:
    validator = validator.strip()
    return validator if len(validator) <= _VALIDATOR and _text(validator) else ""


def _bare(content_type: str) -> str | None:
    """The media type without its parameters; None where there is none."""
    bare = content_type.replace(",", ";").partition(";")[0].strip().lower()
    return bare if _media_type(bare) else None


# ---------------------------------------------------------------- openers


@dataclass(frozen=True, slots=True)
class PageOpener:
    """Opens a page, fetched to its end. All those of a process heed the same limits of hosts. Raises HostBusy where
    the document is to be set aside for a while."""

    url: str = field(repr=False)
    private: bool = False
    """It may be in one's own network."""
    robots: bool = False
    contact: str = ""

    def __call__(self) -> BinaryIO:
        try:
            return fetcher_of(self.private, self.robots, self.contact)(self.url).content
        except HostBusy:
            raise
        except HostAway as error:  # for its failures: of which this is one
            raise SourceError(str(error)) from None


_hosts = Hosts(waiting=WAITING)
_fetchers: dict[tuple[bool, bool, str], PageFetcher] = {}
_lock = Lock()


def interrupt() -> None:
    """Have all openers of this process that are fetching give up: they raise SourceError. From another thread."""
    with _lock:
        several = list(_fetchers.values())
    for each in several:
        each.interrupt()


def fetcher_of(private: bool, robots: bool, contact: str) -> PageFetcher:
    key = private, robots, contact
    with _lock:
        if key not in _fetchers:
            judge = near if private else public
            _fetchers[key] = PageFetcher(
                most=fetching.BYTES, judge=judge, robots=robots, contact=contact, media_types=("*",), hosts=_hosts
            )
        return _fetchers[key]
