"""The reading of Hacker News: a pool of threads asks, one thread keeps the agenda and tells what came of it."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from penstock.core.errors import SourceError, Transient
from penstock.core.records import Change, Checkpoint, Delete, Unreadable, Upsert
from penstock.core.retry import Pauses
from penstock.sources.hackernews.agenda import GAP, Agenda
from penstock.sources.hackernews.api import Api, Away
from penstock.sources.hackernews.content import Pages
from penstock.sources.hackernews.items import document, kinds_of, time_of, uri_of
from penstock.sources.hackernews.questions import Answer, Beginning, News, Questions, Wanted

THREADS = 16
AHEAD = 48
"""Items that are asked for or wait to be told, at most."""
LOW = 8
"""Of them, for those that are read once more."""
FAILURES = 6
"""Requests without an answer, one after the other, after which the API counts as away."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds before an API that is away is asked again."""
PATIENCE = 60.0
"""Seconds that a run which is to end waits for it."""
MARK, MARKED = 0.2, 256
"""Seconds between two cursors, and the changes after which one comes earlier."""
SOON = 0.5
"""Seconds between two polls, at least, when the event stream says that there is something."""
SILENCE = 90.0
"""Seconds after which an event stream without a word counts as broken."""
COUNTED = 10_000
"""Items that are remembered as passed over, at most."""
LET_GO = 1.0
"""Seconds in which threads have to end; what still hangs is left to its time-out."""
LENIENT = 5
"""Tries after which an item goes without its root."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What is read, and how."""

    types: frozenset[str]
    pages: Pages
    poll: float
    stream: bool
    wanted: Wanted


class Done(NamedTuple):
    """What came of a question: about an item, or (number 0) of another kind. With neither answer nor trouble it is an
    item to be asked for again."""

    number: int
    answer: Answer | News | Beginning | dict[int, int] | None
    trouble: Transient | None


Ask = Callable[[], Answer | News | Beginning | dict[int, int]]


@dataclass(slots=True)
class Reading:
    api: Api
    agenda: Agenda
    choice: Choice
    follow: bool
    """It goes on when all is read."""
    passed_over: Counter[str]
    report: Callable[[str], None]
    """Called with why nothing is heard, and with nothing once there is an answer."""
    _questions: Questions = field(init=False)
    _jobs: queue.SimpleQueue[tuple[int, Ask] | None] = field(default_factory=queue.SimpleQueue)
    _done: queue.SimpleQueue[Done | None] = field(default_factory=queue.SimpleQueue)
    stopped: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _asking: bool = False
    """A question that is not about an item is being asked."""
    _polled: bool = False
    _poll_at: float = 0.0
    _poll_began: float = 0.0
    _hinted: bool = False
    _missed: bool = False
    """Changes may have been missed, so that ages are to be looked up."""
    _failures: int = 0
    _pauses: Pauses = field(default_factory=lambda: Pauses(FIRST_PAUSE, LONGEST_PAUSE))
    _away_since: float = 0.0
    _away_until: float = 0.0
    _busy_until: float = 0.0
    """The API asked to be left alone until then."""
    _counted: dict[int, None] = field(default_factory=dict)
    _trouble: str = ""
    _unmarked: int = 0
    _marked: float = 0.0

    def __post_init__(self) -> None:
        self._questions = Questions(self.api)

    def changes(self) -> Iterator[Change]:
        self._start()
        try:
            while not self.stopped.is_set():
                self._ask()
                if self._at_end():
                    yield Checkpoint(self.agenda.cursor())
                    return
                done = self._next()
                if done is not None:
                    for change in self._take(done):
                        self._unmarked += 1
                        yield change
                if self._mark_due():
                    self._unmarked, self._marked = 0, time.monotonic()
                    yield Checkpoint(self.agenda.cursor())
        finally:
            self.stop()
            for _ in self._threads:
                self._jobs.put(None)
            end = time.monotonic() + LET_GO
            for thread in self._threads:
                thread.join(max(0.0, end - time.monotonic()))

    def again(self, number: int) -> None:
        """Read the item once more. From another thread."""
        self._done.put(Done(number, None, None))

    def stop(self) -> None:
        self.stopped.set()
        self._done.put(None)
        self.api.close()

    # ------------------------------------------------------------ threads

    def _start(self) -> None:
        self._threads = [threading.Thread(target=self._work, name="penstock-hn", daemon=True) for _ in range(THREADS)]
        for thread in self._threads:
            thread.start()
        if self.follow and self.choice.stream:
            listener = threading.Thread(target=self._listen, name="penstock-hn-events", daemon=True)
            listener.start()
            self._threads.append(listener)

    def _listen(self) -> None:
        """Hear of new items by the API's event stream. What it does not tell, polls find."""
        pauses = Pauses(FIRST_PAUSE, LONGEST_PAUSE)
        while not self.stopped.wait(pauses.next()):
            try:
                for line in self.api.stream("maxitem", SILENCE):
                    if line.startswith(b"event: put"):
                        pauses.reset()
                        self._hinted = True
                        self._done.put(None)
            except Away:
                continue

    def _work(self) -> None:
        try:
            self._answer()
        finally:
            self.api.let_go()

    def _answer(self) -> None:
        while (job := self._jobs.get()) is not None and not self.stopped.is_set():
            number, ask = job
            try:
                done = Done(number, ask(), None)
            except Transient as error:
                done = Done(number, None, error)
            except Exception as error:  # an answer that nobody thought of is that item's failure
                done = Done(number, None, Transient(f"{type(error).__name__}: {error}"))
            self._done.put(done)

    def _next(self) -> Done | None:
        try:
            return self._done.get(timeout=self._wait())
        except queue.Empty:
            return None

    def _wait(self) -> float:
        now = time.monotonic()
        waits = [MARK if self._unmarked else 1.0, self.agenda.next_due()]
        if not self._asking:
            waits.append(self._poll_due() - now)
        until = max(self._away_until, self._busy_until)
        return min(until - now, 1.0) if now < until else max(0.0, min(waits))

    # ------------------------------------------------------------ asking

    def _ask(self) -> None:
        now = time.monotonic()
        if now < max(self._away_until, self._busy_until):
            return
        if not self._asking:
            self._ask_apart(now)
        if self._failures >= FAILURES:
            return  # one question is enough to find out
        agenda = self.agenda
        while len(agenda.asking) < AHEAD:
            number = agenda.take(low=len(agenda.asking) < LOW)
            if number is None:
                return
            owed = agenda.owed.get(number)
            lenient = owed is not None and owed.tries >= LENIENT
            self._jobs.put((number, partial(self._questions.item, number, lenient=lenient)))

    def _ask_apart(self, now: float) -> None:
        agenda, questions, wanted = self.agenda, self._questions, self.choice.wanted
        if agenda.wanted != str(wanted):
            self._put(lambda: questions.beginning(wanted))
        elif self._missed:
            self._missed = False
            self._put(lambda: questions.ages(agenda.clock, agenda.first, agenda.end))
        elif now >= self._poll_due() and (self.follow or not self._polled):
            self._hinted, self._poll_began = False, now
            # Those that changed before come first: the list would only grow.
            changes = not agenda.changed
            self._put(lambda: questions.news(agenda.end, changes=changes))

    def _put(self, ask: Ask) -> None:
        self._asking = True
        self._jobs.put((0, ask))

    def _poll_due(self) -> float:
        return min(self._poll_at, self._poll_began + SOON) if self._hinted else self._poll_at

    # ------------------------------------------------------------ answers

    def _take(self, done: Done) -> Iterator[Change]:
        number, answer = done.number, done.answer
        if number and answer is None and done.trouble is None:
            self.agenda.change([number])
            return
        self._hear(answer.trouble if isinstance(answer, News) and answer.end is None else done.trouble)
        if number:
            yield from self._take_item(number, answer, done.trouble)
            return
        self._asking = False
        match answer:
            case Beginning(first, end, clock, sweeps):
                self.agenda.hear(clock)
                self.agenda.begin(first, end, sweeps)
                self.agenda.wanted = str(self.choice.wanted)
                self.agenda.updated = self.agenda.updated or self.agenda.clock
            case News():
                self._take_news(answer)
            case dict():
                self.agenda.catch_up(answer)
            case _:
                self._poll_at = time.monotonic() + min(self.choice.poll, FIRST_PAUSE)

    def _take_news(self, news: News) -> None:
        agenda, now = self.agenda, time.monotonic()
        self._poll_at = self._poll_began + self.choice.poll
        if news.trouble is not None:
            self._report(str(news.trouble))
            self._poll_at = now + min(self.choice.poll, FIRST_PAUSE)
        if news.end is not None:
            agenda.hear(news.clock)
            if agenda.grow(news.end):
                self._polled = True
            else:
                self._report(f"the API's maxitem, {news.end - 1}, cannot be right: the last one was {agenda.end - 1}")
        if news.changed is not None:
            if agenda.clock - agenda.updated > GAP:
                self._missed = True
                agenda.catch_up({})  # in the cursor from now on
            agenda.updated = agenda.clock
            agenda.change(news.changed)

    def _take_item(self, number: int, answer: object, trouble: Transient | None) -> Iterator[Change]:
        if isinstance(answer, Answer):
            self.agenda.answered(number, time_of(answer.raw))
            yield from self._told(number, answer)
            return
        counts = not isinstance(trouble, Away) or self._failures < FAILURES
        if not self.agenda.failed(number, str(trouble), counts=counts):
            yield Unreadable(uri_of(number), f"{trouble}, for more than an hour")

    def _told(self, number: int, answer: Answer) -> Iterator[Change]:
        raw = answer.raw
        for reason in ("deleted", "dead"):
            if raw.get(reason):
                self._pass_over(number, reason)
                yield Delete(uri_of(number))
                return
        if not kinds_of(raw) & self.choice.types:
            self._pass_over(number, "other type")
            return
        yield Upsert(document(raw, answer.place, self.choice.pages))

    def _report(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            self.report(trouble)

    def _pass_over(self, number: int, reason: str) -> None:
        """Count it, but not again when it is read again soon."""
        if number not in self._counted:
            self.passed_over[reason] += 1
            self._counted[number] = None
            if len(self._counted) > COUNTED:
                del self._counted[next(iter(self._counted))]

    def _hear(self, trouble: Transient | None) -> None:
        """Note whether the API answers: any answer will do."""
        now = time.monotonic()
        if not isinstance(trouble, Away):
            self._failures, self._away_since, self._away_until = 0, 0.0, 0.0
            self._pauses.reset()
            self._report("")
            return
        self._failures += 1
        self._away_since = self._away_since or now
        if trouble.retry_after:
            self._busy_until = max(self._busy_until, now + min(trouble.retry_after, LONGEST_PAUSE))
        if self._failures >= FAILURES:
            self._report(str(trouble))
            if now >= self._away_until:
                self._away_until = now + self._pauses.next()

    # ------------------------------------------------------------ ends

    def _mark_due(self) -> bool:
        now = time.monotonic()
        if self._unmarked >= MARKED:
            return True
        if not self._unmarked and not self._polled:
            return False
        return now - self._marked >= (MARK if self._unmarked else self.choice.poll)

    def _at_end(self) -> bool:
        """All is read, in a run that is to end. Raises SourceError where nothing comes for long."""
        if self.follow:
            return False
        if self._away_since and time.monotonic() - self._away_since > PATIENCE:
            raise SourceError(f"Hacker News' API is away: {self._trouble}")
        return self._polled and not (self._asking or self._missed or self.agenda.busy)
