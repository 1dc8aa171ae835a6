"""Questions to the API that take several requests, for threads."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from penstock.core.errors import Transient
from penstock.sources.hackernews.agenda import AGES
from penstock.sources.hackernews.api import Api, Garbage
from penstock.sources.hackernews.items import LARGEST, Place, Raw, checked, parent_of, time_of

DEEPEST = 500
"""The most parents between a comment and its root."""
PLACES = 100_000
"""Items whose place is remembered, at most."""
PROBES = 8
"""Neighbours that are asked where an item has no time."""


class Missing(Garbage):
    """The API has no such item, or not yet."""


class Answer(NamedTuple):
    """An item, and where it stands."""

    raw: Raw
    place: Place | None


class Beginning(NamedTuple):
    first: int
    end: int
    clock: int | None
    sweeps: dict[int, int]


class News(NamedTuple):
    """What a poll brought. What it did not is None."""

    end: int | None
    changed: list[int] | None
    clock: int | None
    trouble: Transient | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """Where the index begins."""

    backfill: int = 0
    start: int = 0
    since: int = 0

    def __str__(self) -> str:
        return f"backfill={self.backfill} start={self.start} since={self.since}"


@dataclass(slots=True)
class Questions:
    """Safe to use from several threads."""

    api: Api
    _places: dict[int, Place] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def item(self, number: int, *, lenient: bool = False) -> Answer:
        """Raises Missing, Garbage or Away. `lenient`: it goes without its place, if that cannot be found out."""
        raw = self._raw(number)
        place = None
        if not raw.get("deleted") and not raw.get("dead"):
            with suppress(*([Transient] if lenient else [])):
                place = self._place(raw)
        return Answer(raw, place)

    def beginning(self, wanted: Wanted) -> Beginning:
        end = self._end()
        clock = self._newest(end)
        first = end - wanted.backfill
        if wanted.start:
            first = wanted.start
        elif wanted.since:
            first = self._at(wanted.since, 1, end)
        first = max(1, min(first, end))
        return Beginning(first, end, clock, self.ages(clock, first, end))

    def ages(self, clock: int | None, first: int, end: int) -> dict[int, int]:
        """Of each age, the first item that is younger."""
        sweeps: dict[int, int] = {}
        if clock is not None:
            after = end
            for age in AGES:
                sweeps[age] = after = self._at(clock - age + 1, first, after)
        return sweeps

    def news(self, before: int, *, changes: bool) -> News:
        """`before`: the end that is known of. `changes`: what has changed is asked for, too."""
        end, changed, clock, trouble = None, None, None, None
        try:
            end = self._end()
            if end > before:
                clock = self._newest(end)
        except Transient as error:
            trouble = error
        try:
            changed = self._changed() if changes else None
        except Transient as error:
            trouble = error
        return News(end, changed, clock, trouble)

    # ------------------------------------------------------------ one value each

    def _end(self) -> int:
        number = self.api.get("maxitem")
        if not isinstance(number, int) or isinstance(number, bool) or not 0 < number < LARGEST:
            raise Garbage("the API's maxitem is not a number")
        return number + 1

    def _changed(self) -> list[int]:
        updates = self.api.get("updates")
        numbers = updates.get("items") if isinstance(updates, Mapping) else None
        if not isinstance(numbers, list):
            raise Garbage("the API's updates have no list of items")
        return [number for number in numbers if isinstance(number, int) and not isinstance(number, bool)]

    def _raw(self, number: int) -> Raw:
        raw = checked(self.api.get(f"item/{number}"), number)
        if raw is None:
            raise Missing(f"the API has no item {number}")
        return raw

    # ------------------------------------------------------------ times

    def _newest(self, end: int) -> int | None:
        """The time of the newest item before this number that has one."""
        for number in range(end - 1, max(0, end - 1 - PROBES), -1):
            with suppress(Garbage):
                if (born := time_of(self._raw(number))) is not None:
                    return born
        return None

    def _at(self, moment: int, first: int, end: int) -> int:
        """The first item that is not older than a moment, of those from `first` to before `end`; `end` if all are."""
        while first < end:
            middle = (first + end) // 2
            born, number = None, middle
            while born is None and number < min(end, middle + PROBES):
                with suppress(Garbage):
                    born = time_of(self._raw(number))
                number += 1
            if born is None or born >= moment:
                end = middle
            else:
                first = number
        return first

    # ------------------------------------------------------------ places

    def _place(self, raw: Raw) -> Place | None:
        """Its root is found by way of its parents, be they part of the index or not."""
        path = [int(raw["id"])]
        above: Any = raw
        place: Place | None = None
        while place is None:
            parent = parent_of(above)
            if parent is None:
                if above.get("type") in ("comment", None):
                    return None  # one that was deleted, with all that it had
                place = Place(path.pop(), 0)
                break
            if len(path) > DEEPEST or parent >= path[-1]:
                raise Garbage(f"the parents of item {path[0]} lead nowhere")
            place = self._places.get(parent)
            if place is None:
                path.append(parent)
                above = self._raw(parent)
        places = {place.root: Place(place.root, 0)}
        for depth, number in enumerate(reversed(path), place.depth + 1):
            places[number] = Place(place.root, depth)
        with self._lock:
            self._places.update(places)
            while len(self._places) > PLACES:
                del self._places[next(iter(self._places))]
        return places[int(raw["id"])]
