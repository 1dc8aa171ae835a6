"""What a host's robots.txt forbids, by RFC 9309: read by Protego (the extra `pages`), kept for a day.

There is none (a status 4xx, but 429): all is allowed. It cannot be read (5xx, no answer): nothing is, until it answers;
the rules that were read before go on to hold.
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from http.client import HTTPResponse
from importlib import import_module
from io import BytesIO
from threading import Lock
from typing import IO, Any
from urllib.parse import urlsplit

from penstock.core.errors import MissingExtra, ParseError, SourceError
from penstock.support.decoding import decoded
from penstock.support.fetching import Fetcher, HostAway, Pieces, Refused
from penstock.support.hosts import Hosts

BYTES = 500 << 10
"""What is read of a robots.txt; rules beyond do not hold."""
REDIRECTS = 5
SECONDS = 10.0
FRESH = 86_400.0
"""Seconds for which rules hold before they are read again."""
AGAIN = 60.0
"""Seconds until a robots.txt that could not be read is asked for again."""
ORIGINS = 4096
"""The most hosts whose rules are kept."""
KEPT = 2 << 20
"""The most characters of rules that are kept: parsed, those of a hostile host take seventy times as much."""
_ANOTHER = "another"
_MORE = 1 << 20
_AGENT = re.compile(r"\s*user(?:-|\s*)agent\s*(?::|\s)\s*([^#]*)", re.IGNORECASE)
_RULE = re.compile(r"\s*(?:dis)?allow\s*:|\s*crawl-delay\s*:", re.IGNORECASE)
_TOKEN = re.compile(r"[A-Za-z_-]+")


class Forbidden(ParseError):
    """The host's robots.txt forbids it."""


def load_parser() -> Any:
    """Protego's class. Raises MissingExtra where it is not installed."""
    try:
        return import_module("protego").Protego
    except ImportError:
        raise MissingExtra("heeding robots.txt", "pages") from None


@dataclass(frozen=True, slots=True)
class _Rules:
    read: float
    """When: monotonic."""
    rules: Any = None
    """Protego's; None where all is allowed."""
    size: int = 0
    trouble: str = ""
    """Why they could not be read: nothing is allowed."""
    delay: float = 0.0

    @property
    def fresh(self) -> bool:
        return time.monotonic() - self.read < (AGAIN if self.trouble else FRESH)


class Robots:
    """The rules of many hosts. Safe to use from several threads: one reads a robots.txt, and as many others wait as may
    wait for the host itself."""

    def __init__(self, fetcher: Fetcher, hosts: Hosts, agent: str) -> None:
        """`fetcher` says how to connect; `agent` is what the crawler calls itself."""
        self._parser = load_parser()
        self._hosts = hosts
        self._fetcher = replace(
            fetcher,
            most=BYTES + _MORE,
            seconds=SECONDS,
            redirects=REDIRECTS,
            permit=None,
            receive=_receive,
            manners=hosts,
        )
        match = _TOKEN.match(agent)
        self._token = match.group().lower() if match else "*"
        self._reading = Hosts(at_once=1, waiting=hosts.waiting, failures=None)
        self._lock = Lock()
        self._kept: OrderedDict[str, _Rules] = OrderedDict()
        self._size = 0

    def __call__(self, url: str) -> None:
        """Raise Forbidden if the page may not be fetched, SourceError where that is not known."""
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc.lower()}"
        if (rules := self._find(origin)) is None:
            with self._reading.turn(origin):
                rules = self._find(origin) or self._read(origin)
        if rules.trouble:
            cause = f"its robots.txt cannot be read ({rules.trouble}): no page is fetched until it answers"
            raise HostAway(cause, retry_after=AGAIN)
        if rules.delay:
            self._hosts.set_delay(parts.netloc.lower(), rules.delay)
        if rules.rules is not None and not rules.rules.can_fetch(url, self._token):
            raise Forbidden("its host's robots.txt forbids it")

    def interrupt(self) -> None:
        self._reading.interrupt()

    def _find(self, origin: str, *, stale: bool = False) -> _Rules | None:
        with self._lock:
            rules = self._kept.get(origin)
            if rules is None or not (stale or rules.fresh):
                return None
            self._kept.move_to_end(origin)
            return rules

    def _read(self, origin: str) -> _Rules:
        try:
            rules = self._fetch(f"{origin}/robots.txt")
        except HostAway:
            raise  # it was not asked
        except (Refused, ParseError):
            rules = _Rules(time.monotonic())
        except (SourceError, TimeoutError) as error:
            before = self._find(origin, stale=True)
            if before is not None and not before.trouble:
                # Asked again soon: fresh as one that could not be read.
                rules = replace(before, read=time.monotonic() - FRESH + AGAIN)
            else:
                rules = _Rules(time.monotonic(), trouble=str(error))
        self._keep(origin, rules)
        return rules

    def _fetch(self, url: str) -> _Rules:
        content = BytesIO()
        self._fetcher(url, content)
        lines = content.getvalue().decode("utf-8-sig", errors="replace").splitlines()
        text = "\n".join(relevant(lines, self._token))
        try:
            rules = self._parser.parse(text)
            delay = float(rules.crawl_delay(self._token) or 0)
        except Exception as error:  # somebody else's code, with what a host sends
            raise SourceError(f"it cannot be parsed: {type(error).__name__}") from None
        return _Rules(time.monotonic(), rules, len(text), delay=delay)

    def _keep(self, origin: str, rules: _Rules) -> None:
        with self._lock:
            if (before := self._kept.pop(origin, None)) is not None:
                self._size -= before.size
            self._kept[origin] = rules
            self._size += rules.size
            while len(self._kept) > ORIGINS or (self._size > KEPT and len(self._kept) > 1):
                self._size -= self._kept.popitem(last=False)[1].size


def _receive(response: HTTPResponse, pieces: Pieces, into: IO[bytes]) -> None:
    """Keep the beginning of a robots.txt, without the line in which it is cut."""
    content = bytearray()
    for piece in decoded(pieces, response.getheader("Content-Encoding", ""), BYTES + _MORE):
        content += piece
        if len(content) > BYTES:
            del content[content.rfind(b"\n", 0, BYTES) + 1 :]
            break
    into.write(content)


def relevant(lines: Iterable[str], token: str) -> Iterator[str]:
    """The lines without the rules of other crawlers, and with one name for all of these: the parser copies each rule
    for each crawler that its group names, which may be ten thousand."""
    wanted = begins = False
    for line in lines:
        if match := _AGENT.match(line):
            agent = _one_of(match[1], token)
            wanted = agent != _ANOTHER or (wanted and begins)
            begins = True
            yield f"User-agent: {agent}"
        else:
            begins = begins and not _RULE.match(line)
            if wanted:
                yield line


def _one_of(agent: str, token: str) -> str:
    match = _TOKEN.match(agent.strip())
    if match is not None and match.group().lower() == token:
        return token
    return "*" if agent.strip() == "*" else _ANOTHER
