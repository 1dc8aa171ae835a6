"""What is still to be asked of the API, and the cursor that it makes.

Times here are the API's own: that of the newest item. A clock that is set, or a tape that runs fast, changes nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from penstock.core.errors import SourceError

HOUR, DAY = 3600, 86400
AGES = (600, HOUR, 6 * HOUR, DAY, 3 * DAY, 7 * DAY)
"""An item is read again when it is so old, in seconds: edits and deletions have no log, and most come early."""
GRACE = HOUR
"""Seconds for which an item that the API does not give is asked for again."""
TRIES = 8
"""How often it is asked for, at least."""
GAP = 300
"""Seconds without the API's list of what has changed, after which all items of the last day are read again: the list
goes back no further than that."""
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 60.0
"""Of this machine's seconds, before an item is asked for again."""
LARGEST_STEP = 10_000_000
"""Items that are new at once, at most: more of them are a wrong answer."""
VERSION = 1

Span = list[int]
"""From the first number to before the last one."""


@dataclass(slots=True)
class Owed:
    """An item that was asked for in vain."""

    since: int
    cause: str
    tries: int = 0
    due: float = 0.0
    pause: float = FIRST_PAUSE


@dataclass(slots=True)
class Agenda:
    first: int = 0
    """The lowest number that belongs to the index."""
    end: int = 0
    """Before it are all the items that are known of."""
    wanted: str = ""
    """What the options said of the beginning."""
    clock: int = 0
    updated: int = 0
    """By the clock, when the API's list of what has changed was read."""
    spans: list[Span] = field(default_factory=list)
    """Items that were never asked for. The newest are read first."""
    owed: dict[int, Owed] = field(default_factory=dict)
    changed: dict[int, None] = field(default_factory=dict)
    """Items that the API says have changed, in the order in which it did."""
    again: list[Span] = field(default_factory=list)
    """Items to read again, as changes of them may have been missed."""
    sweeps: dict[int, int] = field(default_factory=dict)
    """Age -> the first item that has not been read at that age."""
    asking: set[int] = field(default_factory=set)
    """Items that were asked for and have not been answered yet."""
    sweeping: dict[int, int] = field(default_factory=dict)
    """Items among them -> the age that they are read for."""
    _turn: bool = False
    _young: dict[int, int] = field(default_factory=dict)
    """Age -> by the clock, when the next item has it."""

    # ------------------------------------------------------------ what there is to do

    def begin(self, first: int, end: int, sweeps: dict[int, int]) -> None:
        """Read everything from `first` on."""
        if not self.end:
            self.first, self.end = first, end
            self._add(self.spans, first, end)
            self.sweeps = {age: max(first, sweeps.get(age, end)) for age in AGES}
        elif first < self.first:
            self.spans.insert(0, [first, self.first])
            self.first = first

    def grow(self, end: int) -> bool:
        """There are items up to before `end`. False where that cannot be."""
        if end > self.end + LARGEST_STEP:
            return False
        if end > self.end:
            self._add(self.spans, self.end, end)
            self.end = end
        return True

    def change(self, numbers: Iterable[int]) -> None:
        """The API says that these have changed; of those that the index has."""
        for number in numbers:
            waits = self._unread(number) or (number in self.owed and number not in self.asking)
            if self.first <= number < self.end and not waits:
                self.changed[number] = None

    def catch_up(self, sweeps: dict[int, int]) -> None:
        """Changes may have been missed since `updated`: have everything read again whose age calls for it.
        `sweeps`: of each age, the first item that is younger now."""
        # What was not read at all before needs no second reading.
        end = min([self.end, *(span[0] for span in self.spans[-1:] if span[1] == self.end)])
        wanted = [[max(self.first, self.sweeps.get(DAY, self.first)), end]]
        for age in AGES:
            begin, now = self.sweeps.get(age, end), max(sweeps.get(age, 0), self.sweeps.get(age, end))
            wanted.append([begin, min(now, end)])
            self.sweeps[age] = now
        self._young.clear()
        self.again = _merged([*self.again, *wanted])

    @property
    def busy(self) -> bool:
        """There is more to read than what the next poll brings."""
        return bool(self.asking or self.changed or self.spans or self.again)

    # ------------------------------------------------------------ asking

    def take(self, *, low: bool) -> int | None:
        """The number to ask for next. `low`: there is room for what has time as well."""
        number = self._next(low)
        if number is not None:
            self.asking.add(number)
        return number

    def _next(self, low: bool) -> int | None:
        now = time.monotonic()
        for number, owed in self.owed.items():
            if owed.due <= now and number not in self.asking:
                return number
        self._turn = not self._turn  # new items do not hold up changed ones, nor the other way round
        if self.spans and self._turn:
            return self._draw(self.spans)
        for number in self.changed:
            if number not in self.asking:
                del self.changed[number]
                return number
        if self.spans:
            return self._draw(self.spans)
        if not low:
            return None
        while self.again:
            number = self._draw(self.again)
            if number not in self.asking and number not in self.owed:
                return number
        for age, number in self.sweeps.items():
            if number < self.end and self._young.get(age, 0) <= self.clock and age not in self.sweeping.values():
                if number in self.asking or number in self.owed:
                    self.sweeps[age] += number in self.owed
                    continue
                self.sweeping[number] = age
                return number
        return None

    @staticmethod
    def _draw(spans: list[Span]) -> int:
        number = spans[-1][0]
        spans[-1][0] += 1
        if spans[-1][0] >= spans[-1][1]:
            spans.pop()
        return number

    def answered(self, number: int, born: int | None) -> None:
        """The item was read: it is of that time."""
        self.asking.discard(number)
        self.owed.pop(number, None)
        self.hear(born)
        if (age := self.sweeping.pop(number, None)) is not None:
            if born is None or born + age <= self.clock:
                self.sweeps[age] = number + 1
            else:
                self._young[age] = born + age

    def hear(self, born: int | None) -> None:
        """There is an item of that time. One of the future is nonsense."""
        if born is not None and born <= time.time() + DAY:
            self.clock = max(self.clock, born)

    def failed(self, number: int, cause: str, *, counts: bool) -> bool:
        """The item was asked for in vain. False where that was so for long enough: it is asked for no more. `counts`:
        the fault is the item's, not that of the connection."""
        self.asking.discard(number)
        if (age := self.sweeping.pop(number, None)) is not None:
            self.sweeps[age] = number + 1  # it is owed from here on
        owed = self.owed.setdefault(number, Owed(self.clock, cause))
        owed.cause, owed.since = cause, owed.since or self.clock
        owed.tries += counts
        owed.due = time.monotonic() + owed.pause
        owed.pause = min(1.5 * owed.pause, LONGEST_PAUSE)
        if owed.tries >= TRIES and self.clock - owed.since >= GRACE:
            del self.owed[number]
            return False
        return True

    def next_due(self) -> float:
        """Seconds until something that is owed is to be asked for again."""
        soonest = min((owed.due for number, owed in self.owed.items() if number not in self.asking), default=None)
        return LONGEST_PAUSE if soonest is None else max(0.0, soonest - time.monotonic())

    def _unread(self, number: int) -> bool:
        return any(span[0] <= number < span[1] for span in self.spans)

    @staticmethod
    def _add(spans: list[Span], begin: int, end: int) -> None:
        if spans and spans[-1][1] == begin:
            spans[-1][1] = end
        elif begin < end:
            spans.append([begin, end])

    # ------------------------------------------------------------ the cursor

    def cursor(self) -> str:
        """All of it that a restart needs, as a text. What is being asked for is not read yet."""
        repeated = [number for number in (*self.asking, *self.changed) if number not in self.owed]
        state: dict[str, Any] = {
            "version": VERSION,
            "first": self.first,
            "end": self.end,
            "wanted": self.wanted,
            "clock": self.clock,
            "updated": self.updated,
            "spans": self.spans,
            "owed": [[number, owed.since, owed.tries, owed.cause[:200]] for number, owed in self.owed.items()],
            "changed": sorted(repeated),
            "again": self.again,
            "sweeps": [[age, number] for age, number in self.sweeps.items()],
        }
        return json.dumps(state, separators=(",", ":"))

    @classmethod
    def from_cursor(cls, cursor: str | None) -> Agenda:
        """Raises SourceError for a cursor of another version."""
        if cursor is None:
            return cls()
        try:
            state = json.loads(cursor)
            if state.pop("version") != VERSION:
                raise ValueError
            owed = {number: Owed(since, cause, tries) for number, since, tries, cause in state.pop("owed")}
            changed = dict.fromkeys(state.pop("changed"))
            return cls(owed=owed, changed=changed, sweeps=dict(state.pop("sweeps")), **state)
        except (ValueError, TypeError, KeyError, AttributeError):
            raise SourceError(
                "the cursor of hn:// in the ledger is of another version of Penstock: that one can go on, or begin with"
                " a new ledger"
            ) from None


def _merged(spans: Iterable[Span]) -> list[Span]:
    """The same numbers, each once, in order."""
    merged: list[Span] = []
    for begin, end in sorted(span for span in spans if span[0] < span[1]):
        if merged and begin <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([begin, end])
    return merged
