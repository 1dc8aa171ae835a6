"""The content of an item: its title, its text, and the page that a story leads to."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import BinaryIO

from penstock.core.errors import ParseError, SourceError, Transient
from penstock.support.fetching import HostAway
from penstock.support.linked import Head, pack
from penstock.support.pages import Page, fetcher_of

PAUSES = (0.5, 2.0)
"""Seconds before a page is fetched again that failed for the moment."""


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
    """Opens an item. A page that cannot be fetched is a gap in it: title and text are there all the same."""

    title: str = field(repr=False)
    text: str = field(repr=False)
    url: str = field(repr=False)
    """Of the page to fetch; nothing where there is none."""
    pages: Pages = Pages()

    def __call__(self) -> BinaryIO:
        if not self.url:
            return pack(Head(self.title, self.text))
        try:
            page = self._fetched()
        except (ParseError, SourceError, Transient, OSError) as error:
            return pack(Head(self.title, self.text, self.url, cause=str(error) or type(error).__name__))
        with page.content as content:
            return pack(Head(self.title, self.text, page.url, page.media_type or ""), content)

    def _fetched(self) -> Page:
        fetch = fetcher_of(self.pages.private, self.pages.robots, self.pages.contact)
        for pause in PAUSES:
            try:
                return fetch(self.url)
            except HostAway:
                raise
            except SourceError:  # one that took too long is not worth the time of another try
                time.sleep(pause)
        return fetch(self.url)
