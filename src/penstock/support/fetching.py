"""Fetching urls that others wrote: from public addresses only, and bounded in bytes and time.

The name is looked up once, each address is judged, and the connection goes to an address that was judged; so are those
that a redirect leads to. What is final (404, not public, no url) is a ParseError, what is too much a
LimitExceeded; what may succeed later is a SourceError, or a TimeoutError where it took too long.
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import cache
from tempfile import SpooledTemporaryFile
from typing import IO, Any, BinaryIO, cast
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from penstock.core.errors import LimitExceeded, ParseError, SourceError, Transient
from penstock.support.addresses import near, public
from penstock.support.cuts import Connections, Cuttable, Lookup

REDIRECTS = 4
SECONDS = 30.0
BYTES = 128 << 20
AT_ONCE = 2
"""Connections to one host."""
LONGEST = 3600.0
"""The most seconds for which a host is left alone, whatever it asks for."""
_HOSTS = 4096
"""The most hosts whose Retry-After is remembered."""
_IN_MEMORY = 4 << 20

Judge = Callable[[str], bool]
_CONDITIONS = frozenset({"If-None-Match", "If-Modified-Since"})
PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))
_plain = re.compile(r"[!-~]+").fullmatch


class NotPublic(ParseError): ...


class Refused(SourceError):
    """The host answers, and this document it does not give (a status 4xx)."""


class HostAway(SourceError, Transient):
    """Nothing was asked, as the host is to be left alone: `retry_after` seconds where that is known."""


class HostBusy(HostAway):
    """The host answers, and others wait for it already, or it asked for a pause: the document is to be set aside for
    `retry_after` seconds."""


class NotStored(SourceError):
    """There is no room for it on this machine."""


Pieces = Iterator[bytes]
Receive = Callable[[http.client.HTTPResponse, Pieces, IO[bytes]], None]
"""Takes an answer: its head, the pieces of its body as they come, and the file that they are for."""


class Manners:
    """Limits for each host: few connections at once, and none before the time of its Retry-After. Safe to use from
    several threads, which wait for their turn here.

    A host is named as in its urls, with the port if that says one."""

    longest_wait: float = LONGEST
    """The most seconds for which a thread waits here when a host asks for it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._busy: dict[str, int] = {}
        self._until: dict[str, float] = {}

    @contextmanager
    def turn(self, host: str) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._busy.get(host, 0) < AT_ONCE)
            self._busy[host] = self._busy.get(host, 0) + 1
        try:
            yield
        finally:
            with self._changed:
                self._busy[host] -= 1
                if not self._busy[host]:
                    del self._busy[host]
                self._changed.notify_all()

    def leave_alone(self, host: str, seconds: float) -> None:
        now = time.monotonic()
        with self._changed:
            if len(self._until) >= _HOSTS:
                self._until = {name: until for name, until in self._until.items() if until > now}
            if len(self._until) < _HOSTS:
                self._until[host] = now + min(seconds, LONGEST)

    def wait(self, host: str) -> float:
        """Seconds until it may be asked again."""
        with self._changed:
            return max(0.0, self._until.get(host, 0.0) - time.monotonic())

    def rest(self, seconds: float) -> None:
        """Wait within a turn."""
        time.sleep(seconds)


@dataclass(frozen=True, slots=True)
class Fetcher:
    """Fetches into a file. Blocks: for threads."""

    most: int = BYTES
    seconds: float = SECONDS
    """The most, from the first turn to the last byte, redirects included."""
    judge: Judge = public
    accept: str = "*/*"
    manners: Manners | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    """More headers of the request, and others than those that it has anyway."""
    redirects: int = REDIRECTS
    permit: Callable[[str], None] | None = None
    """Called with each url before it is asked for, those of redirects too. Raises what forbids it."""
    receive: Receive | None = None
    """Takes the answer, instead of writing its body to the file as it is."""
    connections: Connections | None = None

    def __call__(self, url: str, into: IO[bytes]) -> str:
        """Fetch it; returns the url that it was found at, after redirects."""
        judge = self.judge
        came_from = ""
        end = 0.0
        for _ in range(self.redirects + 1):
            parts = _parts(url)
            if came_from == "https" and parts.scheme != "https":
                raise ParseError("it leads away from https")
            if self.permit is not None:
                self.permit(url)
            host = parts.netloc.lower()
            with self.manners.turn(host) if self.manners else nullcontext():
                # The clock starts after the wait for a turn.
                end = end or time.monotonic() + self.seconds
                while True:
                    self._keep_quiet(host, end)
                    addresses = self._addresses(parts, judge, end)
                    try:
                        location = self._one(parts, addresses, end, into)
                        break
                    except _Busy as busy:
                        self._heed(host, busy, end)
                    # A ValueError: what a host sends, or is called, that the standard library cannot take.
                    except (OSError, http.client.HTTPException, ValueError) as error:
                        _left(end)
                        raise SourceError(f"it cannot be fetched ({type(error).__name__})") from None
            if location is None:
                return url
            if all(map(public, addresses)):
                judge = public  # a public host must not lead into the own network
            came_from, url = parts.scheme, _joined(url, location)
        raise ParseError(f"it leads on more than {self.redirects} times")

    def _keep_quiet(self, host: str, end: float) -> None:
        if self.manners is None or not (wait := self.manners.wait(host)):
            return
        if wait >= min(_left(end), self.manners.longest_wait):
            raise HostBusy(f"its host asked to be left alone for {wait:.0f} seconds more", retry_after=wait)
        self.manners.rest(wait)

    def _heed(self, host: str, busy: _Busy, end: float) -> None:
        """Come again later, if the host says when: in a moment here, otherwise in the next run."""
        if self.manners is not None and busy.wait is not None:
            wait = max(1.0, busy.wait)
            self.manners.leave_alone(host, wait)
            if wait < min(_left(end), self.manners.longest_wait):
                return
        raise SourceError(f"it answers with status {busy.status}")

    def _addresses(self, parts: SplitResult, judge: Judge, end: float) -> list[str]:
        lookup = Lookup(parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
        try:
            with self._cuttable(lookup):
                addresses = lookup.addresses(_left(end))
        except TimeoutError:
            raise
        except (OSError, UnicodeError):
            # So it is for every host where there is no network.
            raise SourceError("its host is not known") from None
        # A private address among public ones is an attempt to get inside.
        if not addresses or not all(map(judge, addresses)):
            raise NotPublic("it leads to an address that is not public")
        return list(dict.fromkeys(addresses))

    def _cuttable(self, call: Cuttable) -> AbstractContextManager[None]:
        return nullcontext() if self.connections is None else self.connections.holding(call)

    def _one(self, parts: SplitResult, addresses: Sequence[str], end: float, into: IO[bytes]) -> str | None:
        """Fetch it; returns the url that it redirects to, if it does."""
        connection = _Pinned(parts, addresses, end)
        with self._cuttable(connection):
            return self._answer(connection, parts, end, into)

    def _answer(self, connection: _Pinned, parts: SplitResult, end: float, into: IO[bytes]) -> str | None:
        # Timeouts of a socket begin anew with every byte: this one does not.
        clock = threading.Timer(_left(end), connection.cut)
        clock.daemon = True
        clock.start()
        try:
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            headers = {"User-Agent": "penstock", "Accept": self.accept, "Accept-Encoding": "identity"}
            connection.request("GET", target, headers={**headers, **self.headers})
            with connection.getresponse() as response:
                if response.status in (301, 302, 303, 307, 308) and (location := response.getheader("Location")):
                    # Many hosts send the characters of a url as they are; as UTF-8, that is read as Latin-1.
                    return quote(location.encode("latin-1", "replace"), safe=PRINTABLE)
                if response.status in (429, 503):
                    raise _Busy(response.status, retry_after(response.getheader("Retry-After")))
                if response.status in (404, 410):
                    raise ParseError(f"it answers with status {response.status}: there is no such document")
                unchanged = response.status == 304 and not _CONDITIONS.isdisjoint(self.headers)
                if response.status != 200 and not unchanged:
                    kind = Refused if response.status // 100 == 4 else SourceError
                    raise kind(f"it answers with status {response.status}")
                (self.receive or _plain_body)(response, self._pieces(response, end), into)
                return None
        finally:
            clock.cancel()
            connection.close()

    def _pieces(self, response: http.client.HTTPResponse, end: float) -> Pieces:
        expected, size = response.length, 0
        while True:
            piece = response.read1(1 << 16)
            _left(end)
            if not piece:
                break
            size += len(piece)
            if size > self.most:
                raise LimitExceeded(f"it has more than {self.most:,} bytes")
            yield piece
        if expected is not None and size != expected:
            raise SourceError(f"it broke off after {size:,} of {expected:,} bytes")


def _plain_body(response: http.client.HTTPResponse, pieces: Pieces, into: IO[bytes]) -> None:
    if (coding := response.getheader("Content-Encoding", "identity").lower()) != "identity":
        raise SourceError(f"it is sent as {coding[:20]}, without being asked to")
    for piece in pieces:
        into.write(piece)


@dataclass(frozen=True, slots=True)
class Fetched:
    """Opens a url, fetched to its end."""

    url: str = field(repr=False)
    private: bool = False
    """It may be in one's own network."""

    def __call__(self) -> BinaryIO:
        with spooled() as file:
            Fetcher(judge=near if self.private else public, manners=_manners)(self.url, file)
        return file


@contextmanager
def spooled() -> Iterator[BinaryIO]:
    """A file for what is fetched: at its beginning afterwards, for the caller to close, or closed where that failed."""
    file = SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115
    try:
        yield cast(BinaryIO, file)
    except BaseException:
        file.close()
        raise
    file.seek(0)


_manners = Manners()
"""For all that this process fetches."""


class _Busy(Exception):
    def __init__(self, status: int, wait: float | None) -> None:
        super().__init__(status)
        self.status, self.wait = status, wait


class _Pinned(http.client.HTTPConnection):
    """Connects to an address that was judged, whatever the name means by now."""

    def __init__(self, parts: SplitResult, addresses: Sequence[str], end: float) -> None:
        self._secure = parts.scheme == "https"
        super().__init__(parts.hostname or "", parts.port or (443 if self._secure else 80))
        self._end = end
        if self._secure:
            self.default_port = 443
        self._addresses = addresses
        self._line: socket.socket | None = None
        self._given_up = False

    def cut(self) -> None:
        """End the connection, from another thread. The socket may have passed to the response, so it is kept here."""
        self._given_up = True
        if self._line is not None:
            with suppress(OSError):  # it has ended meanwhile
                # Not ssl's own, which takes its state away from the thread that reads.
                socket.socket.shutdown(self._line, socket.SHUT_RDWR)

    def connect(self) -> None:
        for number, address in enumerate(self._addresses, 1):
            left = _left(self._end)
            line = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
            line.settimeout(left)
            self._line = line
            try:
                line.connect((address, self.port))
                break
            except OSError:
                line.close()
                if self._given_up or number == len(self._addresses):
                    raise
        assert self._line is not None
        self.sock: Any = self._line
        if self._secure:
            # Kept before the handshake, so that this can be cut as well.
            line = _tls().wrap_socket(self._line, server_hostname=self.host, do_handshake_on_connect=False)
            self.sock = self._line = line
            line.do_handshake()


@cache
def _tls() -> ssl.SSLContext:
    """One for all: it reads every certificate that this machine trusts."""
    return ssl.create_default_context()


def good(url: str) -> bool:
    """Whether it is a url to fetch: of http or https, without a user, quoted properly."""
    try:
        parts = urlsplit(url)
        fit = parts.scheme in ("http", "https") and parts.hostname and parts.username is None
        _ = parts.port
    except ValueError:
        return False
    return bool(fit) and _plain(url) is not None


def _parts(url: str) -> SplitResult:
    if not good(url):
        raise ParseError("invalid url: expected one such as https://example.org/a.jpg, without a user")
    return urlsplit(url)


def _joined(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError:
        raise ParseError("it leads on to what is no url") from None


def _left(end: float) -> float:
    if (left := end - time.monotonic()) <= 0:
        raise TimeoutError("it took too long to fetch")
    return left


def retry_after(header: str | None) -> float | None:
    """The seconds of a Retry-After header, which may be a date."""
    if header is None:
        return None
    try:
        if header.strip().isdigit():
            return float(header)
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
