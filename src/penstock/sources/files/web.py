"""One file at an http:// or https:// address."""

from __future__ import annotations

import base64
import errno
import http.client
import re
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from tempfile import TemporaryFile
from typing import IO, BinaryIO, cast
from urllib.parse import unquote

from penstock.core.errors import SourceError
from penstock.core.records import Item, Unreadable, Upsert
from penstock.sources.files.address import Address
from penstock.sources.files.remote import unknown

TIMEOUT = 30.0
LARGEST = 8 << 30
"""More than this is not a document but a server that does not stop."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows, but never from https to anything else."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if req.type == "https" and not newurl.lower().startswith("https://"):
            raise urllib.error.HTTPError(req.full_url, code, "redirected away from https", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _ask(address: Address, method: str) -> http.client.HTTPResponse:
    """The response to a request; OSError without a secret in it."""
    try:
        _, _, tail = address.url.partition("#")[0].partition("://")
        user, _, target = tail.rpartition("@") if address.user else ("", "", tail)
        request = urllib.request.Request(f"{address.scheme}://{target}", method=method)
        request.add_header("User-Agent", "penstock")
        if user:
            token = base64.b64encode(unquote(user).encode()).decode()
            # Unredirected: no other host may see it.
            request.add_unredirected_header("Authorization", f"Basic {token}")
        response = urllib.request.build_opener(_Redirects).open(request, timeout=TIMEOUT)
        return cast(http.client.HTTPResponse, response)
    except urllib.error.HTTPError as error:
        error.close()
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise OSError(f"{address.uri}: {address.cause(error)}") from None


@dataclass(frozen=True, slots=True)
class WebContent:
    """Fetches the file, to the end, into a temporary one: a network stream cannot seek, and may stop short."""

    url: str = field(repr=False)

    def __call__(self) -> BinaryIO:
        address = Address(self.url, {})
        with _ask(address, "GET") as response:
            if (coding := response.headers.get("Content-Encoding", "identity").lower()) != "identity":
                raise OSError(errno.EIO, f"sent as {coding} without being asked to", address.uri)
            spool = TemporaryFile()  # noqa: SIM115 - the caller closes it
            try:
                while piece := response.read(1 << 20):
                    spool.write(piece)
                    if spool.tell() > LARGEST:
                        raise OSError(errno.EFBIG, f"larger than {LARGEST >> 30} GiB", address.uri)
                length = _length(response.headers)
                if length is not None and spool.tell() != length:
                    raise OSError(errno.EIO, f"broke off after {spool.tell()} of {length} bytes", address.uri)
            except BaseException as error:
                spool.close()
                if isinstance(error, http.client.HTTPException):
                    raise OSError(f"{address.uri}: {address.cause(error)}") from None
                raise
            spool.seek(0)
            return cast(BinaryIO, spool)


class WebFile:
    """One root: a single file."""

    def __init__(self, url: str) -> None:
        self._address = Address(url, {})
        self.uri = self._address.uri
        self.passed_over: Counter[str] = Counter()
        self.select_container: Callable[[str], bool] | None = None

    def check(self) -> None:
        if self.lookup(self.uri) is None:
            raise SourceError(f"not found: {self.uri}")

    def walk(self) -> Iterator[Upsert | Unreadable]:
        try:
            item = self.lookup(self.uri)
        except SourceError as error:
            yield Unreadable(self.uri, str(error), listing=True)
            return
        if item is not None:
            yield Upsert(item)

    def holds(self, uri: str) -> bool:
        return uri == self.uri

    def passes_over(self, uri: str) -> str:
        return ""

    def lookup(self, uri: str) -> Item | None:
        try:
            headers = self._headers()
        except urllib.error.HTTPError as error:
            if error.code in (404, 410):
                return None
            raise SourceError(f"cannot read {self.uri}: HTTP {error.code}") from None
        except OSError as error:
            raise SourceError(f"cannot read {self._address.cause(error)}") from None
        size = headers.get("Content-Length", "")
        version = headers.get("ETag") or headers.get("Last-Modified")
        media_type = headers.get_content_type() if "Content-Type" in headers else None
        return Item(
            self.uri,
            f"{size}-{version}" if version else unknown(),
            WebContent(self._address.url),
            None if "Content-Encoding" in headers else _length(headers),
            media_type,
            modified=_seconds(headers.get("Last-Modified", "")),
        )

    def _headers(self) -> http.client.HTTPMessage:
        try:
            with _ask(self._address, "HEAD") as response:
                return response.headers
        except urllib.error.HTTPError as error:
            if error.code in (404, 410):
                raise
        # Some servers have no HEAD, and a url signed for GET answers to nothing else.
        with _ask(self._address, "GET") as response:
            return response.headers


def _seconds(date: str) -> float | None:
    from email.utils import parsedate_to_datetime

    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None


def _length(headers: http.client.HTTPMessage) -> int | None:
    """The length that a server says. One that is no number, or of thousands of digits, is none."""
    length = headers.get("Content-Length", "")
    return int(length) if re.fullmatch("[0-9]{1,18}", length) else None
