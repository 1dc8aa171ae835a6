"""Hacker News by a server on this machine, and what the source says of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from penstock.core.records import Change, Checkpoint, Delete, Item, Unreadable, Upsert
from penstock.sources import from_url
from penstock.sources.hackernews import HackerNews
from penstock.testing.hackernews import HackerNewsServer


def url(hn: HackerNewsServer, **options: Any) -> str:
    values = {"api": hn.api, "poll": 0.1, "private": 1, **options}
    return "hn://?" + "&".join(f"{name}={quote(str(value))}" for name, value in values.items())


def source(hn: HackerNewsServer, **options: Any) -> HackerNews:
    made = from_url(url(hn, **options))
    assert isinstance(made, HackerNews)
    return made


def uri(number: int) -> str:
    return f"https://news.ycombinator.com/item?id={number}"


class Told:
    """What changes said, the last of each document."""

    def __init__(self, cursor: str | None = None) -> None:
        self.items: dict[int, Item] = {}
        self.deleted: set[int] = set()
        self.unreadable: dict[int, str] = {}
        self.cursor = cursor
        self.count = 0

    def add(self, change: Change) -> None:
        self.count += 1
        match change:
            case Upsert(item):
                self.items[int(item.uri.rpartition("=")[2])] = item
            case Delete(uri):
                self.items.pop(int(uri.rpartition("=")[2]), None)
                self.deleted.add(int(uri.rpartition("=")[2]))
            case Unreadable(uri, cause):
                self.unreadable[int(uri.rpartition("=")[2])] = cause
            case Checkpoint(cursor):
                self.cursor = cursor

    @property
    def titles(self) -> dict[int, str]:
        return {number: item.metadata.get("title", "") for number, item in self.items.items()}


def once(hn: HackerNewsServer, cursor: str | None = None, **options: Any) -> Told:
    """A run that ends when all is read."""
    told = Told(cursor)
    with source(hn, **options) as one:
        one.open()
        for change in one.changes(cursor):
            told.add(change)
    return told


@contextmanager
def following(hn: HackerNewsServer, cursor: str | None = None, **options: Any) -> Iterator[Told]:
    """A run that goes on, in a thread."""
    told, one = Told(cursor), source(hn, **options)
    one.live = True
    failures: list[BaseException] = []

    def follow() -> None:
        try:
            one.open()
            for change in one.changes(cursor):
                told.add(change)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=follow)
    thread.start()
    told.source = one  # type: ignore[attr-defined]
    try:
        yield told
    finally:
        began = time.monotonic()
        one.stop()
        thread.join(20)
        assert not thread.is_alive()
        assert time.monotonic() - began < 5
        assert not failures, failures
