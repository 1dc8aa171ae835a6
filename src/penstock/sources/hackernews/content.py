"""The content of an item: its title, its text, and the page that a story leads to."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import BinaryIO

from penstock.core.errors import ParseError, SourceError, Transient
from penstock.support.fetching import Fetched
from penstock.support.linked import Head, pack

PAUSES = (0.5, 2.0)
"""Seconds before a page is fetched again that failed for the moment."""


@dataclass(frozen=True, slots=True)
class Content:
    """Opens an item. A page that cannot be fetched is a gap in it: title and text are there all the same."""

    title: str = field(repr=False)
    text: str = field(repr=False)
    url: str = field(repr=False)
    """Of the page to fetch; nothing where there is none."""
    private: bool = False
    """The page may be in one's own network."""

    def __call__(self) -> BinaryIO:
        if not self.url:
            return pack(Head(self.title, self.text))
        try:
            page = self._fetched()
        except (ParseError, SourceError, Transient, OSError) as error:
            return pack(Head(self.title, self.text, self.url, cause=str(error) or type(error).__name__))
        with page:
            return pack(Head(self.title, self.text, self.url), page)

    def _fetched(self) -> BinaryIO:
        for pause in PAUSES:
            try:
                return Fetched(self.url, self.private)()
            except SourceError:  # one that took too long is not worth the time of another try
                time.sleep(pause)
        return Fetched(self.url, self.private)()
