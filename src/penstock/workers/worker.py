"""A worker: takes one shard after the other at a place, until the run is over."""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from threading import Event, Thread
from typing import Any
from uuid import uuid4

from penstock.core.errors import PenstockError, SpaceMismatch
from penstock.core.retry import Retry
from penstock.engine.progress import COUNTERS, Progress
from penstock.shards.leases import TTL, Lease, LeaseLost, Leases
from penstock.workers.contents import Contents
from penstock.workers.part import decode
from penstock.workers.place import Place, Taken, Work
from penstock.workers.produce import Producer, Setup
from penstock.workers.roster import EVERY
from penstock.workers.shard import Shard
from penstock.workers.shard import decode as decode_shard
from penstock.workers.writer import PartWriter

LOOK = 0.5
"""Seconds between two looks for a shard, where there is none."""
IDLE = 600.0
"""Seconds for which a worker waits for something to do."""
DEATHS = 2
"""After as many workers have ended over a shard, its documents are read one at a time; and one over which as many have
ended by itself is not read again."""
OnProgress = Callable[[Progress], None] | None


@dataclass(frozen=True, slots=True)
class Worked:
    """What a worker did."""

    place: str
    status: str
    """`done`, or `stopped`."""
    shards: int
    """Those that it brought to their end."""
    lost: int
    """Those that another worker took over, as this one was too slow to say that it was there."""
    counts: Mapping[str, int]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"ok": True}


@dataclass(frozen=True, slots=True)
class Terms:
    """For how long a worker waits, and keeps what it has."""

    idle: float = IDLE
    """Seconds without anything to do after which it ends."""
    keep: bool = False
    """Wait for another run when one is over."""
    ttl: float = TTL
    """Seconds after which a shard is another worker's, if nothing is heard of this one."""
    max_wait: float = 600.0
    """Seconds for which a place, source or model that is away is waited for."""


class Worker:
    def __init__(
        self,
        place: Place,
        setup: Callable[[Work, ExitStack], Setup],
        terms: Terms | None = None,
        progress: OnProgress = None,
    ) -> None:
        """`setup` makes the components that the work needs, and has the stack close them."""
        self._place, self._make_setup, self._terms = place, setup, terms or Terms()
        self._report = progress
        self._retry = Retry(self._terms.max_wait)
        self._leases = Leases(place, self._terms.ttl)
        self._began = time.monotonic()
        self._totals: dict[str, int] = dict.fromkeys(COUNTERS, 0)
        self._now = self._totals
        self._made: tuple[Work, Setup] | None = None
        self._since = time.monotonic()
        """When there was something to do last."""
        self._shards = self._lost = 0
        self._name = f"{socket.gethostname()[:60]}-{os.getpid()}-{uuid4().hex[:6]}"
        self._facts: dict[str, Any] = {"host": socket.gethostname(), "pid": os.getpid()}

    def work(self) -> Worked:
        status = "done"
        with self._heard():
            try:
                self._work()
            except KeyboardInterrupt:
                status = "stopped"
        return Worked(self._place.url, status, self._shards, self._lost, self._totals, time.monotonic() - self._began)

    def _work(self) -> None:
        place, retry = self._place, self._retry
        worked = False
        with ExitStack() as stack:
            while not self._idle:
                work, over = retry.call("read", place.work), retry.call("read", place.over)
                if over and worked and not self._terms.keep:
                    return
                if over or work is None:
                    self._wait("work at this place")
                else:
                    self._of_run(work, stack)
                    worked = True

    @property
    def _idle(self) -> bool:
        """There has been nothing to do for long."""
        return not self._terms.keep and time.monotonic() - self._since >= self._terms.idle

    def _of_run(self, work: Work, stack: ExitStack) -> None:
        """Work on shards of that run until it is over, another one has begun, or there has long been nothing to do."""
        retry, place = self._retry, self._place
        with ExitStack() as of_run:
            contents: Contents | None = None

            def has() -> Contents:
                nonlocal contents
                if contents is None:
                    contents = retry.call("read", lambda: Contents(place))
                    of_run.callback(contents.close)
                return contents

            while not self._idle:
                lease = self._take()
                with self._releasing(lease):
                    if retry.call("read", place.work) != work:  # looked at with the lease: another run has begun
                        return
                    if lease is not None:
                        if not self._hold(lease, self._setup(work, stack), has):
                            raise KeyboardInterrupt
                        self._since = time.monotonic()
                        continue
                if retry.call("read", place.over):
                    return
                self._wait("a shard")

    def _setup(self, work: Work, stack: ExitStack) -> Setup:
        """The components, those of the run before if they are the same. What is wrong with them the coordinator tells
        as well."""
        if self._made is not None and self._made[0].same(work) and self._made[0].settings == work.settings:
            return self._made[1]
        stack.close()
        try:
            if work.version != (mine := version("penstock")):
                raise SpaceMismatch(f"this is Penstock {mine}, and the run is of {work.version}: install that one here")
            setup = self._make_setup(work, stack)
            if not setup.schema.same_space(work.schema) or setup.schema.chunking != work.schema.chunking:
                raise SpaceMismatch(
                    f"here the model and chunks are {setup.schema}, and those of the run {work.schema}: every machine"
                    " needs the same model"
                )
        except PenstockError as error:
            self._facts["trouble"] = f"{self._facts['host']}: {error}"
            with suppress(PenstockError):
                self._place.say(self._name, self._facts)
            raise
        self._made = work, setup
        return setup

    # ------------------------------------------------------------ shards

    def _take(self) -> Lease | None:
        place, retry = self._place, self._retry
        terms, finished = retry.call("list", place.terms), retry.call("list", place.finished)
        free = [
            number
            for number in retry.call("list", place.shards)
            if number not in terms or finished.get(number) != terms[number]
        ]
        # Workers that start together would compete for the same ones. Those first that somebody has or had: it is seen
        # by two looks that nothing comes from him any more.
        random.shuffle(free)
        free.sort(key=lambda number: number not in terms)
        for number in free:
            lease = retry.call("claim", partial(self._leases.take, number))
            if lease is not None:
                return lease
        return None

    def _hold(self, lease: Lease, setup: Setup, contents: Callable[[], Contents]) -> bool:
        """Work on the shard of a lease. False if stopped."""
        self._facts["shard"] = lease.shard
        try:
            return self._shard(lease, setup, contents)
        except LeaseLost:
            self._lost += 1
            return True
        finally:
            self._totals = self._now

    @contextmanager
    def _releasing(self, lease: Lease | None) -> Iterator[None]:
        try:
            yield
        finally:
            if lease is not None:
                lease.release()

    def _shard(self, lease: Lease, setup: Setup, contents: Callable[[], Contents]) -> bool:
        place, retry, number = self._place, self._retry, lease.shard
        files = retry.call("read", lambda: place.read_shard(number))
        if files is None:
            return True  # it is done by now
        shard = decode_shard(number, *files)
        taken = retry.call("read", lambda: self._take_over(lease))
        writer = PartWriter(place, setup.schema, number, lease.term, check=lease.check)
        if not shard.afresh:
            contents()  # here: what is wrong with them is no document's failure
        with ExitStack() as stack:
            producer = Producer(setup, shard, writer, contents)
            stack.callback(producer.close)
            for part in taken.parts:
                data = retry.call("read", partial(place.store.read, str(part)))
                if data is None:
                    return True  # the coordinator has taken it in, and all of the shard
                read = decode(str(part), data, setup.schema, [one.uri for one in shard.documents])
                producer.take_in((row for rows in read.rows for row in rows), read.outcomes)
            if lease.term > 1:
                retry.call("write", lambda: place.put_taken(number, lease.term, taken))
            try:
                stopped = not self._produce(producer, lease, shard, taken)
            except PenstockError:
                with suppress(PenstockError):  # keep what is embedded; the first error is the one to raise
                    writer.flush()
                raise
            retry.call("flush", writer.flush)
            if stopped or producer.left:
                return not stopped
            lease.check()
            retry.call("finish", lambda: place.finish(number, lease.term))
        self._shards += 1
        return True

    def _take_over(self, lease: Lease) -> Taken:
        """What counts of what earlier workers have made. They may still write, but this lease is there by now."""
        number, term = lease.shard, lease.term
        parts = [part for part in self._place.parts(number) if part.term < term]
        for former in range(term - 1, 0, -1):
            if (before := self._place.taken(number, former)) is not None:
                break
        else:
            former, before = 1, Taken()
        counted = [*before.parts, *(part for part in parts if part.term >= former)]
        if not lease.after_death:
            return replace(before, parts=counted, alone="")
        tries = dict(before.tries)
        if before.alone:
            tries[before.alone] = tries.get(before.alone, 0) + 1
        return Taken(before.deaths + 1, counted, tries)

    def _produce(self, producer: Producer, lease: Lease, shard: Shard, taken: Taken) -> bool:
        """False where it was stopped."""
        if taken.deaths < DEATHS:
            return producer.run(producer.left, self._progress())
        for document in producer.left:
            uri = shard.documents[document].uri
            if taken.tries.get(uri, 0) >= DEATHS:
                producer.fail(document, f"{taken.tries[uri]} workers ended while they read it, and nothing else")
                continue
            alone = replace(taken, alone=uri)
            self._retry.call("write", partial(self._place.put_taken, lease.shard, lease.term, alone))
            if not producer.run([document], self._progress()):
                return False
            producer.flush()
        return True

    # ------------------------------------------------------------ what others see

    def _progress(self) -> OnProgress:
        before = self._totals

        def summed(now: Progress) -> None:
            self._now = {name: count + before.get(name, 0) for name, count in now.counts.items()}
            if self._report is not None:
                self._report(replace(now, counts=self._now, seconds=time.monotonic() - self._began))

        return summed

    def _wait(self, what: str) -> None:
        self._facts.pop("shard", None)
        if self._report is not None:
            seconds = time.monotonic() - self._began
            self._report(Progress(seconds, dict(self._totals), (), 0, False, 0, f"waiting for {what}"))
        time.sleep(LOOK)

    @contextmanager
    def _heard(self) -> Iterator[None]:
        """Say that it is there, from time to time."""
        over = Event()

        def say() -> None:
            turn = 0
            while True:
                turn += 1
                with suppress(PenstockError):  # the place is away: leases expire, and that is what counts
                    facts = {**self._facts, "turn": turn, "embedded": self._now["embedded"]}
                    self._place.say(self._name, facts)
                if over.wait(EVERY):
                    return

        thread = Thread(target=say, name="penstock-heard", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            if "trouble" not in self._facts:
                with suppress(PenstockError):
                    self._place.leave(self._name)
