"""Opens the members of a fan-out, and has those that are behind catch up: see `Joining`."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

from penstock.core.errors import OwnershipError, PenstockError, SinkUnavailable, SpaceMismatch, Transient
from penstock.core.generations import amend
from penstock.core.pieces import PieceSize, portions
from penstock.core.records import Point
from penstock.core.schema import Manifest
from penstock.sinks import manifests
from penstock.sinks.fanout.group import BEHIND, JOINING, UP, Book, Group, Member, broken, put

PAGE, PAGE_BYTES = 256, 4 << 20
"""The most points that are copied while the others wait, and about the most bytes."""


@dataclass(frozen=True, slots=True)
class _Page:
    after: tuple[int, bytes]
    copied: int = 0
    lost: int = 0
    """Of all pages until this one."""


class Joining:
    """How a member that is behind catches up:

    1. It deletes the ids recorded for it; where the ledger does not know the member, all ids that the ledger lacks.
    2. It joins: from now on it gets every write and deletion.
    3. It gets the points acknowledged since it fell behind, and those in doubt, from a member that is up. Nothing else
       is written while a page is copied, so that no older version of a point comes after a newer one.
    4. It is flushed, and is up.

    Interrupted anywhere, it is behind as before and begins again. `mine` tells this pipeline's ids in a shared store;
    `adopt` accepts members that another ledger filled.
    """

    def __init__(
        self, group: Group, ledger: Book, manifest: Manifest, mine: Callable[[str], bool], adopt: bool
    ) -> None:
        self._group, self._ledger, self._manifest, self._mine, self._adopt = group, ledger, manifest, mine, adopt
        self._one = threading.Lock()
        self._between_runs = False

    # ------------------------------------------------------------ open

    def open(self) -> None:
        group, ledger, members = self._group, self._ledger, self._group.members
        group.notices.clear()
        group.unflushed.clear()
        for member in members:
            member.refused = member.tries = 0
            member.due = 0.0
        kept: dict[Member, Manifest | None] = {}
        away: dict[Member, Transient] = {}
        for member in members:
            try:
                kept[member] = self._look(member)
            except Transient as error:
                away[member] = error
        since = self._since(kept, away)
        self._open_members(kept, away)
        complete = [member for member in members if since[member] is None]
        if complete and all(member in away for member in complete):
            raise away[complete[0]]
        ledger.enlist({member.url: since[member] for member in members})
        for member in members:
            member.state, member.since = UP if since[member] is None else BEHIND, since[member] or 0
            member.refuses = ledger.refused(member.url) > 0
            if member in away and member.state == UP:
                group.leave(member, away[member])
            elif member in away:
                group.miss(member, away[member])
                member.wait(group.again)

    def _open_members(self, kept: Mapping[Member, Manifest | None], away: dict[Member, Transient]) -> None:
        """Open them, and register with those that are new. All pipelines do so in the same order: of two with the same
        new members one gets them all. Where another one was first, what was created here is removed again."""
        created: list[Member] = []
        try:
            for member in sorted(kept, key=lambda member: member.url):
                try:
                    member.sink.open(self._manifest)
                    if kept[member] is None and self._register(member) == self._manifest:
                        created.append(member)
                except Transient as error:
                    away[member] = error
                else:
                    member.opened, member.had_index = True, kept[member] is not None
        except (OwnershipError, SpaceMismatch):
            for member in created:
                with suppress(PenstockError):
                    member.sink.drop()
            raise

    def _register(self, member: Member) -> Manifest:
        return amend(member.sink, partial(self._registered, member, adopt=False))

    def _registered(self, member: Member, kept: Manifest, adopt: bool) -> Manifest:
        """The manifest with this ledger in it, beside those of other namespaces."""
        self._check(member, kept, adopt)
        return replace(kept, owners={**kept.owners, **self._manifest.owners})

    def _look(self, member: Member) -> Manifest | None:
        """The manifest of a member, None where it has none. Raises where this ledger may not fill it."""
        if (kept := member.sink.manifest()) is not None:
            self._check(member, kept, self._adopt)
        return kept

    def _check(self, member: Member, kept: Manifest, adopt: bool) -> None:
        owners = self._manifest.owners
        manifests.check_schema(kept.schema, self._manifest.schema, member.url)
        if adopt or not kept.owners:
            return
        unnamed = "" in kept.owners or "" in owners
        foreign = any(kept.owners.get(name, owner) != owner for name, owner in owners.items())
        if foreign or (unnamed and kept.owners.keys() != owners.keys()):
            raise OwnershipError(
                f"{member.url} was filled by another ledger. Use another url for it, or take it over with --adopt: its"
                " points are then brought up to date with the others'"
            )

    def _since(
        self, kept: Mapping[Member, Manifest | None], away: Mapping[Member, Transient]
    ) -> dict[Member, int | None]:
        """Since which run each member may lack something: None where it cannot, 0 where the ledger does not know it."""
        known, mine = self._ledger.members(), self._manifest.owners.items()
        empty = not self._ledger.counts().acknowledged
        since: dict[Member, int | None] = {
            member: (None if empty else 0) if member in kept and kept[member] is None else known.get(member.url, 0)
            for member in self._group.members
        }
        if not known:  # until now there was one sink: the one that this ledger filled is up
            filled = [member for member, found in kept.items() if found and mine and mine <= found.owners.items()]
            if len(filled) == 1:
                since[filled[0]] = None
            elif away and not filled and not empty:  # it may be that one
                raise next(iter(away.values()))
        return since

    def adopt(self) -> None:
        opened = [member for member in self._group.readers() if member.opened]
        lead = next((member for member in opened if member.had_index), opened[0])
        for member in self._group.members:
            member.state, member.since = (UP if member is lead else BEHIND), 0
        self._ledger.enlist({member.url: None if member is lead else 0 for member in self._group.members})

    # ------------------------------------------------------------ catch up

    def between_runs(self) -> None:
        """Have every member that can be reached catch up to the end."""
        self._between_runs = True
        try:
            self.catch_up([member for member in self._group.members if member.state != UP], math.inf)
        finally:
            self._between_runs = False
        if not self._group.up:
            raise SinkUnavailable(
                f"none of {self._group.names} is up to date, and the one that lacks the least is unavailable"
            )

    def catch_up(self, members: Sequence[Member], seconds: float) -> None:
        if not self._one.acquire(blocking=False):
            return
        try:
            until = time.monotonic() + seconds
            for member in sorted(members, key=_rank):
                self._advance(member, until)
        finally:
            self._one.release()

    def _advance(self, member: Member, until: float) -> None:
        member.steps = member.steps or self._steps(member)
        try:
            for _ in member.steps:
                if time.monotonic() >= until:
                    return
            member.wait(self._group.again)
        except Transient as error:
            self._group.leave(member, error)
        except Exception as error:
            raise broken(member, error) from error.__cause__
        member.steps = None

    def _steps(self, member: Member) -> Iterator[None]:
        group = self._group
        readable = [one for one in group.members if one.sink.readable]
        if not group.sources(member) and readable and min(group.members, key=_rank) is not member:
            return  # another one comes first: it lacks the least
        self._reach(member)
        with group.turns.alone():
            since = member.since  # calls that were under way when it fell behind have ended
        if since == 0 and member.sink.readable and member.sink.count():
            self._remove_orphans(member)
        while self._delete_noted(member):
            yield
        size = copy_size(group, self._manifest)
        page: _Page | None = _Page((0, b""))
        while page is not None:
            last = page
            page = group.patiently(partial(self._copy, member, since, size, last))
            if page is not None:
                yield
        if last.lost:
            group.notices.append(f"no store holds {last.lost:,} points any more: their documents are read again")
        if member.state == UP:
            member.tries = 0
            group.notices.append(f"{member.url} caught up: {last.copied:,} points")

    def _reach(self, member: Member) -> None:
        kept = self._look(member)
        if not member.opened or kept is None:
            member.sink.open(self._manifest)
            member.opened = True
            kept = member.sink.manifest() or self._manifest
        lead = next((found for one in self._group.up if (found := one.sink.manifest()) is not None), kept)

        def change(found: Manifest) -> Manifest:
            adopted = self._adopt and found.owners == kept.owners
            return replace(self._registered(member, found, adopted), current=lead.current, former=lead.former)

        now = amend(member.sink, change)
        if now.current != kept.current:
            member.sink.alias(now.current)

    def _remove_orphans(self, member: Member) -> None:
        """Delete the ids that the ledger does not know. The member gets no writes meanwhile; it gets them later."""
        pages = ([id for id in page if self._mine(id)] for page in member.sink.ids())
        comparison = self._ledger.compare(pages)
        try:
            orphans = comparison.orphans()
            while page := list(islice(orphans, member.sink.max_rows)):
                self._group.patiently(partial(member.sink.delete, page))
            self._group.patiently(member.sink.flush)
        finally:
            comparison.close()

    def _delete_noted(self, member: Member) -> bool:
        """Delete some of the ids recorded for the member. When there are no more, it joins: none can be recorded in
        between."""
        with self._group.turns.alone():
            ids = self._ledger.undeleted(member.url, member.sink.max_rows)
            if not ids:
                member.state = JOINING
                return False
        self._group.patiently(partial(member.sink.delete, ids))
        self._group.patiently(member.sink.flush)
        self._ledger.deleted(member.url, ids)
        return True

    def _copy(self, member: Member, since: int, size: PieceSize, last: _Page) -> _Page | None:
        """Copy a page of the points it missed. None after the last one, when it is up, or once it fell behind again."""
        group, ledger = self._group, self._ledger
        with group.turns.alone():
            if group.unseen:  # else an older version could be copied over a newer one that cannot be read yet
                group.flush()
            if member.state != JOINING:
                return None
            rows = ledger.missed(since, last.after, size.rows)
            if not rows:
                member.sink.flush()
                ledger.caught_up(member.url)
                member.state = UP
                return None
            points = group.gather([id.hex() for _, id, _ in rows], group.sources(member))
            lost = [(document, id) for document, id, acked in rows if acked and id.hex() not in points]
            if lost and not self._between_runs:
                # A document that is being read would be finished without them.
                group.leave(member, SinkUnavailable("no other store has all that it lacks"))
                return None
            ledger.lose(lost)
            size.learn(list(points.values()))
            give(group, member, list(points.values()))
        return _Page(rows[-1][:2], last.copied + len(points), last.lost + len(lost))


def copy_size(group: Group, manifest: Manifest) -> PieceSize:
    """How many points to copy from one member to another at once."""
    rows = min(PAGE, *(member.sink.max_rows for member in group.members))
    return PieceSize(manifest.schema.vectors, rows, PAGE_BYTES)


def give(group: Group, member: Member, points: Sequence[Point]) -> None:
    """Write these to one member."""
    for some in portions(points, member.sink.max_rows, member.sink.max_bytes):
        group.note(member, some, put(member.sink, some))


def _rank(member: Member) -> tuple[bool, int, bool]:
    """Those that lack the least come first: where none is up, the others catch up with that one."""
    return not member.sink.readable, -member.since, not member.opened
