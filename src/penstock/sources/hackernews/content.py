"""The content of an item: its title, its text, and the page that a story leads to."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import BinaryIO

from penstock.core.errors import ParseError, SourceError, Transient
from penstock.support.fetching import HostAway, HostBusy, Refused
from penstock.support.linked import Head, pack
from penstock.support.pages import Page, fetcher_of

PAUSE = 0.5
"""Seconds before a page is fetched once more that failed for the moment."""
PATIENCE = 10.0
"""Seconds for which a story waits for a host that is busy with other pages; then its title goes ahead."""


@dataclass(frozen=True, slots=True)
class Pages:
    """How the pages of stories are fetched, if they are."""

    fetch: bool = True
    private: bool = False
    """They may be in one's own network."""
    robots: bool = False
    contact: str = ""


@dataclass(frozen=True, slots=True)
class Content:
    """Opens an item. A page that cannot be fetched is a gap in it: title and text are there all the same. Raises
    HostBusy where the page's host has enough to do, and will soon have less."""

    title: str = field(repr=False)
    text: str = field(repr=False)
    url: str = field(repr=False)
    """Of the page to fetch; nothing where there is none."""
    pages: Pages = Pages()
    _until: list[float] = field(default_factory=list, repr=False, compare=False)
    """When the patience with a busy host ends, once it was met."""

    def __call__(self) -> BinaryIO:
        if not self.url:
            return pack(Head(self.title, self.text))
        try:
            page = self._fetched()
        except (ParseError, SourceError, Transient, OSError) as error:
            if isinstance(error, HostBusy) and self._may_wait(error.retry_after or 0.0):
                raise
            # A refusal is the host's answer, which it would give again.
            passing = not isinstance(error, ParseError | Refused)
            cause = str(error) or type(error).__name__
            return pack(Head(self.title, self.text, self.url, cause=cause, passing=passing))
        with page.content as content:
            return pack(Head(self.title, self.text, page.url, page.media_type or ""), content)

    def _may_wait(self, seconds: float) -> bool:
        now = time.monotonic()
        if not self._until:
            self._until.append(now + PATIENCE)
        return now + seconds <= self._until[0]

    def _fetched(self) -> Page:
        fetch = fetcher_of(self.pages.private, self.pages.robots, self.pages.contact)
        try:
            return fetch(self.url)
        except (HostAway, Refused):
            raise
        except SourceError:  # one that took too long is not worth the time of another try
            time.sleep(PAUSE)
        return fetch(self.url)
