"""Images by url, for who lets the server fetch them: from public addresses only, and never much or long.

The name is looked up once, each address is judged, and the connection goes to an address that was judged; so are those
that a redirect leads to.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

from penstock.serve.problems import Problem
from penstock.serve.settings import Settings

REDIRECTS = 4
SECONDS = 8.0

Judge = Callable[[str], bool]


def public(address: str) -> bool:
    """Whether the address is one of the internet, not of this machine or of a network around it."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        # Addresses of IPv4 in the clothes of IPv6: mapped, 6to4, and NAT64's prefix.
        inner = ip.ipv4_mapped or ip.sixtofour
        if inner is None and ip in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if ip.teredo is not None or ip.is_site_local:
            return False
        if inner is not None:
            return public(str(inner))
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


class Fetcher:
    def __init__(self, settings: Settings, judge: Judge = public) -> None:
        self._allowed, self._most, self._judge = settings.fetch_urls, settings.body, judge
        self._seconds = min(SECONDS, settings.seconds)

    def __call__(self, url: str) -> bytes:
        """The bytes at the url. Raises Problem. Blocks: for threads."""
        if not self._allowed:
            raise Problem(403, "forbidden", "image_url: this server fetches nothing; send the image itself")
        end = time.monotonic() + self._seconds
        came_from = ""
        for _ in range(REDIRECTS + 1):
            parts = _parts(url)
            if came_from == "https" and parts.scheme != "https":
                raise _no("it leads away from https")
            try:
                found = self._one(parts, end)
            except (OSError, http.client.HTTPException) as error:
                _left(end)
                raise _no(f"it cannot be fetched ({type(error).__name__})") from None
            if isinstance(found, bytes):
                return found
            came_from, url = parts.scheme, urljoin(url, found)
        raise _no(f"it leads on more than {REDIRECTS} times")

    def _one(self, parts: SplitResult, end: float) -> bytes | str:
        """The body, or where it is said to be."""
        connection = _Pinned(parts, self._addresses(parts), _left(end))
        # Timeouts of a socket begin anew with every byte: this one does not.
        clock = threading.Timer(_left(end), connection.cut)
        clock.daemon = True
        clock.start()
        try:
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            headers = {"User-Agent": "penstock", "Accept": "image/*", "Accept-Encoding": "identity"}
            connection.request("GET", target, headers=headers)
            with connection.getresponse() as response:
                if response.status in (301, 302, 303, 307, 308) and (there := response.getheader("Location")):
                    return there
                if response.status != 200:
                    raise _no(f"it answers with status {response.status}")
                return self._body(response, end)
        finally:
            clock.cancel()
            connection.close()

    def _body(self, response: http.client.HTTPResponse, end: float) -> bytes:
        pieces: list[bytes] = []
        size = 0
        while True:
            piece = response.read1(1 << 16)
            _left(end)
            if not piece:
                return b"".join(pieces)
            size += len(piece)
            if size > self._most:
                raise Problem(413, "too_large", f"image_url: it has more than {self._most:,} bytes")
            pieces.append(piece)

    def _addresses(self, parts: SplitResult) -> list[str]:
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise _no("its host is not known") from None
        addresses = [str(entry[4][0]) for entry in found]
        # One private address among public ones is no accident.
        if not addresses or not all(map(self._judge, addresses)):
            raise Problem(403, "forbidden", "image_url: it leads to an address that is not public")
        return list(dict.fromkeys(addresses))


class _Pinned(http.client.HTTPConnection):
    """Connects to an address that was judged, whatever the name means by now."""

    def __init__(self, parts: SplitResult, addresses: Sequence[str], seconds: float) -> None:
        self._secure = parts.scheme == "https"
        super().__init__(parts.hostname or "", parts.port or (443 if self._secure else 80), timeout=seconds)
        if self._secure:
            self.default_port = 443
        self._addresses = addresses
        self._line: socket.socket | None = None

    def cut(self) -> None:
        """From another thread. The socket may have passed to the response, so it is kept here."""
        if self._line is not None:
            with suppress(OSError):  # it has ended meanwhile
                self._line.shutdown(socket.SHUT_RDWR)

    def connect(self) -> None:
        for number, address in enumerate(self._addresses, 1):
            try:
                self._line = socket.create_connection((address, self.port), self.timeout)
                break
            except OSError:
                if number == len(self._addresses):
                    raise
        assert self._line is not None
        self.sock: Any = self._line
        if self._secure:
            self.sock = self._line = ssl.create_default_context().wrap_socket(self._line, server_hostname=self.host)


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.username is None
        _ = parts.port
    except ValueError:
        good = False
    if not good or not url.isascii() or any(letter <= " " for letter in url):
        raise _no("a url is wanted such as https://example.org/a.jpg, without a user")
    return parts


def _left(end: float) -> float:
    if (left := end - time.monotonic()) <= 0:
        raise Problem(504, "timeout", "image_url: it took too long to fetch")
    return left


def _no(why: str) -> Problem:
    return Problem(400, "bad_request", f"image_url: {why}")
