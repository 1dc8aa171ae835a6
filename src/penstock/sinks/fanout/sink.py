"""Fills several sinks in one pass. One that is unavailable does not hold up the others: it is behind, and catches up.

A member is *up* (it has every acknowledged point but those it refused), *behind*, or *joining* again. Before the
others' writes are acknowledged, the ledger records that a member is behind, and then which deletions it misses. It gets
no more writes; when it is reachable, it gets what it lacks from the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial, reduce
from typing import Any, Self

from penstock.core.contracts import Sink
from penstock.core.errors import Rejected, SinkUnavailable, Transient, UsageError
from penstock.core.generations import amend
from penstock.core.records import Point
from penstock.core.schema import Manifest
from penstock.sinks import manifests
from penstock.sinks.fanout.group import BEHIND, UP, Book, Group, Member, put, unexpected
from penstock.sinks.fanout.joining import Joining, copy_size, give

SLICE = 1.0
"""Seconds that a flush spends on members that catch up."""
UNFLUSHED = 10_000
"""Deletions that are held in memory between two flushes."""


class FanOut(Sink):
    """Several sinks, filled together. At least one is up at any time, or a write raises SinkUnavailable.

    `grace` is the seconds for which a member that is unavailable is waited for, `again` those after which it is tried
    again during a run. Without a ledger (`attach`) no member falls behind: a call fails where one of them does.
    """

    def __init__(self, sinks: Sequence[Sink], grace: float = 10.0, again: float = 30.0) -> None:
        self._sinks, self._grace, self._again = tuple(sinks), grace, again
        if not self._sinks or len({sink.url for sink in self._sinks}) < len(self._sinks):
            raise UsageError("a fan-out goes into at least one sink, and into each of them once")
        self.accepts = reduce(frozenset.__and__, (sink.accepts for sink in sinks))
        self.precisions = reduce(frozenset.__and__, (sink.precisions for sink in sinks))
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
        """Use this ledger to have members catch up; call it before anything else. `mine` tells this pipeline's ids in a
        shared store; `adopt` accepts members that another ledger filled."""
        self._group.ledger, self._mine, self._adopt = ledger, mine or _any, adopt

    def detach(self) -> None:
        self._group.ledger = None

    def manifest(self) -> Manifest | None:
        """The manifest of the first member that has one; members that are up come before those that are behind."""
        away: Transient | None = None
        for sink in self._ranked():
            try:
                if (kept := sink.manifest()) is not None:
                    return kept
            except Transient as error:
                away = error
        ledger = self._group.ledger
        if away is not None and (ledger is None or ledger.counts().acknowledged):
            raise away  # it may have one; without an index the ledger would be started anew
        return None

    def open(self, manifest: Manifest) -> None:
        manifests.supported(manifest.schema, self)  # before one member is created and another one refuses
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
        """Take the first member that held an index as the one that is up. The caller reads it back into the ledger, and
        the others catch up with it."""
        assert self._joining is not None
        self._joining.adopt()

    def close(self) -> None:
        with ExitStack() as stack:
            for member in self._group.members:
                member.opened, member.steps = False, None
                stack.callback(member.sink.close)

    def replace_manifest(self, manifest: Manifest) -> None:
        with self._group.turns.shared():
            self._group.everywhere(lambda sink: amend(sink, partial(self._fitted, manifest)))

    def exchange_manifest(self, old: Manifest, new: Manifest) -> bool:
        """The member that is asked for the manifest decides; the others then get what that one has."""
        lead = next((sink for sink in self._ranked() if sink.manifest() is not None), None)
        if lead is None or not lead.exchange_manifest(old, self._fitted(new, old)):
            return False
        latest: Manifest | None = None
        while (held := lead.manifest()) is not None and held != latest:  # another process may go on meanwhile
            latest = held
            with self._group.turns.shared():
                self._group.everywhere(partial(self._follow, lead, held))
        return True

    def _follow(self, lead: Sink, held: Manifest, sink: Sink) -> None:
        if sink is not lead:
            amend(sink, partial(self._fitted, held))

    def _ranked(self) -> list[Sink]:
        """The members; those that are up come before those that are behind."""
        behind = self.behind
        return sorted(self._sinks, key=lambda sink: sink.url in behind)

    def _fitted(self, manifest: Manifest, kept: Manifest) -> Manifest:
        """The manifest for a member that has `kept`: a shared store keeps the owners that fill it, not those of other
        members."""
        if self._joining is None or self._manifest is None:
            return manifest
        mine = {name: owner for name, owner in manifest.owners.items() if name in self._manifest.owners}
        return replace(manifest, owners={**kept.owners, **mine})

    def drop(self) -> None:
        self.close()
        with ExitStack() as stack:  # all of them, and then the first error
            for sink in self._sinks:
                stack.callback(sink.drop)

    def alias(self, number: int) -> str:
        """Set the alias of every member that is up; the others' is set when they catch up."""
        behind = self.behind
        names = [sink.alias(number) for sink in self._sinks if sink.url not in behind]
        return " + ".join(name for name in names if name)

    def maintain(self) -> None:
        for member in self._group.up:
            try:
                member.sink.maintain()
            except Transient as error:  # nothing is lost by it, and the next run does it
                self._group.notices.append(f"{member.url} could not be maintained: {error}")

    def maintain_beside(self) -> bool:
        return all(member.sink.maintain_beside() for member in self._group.up)

    # ------------------------------------------------------------ reports

    @property
    def behind(self) -> dict[str, int]:
        """The members that lack something, by url, and since which run. Read from the ledger, so before `open` too."""
        known = self._group.ledger.members() if self._group.ledger is not None else {}
        return {sink.url: since for sink in self._sinks if (since := known.get(sink.url)) is not None}

    @property
    def lagging(self) -> bool:
        """Whether a member has to catch up, or is new."""
        known = self._group.ledger.members() if self._group.ledger is not None else None
        return known is not None and any(known.get(sink.url, 0) is not None for sink in self._sinks)

    @property
    def notices(self) -> list[str]:
        refused = [
            f"{member.url} refused {member.refused:,} points that others have: see `penstock failures`"
            for member in self._group.members
            if member.refused
        ]
        return [*self._group.notices, *refused]

    # ------------------------------------------------------------ write

    def write(self, points: Sequence[Point]) -> None:
        group = self._group
        with group.turns.shared():
            try:
                done = group.everywhere(lambda sink: put(sink, points), unexpected)
            finally:
                group.unseen = True  # set afterwards: a flush meanwhile may have come too early
            # Without a ledger nothing records that one lacks a point that another has.
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
                    group.unflushed += ids  # first: they are recorded for any member that falls behind from now on
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
        """Flush the members, and give those that are behind a part of what they lack."""
        group = self._group
        with group.turns.shared():
            group.flush()
        now = time.monotonic()
        due = [m for m in group.members if m.state != UP and (m.steps is not None or m.due <= now)]
        if due and self._joining is not None:
            self._joining.catch_up(due, SLICE)

    def catch_up(self) -> None:
        """Bring every member that can be reached up to date, before and after a run. Raises SinkUnavailable if none is
        up then."""
        if self._joining is not None:
            self._joining.between_runs()

    def restore(self, url: str, ids: Sequence[str]) -> list[str]:
        """Write points that a member lost, as the others have them. Return the ids that no other has."""
        group = self._group
        assert self._manifest is not None
        member = next(member for member in group.members if member.url == url)
        size = copy_size(group, self._manifest)
        left, lost = list(ids), list[str]()
        while page := left[: size.rows]:
            del left[: len(page)]
            with group.turns.alone():
                points = group.gather(page, group.sources(member))
                size.learn(list(points.values()))
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
        """The points that members which are up hold. Those of members that are behind may be outdated."""
        return list(self._group.gather(ids, self._group.readers()).values())


def members(sink: Sink) -> Sequence[Sink]:
    """The sinks of a fan-out; any other sink alone."""
    return sink.sinks if isinstance(sink, FanOut) else (sink,)


def _causes(id: str, refusals: dict[Member, dict[str, str]]) -> str:
    return "; ".join(f"{member.url}: {reasons[id]}" for member, reasons in refusals.items() if id in reasons)


def _any(id: str) -> bool:
    return True
