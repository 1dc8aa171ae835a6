"""One pass into several sinks. One that is away does not hold up the others: it is left behind, and catches up.

A member is *up* (it has all that is acknowledged, but what it refused), *behind*, or *joining* again. One that is
behind is written down in the ledger before an acknowledgement of the others can be, with the run from which on it may
lack something; it gets no more writes, and what it should have deleted is noted. What it lacks it gets from the others
when it can be reached, during a run and between two. At least one is up at any time, or a write raises SinkUnavailable.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import reduce
from typing import Any, Self

from penstock.core.contracts import Sink
from penstock.core.errors import Rejected, SinkUnavailable, Transient, UsageError
from penstock.core.records import Point
from penstock.core.schema import Manifest
from penstock.sinks.fanout.group import BEHIND, UP, Book, Group, Member, put
from penstock.sinks.fanout.joining import FIRST, Joining, give

SLICE = 1.0
"""Seconds that a flush spends on members that catch up."""
UNFLUSHED = 10_000
"""Deletions that are remembered between two flushes."""


class FanOut(Sink):
    """Several sinks, filled together.

    `grace`: for how many seconds a member that is away is waited for. `again`: after how many it is tried again, during
    a run. Without a ledger (`attach`) nobody is left behind: a call fails where one of them does.
    """

    def __init__(self, sinks: Sequence[Sink], grace: float = 10.0, again: float = 30.0) -> None:
        self._sinks, self._grace, self._again = tuple(sinks), grace, again
        if not self._sinks or len({sink.url for sink in self._sinks}) < len(self._sinks):
            raise UsageError("a fan-out goes into at least one sink, and into each of them once")
        self.accepts = reduce(frozenset.__and__, (sink.accepts for sink in sinks))
        self.named = all(sink.named for sink in sinks)
        self.max_rows = min(sink.max_rows for sink in sinks)
        self.max_bytes = min(sink.max_bytes for sink in sinks)
        self.max_text = min((sink.max_text for sink in sinks if sink.max_text is not None), default=None)
        self.writers = min(sink.writers for sink in sinks)
        self.readable = any(sink.readable for sink in sinks)
        self._group = Group(self._sinks, grace, again)
        self._mine: Callable[[str], bool] = _any
        self._adopt = False
        self._manifest: Manifest | None = None
        self._joining: Joining | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._sinks, self._grace, self._again)

    def __repr__(self) -> str:
        return f"FanOut({list(self._sinks)!r})"

    @property
    def url(self) -> str:
        return " + ".join(sink.url for sink in self._sinks)

    @property
    def sinks(self) -> tuple[Sink, ...]:
        return self._sinks

    def generation(self, number: int) -> Self:
        return type(self)([sink.generation(number) for sink in self._sinks], self._grace, self._again)

    # ------------------------------------------------------------ lifecycle

    def attach(self, ledger: Book, mine: Callable[[str], bool] | None = None, *, adopt: bool = False) -> None:
        """The ledger by which members catch up, given before anything else is asked. `mine` tells this pipeline's ids
        in a shared store; `adopt` lets members in that another ledger filled."""
        self._group.ledger, self._mine, self._adopt = ledger, mine or _any, adopt

    def detach(self) -> None:
        self._group.ledger = None

    def manifest(self) -> Manifest | None:
        """Of the first member that has one, those that are up before those that are behind."""
        behind = self.behind
        away: Transient | None = None
        for sink in sorted(self._sinks, key=lambda sink: sink.url in behind):
            try:
                if (found := sink.manifest()) is not None:
                    return found
            except Transient as error:
                away = error
        ledger = self._group.ledger
        if away is not None and (ledger is None or ledger.counts()["acknowledged"]):
            raise away  # it may have one: "there is no index" would be taken for the end of all that was done
        return None

    def open(self, manifest: Manifest) -> None:
        group, self._manifest = self._group, manifest
        try:
            if group.ledger is not None:
                self._joining = Joining(group, group.ledger, manifest, self._mine, self._adopt)
                self._joining.open()
                return
            for member in group.members:
                member.sink.open(manifest)
                member.opened = True
        except BaseException:
            self.close()
            raise

    def adopt(self) -> None:
        """Take the first member that held an index for the truth: the caller reads it back into the ledger, and the
        others are brought up to date with it."""
        assert self._joining is not None
        self._joining.adopt()

    def close(self) -> None:
        with ExitStack() as stack:
            for member in self._group.members:
                member.opened, member.steps = False, None
                stack.callback(member.sink.close)

    def replace_manifest(self, manifest: Manifest) -> None:
        with self._group.turns.shared():
            self._group.everywhere(lambda sink: sink.replace_manifest(self._fitted(sink, manifest)))

    def _fitted(self, sink: Sink, manifest: Manifest) -> Manifest:
        """A store that is shared names the pipelines that fill it, and not those that fill another member."""
        if self._joining is None or self._manifest is None or (kept := sink.manifest()) is None:
            return manifest
        mine = {name: owner for name, owner in manifest.owners.items() if name in self._manifest.owners}
        return replace(manifest, owners={**kept.owners, **mine})

    def drop(self) -> None:
        self.close()
        with ExitStack() as stack:  # all of them, and then the first error
            for sink in self._sinks:
                stack.callback(sink.drop)

    def alias(self, number: int) -> str:
        """One that is behind is told when it catches up."""
        behind = self.behind
        names = [sink.alias(number) for sink in self._sinks if sink.url not in behind]
        return " + ".join(name for name in names if name)

    def maintain(self) -> None:
        for member in self._group.up:
            try:
                member.sink.maintain()
            except Transient as error:  # nothing is lost by it, and the next run does it
                self._group.said.append(f"{member.url} could not be maintained: {error}")

    # ------------------------------------------------------------ what there is to say

    @property
    def behind(self) -> dict[str, int]:
        """Which members lack something, and since which run: by the ledger, so before `open` too."""
        known = self._group.ledger.members() if self._group.ledger is not None else {}
        return {sink.url: since for sink in self._sinks if (since := known.get(sink.url)) is not None}

    @property
    def lagging(self) -> bool:
        """Whether some member has something to catch up with, or is new."""
        known = self._group.ledger.members() if self._group.ledger is not None else None
        return known is not None and any(known.get(sink.url, 0) is not None for sink in self._sinks)

    @property
    def notices(self) -> list[str]:
        refused = [
            f"{member.url} refused {member.refused:,} points that others have: see `penstock failures`"
            for member in self._group.members
            if member.refused
        ]
        return [*self._group.said, *refused]

    # ------------------------------------------------------------ write

    def write(self, points: Sequence[Point]) -> None:
        group = self._group
        with group.turns.shared():
            try:
                done = group.everywhere(lambda sink: put(sink, points))
            finally:
                group.unseen = True  # afterwards: a flush meanwhile may have come too early for it
            # Without a ledger there is nowhere to note that one lacks what another has.
            common = set.intersection if group.ledger is not None else set.union
            nowhere = common(*(set(reasons) for reasons in done.values()))
            for member, reasons in done.items():
                group.note(member, points, {id: why for id, why in reasons.items() if id not in nowhere})
        if nowhere:
            raise Rejected({id: _causes(id, done) for id in sorted(nowhere)})

    def delete(self, ids: Sequence[str]) -> None:
        group = self._group
        with group.turns.shared():
            if group.ledger is not None:
                with group.mutex:
                    group.unflushed += ids  # first: whoever falls behind from now on has them noted
                    behind = [member for member in group.members if member.state == BEHIND]
                for member in behind:
                    group.ledger.fell_behind(member.url, ids)
            try:
                group.everywhere(lambda sink: sink.delete(ids))
            finally:
                group.unseen = True
            if len(group.unflushed) > UNFLUSHED:
                group.flush()

    def flush(self) -> None:
        """And, now and then, a part of what a member has to catch up with."""
        group = self._group
        with group.turns.shared():
            group.flush()
        now = time.monotonic()
        due = [m for m in group.members if m.state != UP and (m.steps is not None or m.due <= now)]
        if due and self._joining is not None:
            self._joining.catch_up(due, SLICE)

    def catch_up(self) -> None:
        """Bring every member that can be reached up to date with the others: before and after a run, not during one.
        Raises SinkUnavailable if none is up then."""
        if self._joining is not None:
            self._joining.between_runs()

    def restore(self, url: str, ids: Sequence[str]) -> list[str]:
        """Write these points, which a member lost, as the others have them; gives the ids that no other has."""
        group = self._group
        member = next(member for member in group.members if member.url == url)
        lost: list[str] = []
        rows = min(self.max_rows, FIRST)
        for page in (ids[start : start + rows] for start in range(0, len(ids), rows)):
            with group.turns.alone():
                points = group.gather(page, group.sources(member))
                give(group, member, list(points.values()))
            lost += [id for id in page if id not in points]
        return lost

    # ------------------------------------------------------------ read

    def _reader(self) -> Sink:
        if not (readers := self._group.readers()):
            raise SinkUnavailable(f"none of {self.url} that can be read is up to date")
        return readers[0].sink

    def count(self) -> int:
        return self._reader().count()

    def ids(self) -> Iterator[Sequence[str]]:
        return self._reader().ids()

    def fetch(self, ids: Sequence[str]) -> Sequence[Point]:
        """While all that can be read are behind, nothing is there: what they hold may be of yesterday."""
        return list(self._group.gather(ids, self._group.readers()).values())


def members(sink: Sink) -> Sequence[Sink]:
    """The sinks of a fan-out; one sink is its own."""
    return sink.sinks if isinstance(sink, FanOut) else (sink,)


def _causes(id: str, refusals: dict[Member, dict[str, str]]) -> str:
    return "; ".join(f"{member.url}: {reasons[id]}" for member, reasons in refusals.items() if id in reasons)


def _any(id: str) -> bool:
    return True
