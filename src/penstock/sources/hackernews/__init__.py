"""Hacker News, followed: `hn://`, `hn://?types=story,comment&backfill=1000`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode

from penstock.core.contracts import Source
from penstock.core.errors import SourceError, Transient, UsageError
from penstock.core.options import Option, chosen, unknown
from penstock.core.records import Change, Item
from penstock.sources.hackernews.agenda import Agenda
from penstock.sources.hackernews.api import Api
from penstock.sources.hackernews.content import Pages
from penstock.sources.hackernews.items import TYPES, document, kinds_of, number_of
from penstock.sources.hackernews.questions import Questions, Wanted
from penstock.sources.hackernews.reading import Choice, Reading
from penstock.support.fetching import good
from penstock.support.pages import check_contact, interrupt
from penstock.support.robots import load_parser

__all__ = ["HackerNews"]

API = "https://hacker-news.firebaseio.com/v0"
SOONEST = 0.05
"""Seconds between two polls, at least."""


def _check_api(url: str) -> None:
    if not good(url) or "?" in url:
        raise UsageError(f"invalid api {url!r}: expected a url such as {API}")


def _check_types(types: tuple[str, ...]) -> None:
    if not types or (wrong := sorted(set(types) - set(TYPES))):
        raise UsageError(f"invalid types {', '.join(wrong) if types else ''!r}: expected some of {', '.join(TYPES)}")


def _check_poll(seconds: float) -> None:
    if seconds < SOONEST:
        raise UsageError(f"invalid poll {seconds!r}: expected at least {SOONEST} seconds")


def _seconds(text: str) -> int:
    """A moment in seconds since 1970. One without a zone is UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"invalid since {text!r}: expected a time such as 2026-11-30 or 2026-11-30T08:00") from None
    return max(1, int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()))


class HackerNews(Source):
    """Stories, comments, asks, jobs and polls of Hacker News: a feed.

    - It begins with what is new, or with the last `backfill` items, the item `start`, or those since a time. Every
      number from there on is asked for; one that the API does not have yet is asked for again for an hour of its
      time, and then listed as a failure. An API that is away is waited for.
    - Edits and deletions are read from the API's list of what has changed, which goes back some minutes. So items are
      read once more at certain ages, and those of the last day after a pause.
    - What is deleted or dead goes out of the index. Scores and numbers of comments are metadata alone.
    - A story with a url has the main text of that page (`pages=0` leaves pages alone). A page that cannot be fetched or
      read is listed as a failure; the story is there with its title.
    """

    feed = True
    fetchers = 32
    options = (
        Option("types", tuple, TYPES, f"items of these types only: {', '.join(TYPES)}", metavar="TYPE", flag=True),
        Option("backfill", int, 0, "begin with the newest N items", metavar="N", least=0, flag=True),
        Option("start", int, 0, "begin with the item of this number", metavar="N", least=0, flag=True),
        Option("since", str, "", "begin with items of this time", metavar="TIME", flag=True),
        Option("poll", float, 15.0, "seconds between two looks for what is new", validate=_check_poll),
        Option("pages", bool, True, "fetch the pages that stories lead to"),
        Option("private", bool, False, "pages may be in one's own network"),
        Option("robots", bool, False, "heed the robots.txt of the pages' hosts"),
        Option("contact", str, None, "a url or mailto: of yours, sent with each request for a page",
               validate=check_contact),
        Option("stream", bool, True, "have the API's event stream say when to look"),
        Option("api", str, API, "the address of the API", validate=_check_api),
    )  # fmt: skip

    def __init__(self, *urls: str, **options: Any) -> None:
        values = dict(options)
        for url in urls:
            for name, value in _query(url).items():
                if values.setdefault(name, value) != value:
                    raise UsageError(f"{name} is given twice: {values[name]!r} and {value!r}")
        if len(urls) > 1:
            raise UsageError(f"hn:// is one source, and {len(urls)} urls of it are given")
        values = {option.name: option.default for option in self.options} | chosen(self.options, values, "hn://")
        values["types"] = tuple(part for each in values["types"] for part in each.split(","))
        _check_types(values["types"])
        since = _seconds(values["since"]) if values["since"] else 0
        given = [name for name in ("backfill", "start", "since") if values[name]]
        if len(given) > 1:
            raise UsageError(f"{' and '.join(given)} are both given: an index has one beginning")
        self._api: str = values["api"].rstrip("/")
        self._choice = Choice(
            types=frozenset(values["types"]),
            pages=Pages(values["pages"], values["private"], values["robots"], values["contact"] or ""),
            poll=values["poll"],
            stream=values["stream"],
            wanted=Wanted(values["backfill"], values["start"], since),
        )
        self._passed_over: Counter[str] = Counter()
        self._reading: Reading | None = None
        self._stopped = False

    @property
    def name(self) -> str:
        query = {"api": self._api} if self._api != API else {}
        if self._choice.types != set(TYPES):
            query["types"] = ",".join(sorted(self._choice.types))
        return "hn://" + (f"?{urlencode(query)}" if query else "")

    def __repr__(self) -> str:
        return f"HackerNews({self.name})"

    @property
    def passed_over(self) -> Counter[str]:
        """Items that are `deleted` or `dead`, and those of an `other type`."""
        return self._passed_over

    def open(self) -> None:
        """Raises MissingExtra where robots.txt is to be heeded, and nothing that parses it is installed."""
        self._stopped = False
        if self._choice.pages.robots:
            load_parser()

    def close(self) -> None:
        self.stop()

    def stop(self) -> None:
        self._stopped = True
        interrupt()
        if self._reading is not None:
            self._reading.stop()

    def again(self, uri: str) -> bool:
        number, reading = number_of(uri), self._reading
        if number is None or reading is None:
            return False
        reading.again(number)
        return True

    def changes(self, cursor: str | None = None) -> Iterator[Change]:
        agenda = Agenda.from_cursor(cursor)
        self._passed_over.clear()
        reading = self._reading = Reading(
            Api(self._api), agenda, self._choice, self.live, self._passed_over, self._report
        )
        if self._stopped:
            reading.stop()
        yield from reading.changes()

    def _report(self, trouble: str) -> None:
        self.trouble = trouble

    def lookup(self, uri: str) -> Item | None:
        number = number_of(uri)
        if number is None:
            return None
        api = Api(self._api)
        try:
            raw, place = Questions(api).item(number, lenient=True)
        except Transient as error:
            raise SourceError(str(error)) from None
        finally:
            api.let_go()
        if raw.get("deleted") or raw.get("dead") or not kinds_of(raw) & self._choice.types:
            return None
        return document(raw, place, self._choice.pages)


def _query(url: str) -> dict[str, Any]:
    """The options of a url."""
    rest = url.partition("://")[2]
    place, _, query = rest.partition("?")
    if place.strip("/"):
        raise UsageError(f"invalid source {url!r}: expected hn:// with options, such as hn://?backfill=1000")
    declared = {option.name: option for option in HackerNews.options}
    values = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in declared:
            raise UsageError(unknown(name, declared, "hn://"))
        values[name] = declared[name].parse(value)
    return values
