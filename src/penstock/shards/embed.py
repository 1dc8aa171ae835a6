"""`embed`: write the images of a source, or of some of its shards, as parts."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from typing import Any

from penstock.core.contracts import MultiEmbedder, Source
from penstock.core.errors import MissingExtra, PenstockError, UsageError
from penstock.core.records import Change
from penstock.core.retry import Retry
from penstock.core.schema import new_schema
from penstock.engine.progress import COUNTERS, Progress
from penstock.shards import images
from penstock.shards import store as stores
from penstock.shards.accounts import Accounts
from penstock.shards.folder import Folder
from penstock.shards.format import FAILED, STATES
from penstock.shards.head import Setup, run
from penstock.shards.leases import TTL, Lease, LeaseLost, Leases
from penstock.shards.listing import Listing, share
from penstock.shards.writer import Writer
from penstock.support.cores import usable_cores
from penstock.support.sizes import parse_budget

ROWS = 4096
SHARDS = 64
POLL = 5.0
"""Seconds between two attempts to find a free shard, at most."""

Report = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Embedded:
    """The result of one worker."""

    out: str
    status: str
    """`done`, or `stopped` by Ctrl-C."""
    finished: int
    """Shards finished by this worker."""
    lost: int
    """Shards taken over by other workers: this one did not renew its lease in time."""
    open: int
    """Requested shards that are not finished: the source could not be listed whole, or the worker was stopped."""
    parts: int
    """Parts written."""
    counts: Mapping[str, int]
    """States of the inputs of the shards it finished, including those of earlier workers."""
    seconds: float
    passed_over: Mapping[str, int] = field(default_factory=dict)
    """What the source left out on purpose, by reason."""

    @property
    def ok(self) -> bool:
        return self.status == "done" and not self.open and not self.counts[FAILED]

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"ok": self.ok}


@dataclass(frozen=True, slots=True)
class Options:
    """Optional settings."""

    rows: int = ROWS
    memory: str | int = "512MiB"
    """Bytes in flight, at most."""
    workers: int | None = None
    again: bool = False
    """Try everything that failed once more, in finished shards as well."""
    ttl: float = TTL
    """Seconds after which a lease that is not renewed expires."""
    max_wait: float = 600.0
    """Seconds to wait for a store or model that is away."""
    storage: Mapping[str, Any] = field(default_factory=dict)
    """Options of fsspec's file system for the parts: `endpoint_url`, keys."""


def embed(
    source: Source,
    embedder: MultiEmbedder,
    out: str | os.PathLike[str],
    *,
    partition: tuple[int, int] | None = None,
    claim: bool = False,
    pieces: int = SHARDS,
    options: Options | None = None,
    progress: Report | None = None,
) -> Embedded:
    """Embed the images of a source into Parquet parts: a folder, or a url of an object store.

    - `partition=(3, 100)`: the third of a hundred shards, the same on every machine that lists the same source.
    - `claim=True`: one free shard of `pieces` after the other, until all are finished.
    - Neither: the whole source, as one shard.

    Killed anywhere and started again, on any machine, it resumes: no more is embedded again than one part holds. A
    finished shard stays as it is: parts are the source at one time. For a later state, take another folder.
    """
    began = time.monotonic()
    options = options or Options()
    requested, number = _requested(partition, claim, pieces)
    check_images(embedder)
    with ExitStack() as stack:
        if options.rows < 1:
            raise UsageError(f"invalid rows={options.rows}: expected at least 1")
        store = stores.at(out, options.storage)
        if source.feed:
            raise UsageError(f"{source.name} is a feed: parts need a source that can be listed whole")
        stack.callback(source.close)
        stack.callback(setattr, source, "select_container", None)
        stack.callback(embedder.close)
        source.open()
        schema = new_schema(embedder.describe(), images.Whole.spec)
        folder = Folder.begin(store, schema, number, source.name)
        image_parsers = images.parsers()
        stack.callback(image_parsers.close)
        setup = Setup(
            embedder=embedder,
            chunker=images.Whole(),
            parse=images.parse_with(image_parsers),
            budget=parse_budget(options.memory),
            workers=options.workers or usable_cores(),
            max_wait=options.max_wait,
            fetchers=source.fetchers,
        )
        listing = Listing(source, number) if claim else None
        if listing:
            stack.callback(listing.close)
        worker = _Worker(folder, setup, options, source, listing, progress)
        status = worker.work(requested)
        return Embedded(
            out=store.url,
            status=status,
            finished=worker.finished,
            lost=worker.lost,
            open=len(worker.left),
            parts=worker.parts,
            counts=worker.counts,
            seconds=time.monotonic() - began,
            passed_over=dict(source.passed_over),
        )


class _Worker:
    def __init__(
        self,
        folder: Folder,
        setup: Setup,
        options: Options,
        source: Source,
        listing: Listing | None,
        progress: Report | None,
    ) -> None:
        self.finished = self.lost = self.parts = 0
        self.counts = dict.fromkeys(STATES, 0)
        self.left: set[int] = set()
        self._folder, self._setup, self._options = folder, setup, options
        self._source, self._listing, self._progress = source, listing, progress
        self._leases = Leases(folder, options.ttl)
        self._retry = Retry(options.max_wait)
        self._totals: dict[str, int] = {}
        """Counts of the shards before this one, for the progress."""
        self._began = time.monotonic()
        self._broken: set[int] = set()
        """Shards that cannot be finished: the listing was not complete."""
        self._again: set[int] = set()
        """Finished shards with failures, to be worked on once more."""

    def work(self, requested: Iterable[int]) -> str:
        """Work until no shard is left that can be finished."""
        self.left = set(requested)
        if self._options.again:
            self._again = {shard for shard in self.left if self._failed(shard)}
        try:
            while self.left - self._broken:
                self.left -= self._retry.call("look", self._folder.finished).keys() - self._again
                todo = sorted(self.left - self._broken)
                random.shuffle(todo)  # workers that start together would compete for the same ones
                for shard in todo:
                    lease = self._retry.call("claim", lambda: self._leases.take(shard))  # noqa: B023
                    if lease is not None:
                        if not self._hold(lease):
                            return "stopped"
                        break
                else:
                    if todo:
                        self._wait()
        except KeyboardInterrupt:
            return "stopped"
        return "done"

    def _failed(self, shard: int) -> bool:
        done = self._folder.done(shard)
        return done is not None and done.counts[FAILED] > 0

    def _wait(self) -> None:
        """Wait for a lease to expire or be released: other workers have the shards that are left."""
        if self._progress:
            counts = dict.fromkeys(COUNTERS, 0) | self._totals
            waiting = f"{len(self.left)} shards of other workers"
            self._progress(Progress(self._seconds(), counts, (), self._setup.budget, False, 0, waiting))
        time.sleep(min(POLL, self._options.ttl / 8))

    def _hold(self, lease: Lease) -> bool:
        """Work on the shard of a lease. False if stopped."""
        shard = lease.shard
        try:
            if self._folder.done(shard) is not None and shard not in self._again:
                return True  # finished by another worker meanwhile
            status = self._shard(lease)
        except LeaseLost:
            self.lost += 1
            return True
        finally:
            lease.release()
        if status == "done":
            self.left.discard(shard)
            self._again.discard(shard)
        elif status == "broken":
            self._broken.add(shard)
        return status != "stopped"

    def _shard(self, lease: Lease) -> str:
        """Gives `done`, `broken` where the source could not be listed whole, or `stopped`."""
        accounts = Accounts(again=self._options.again)
        writer = Writer(self._folder, lease.shard, lease.term, self._options.rows, accounts, lease.check)
        try:
            for name in self._part_names(lease.shard):
                writer.take_in(self._retry.call("read", lambda: self._folder.read(name)))  # noqa: B023
            try:
                outcome = run(self._setup, writer, accounts, self._changes(lease.shard), self._report())
            except PenstockError:
                with suppress(PenstockError):  # keep what is embedded; the first error is the one to raise
                    writer.flush()
                raise
            self._totals = {name: count + self._totals.get(name, 0) for name, count in outcome.last.counts.items()}
            if outcome.status != "done" or accounts.open():
                self._retry.call("flush", writer.flush)
                return "stopped" if outcome.status == "stopped" else "broken"
            done = self._retry.call("finish", writer.finish)
            self.finished += 1
            self.counts = {state: self.counts[state] + done.counts[state] for state in STATES}
            return "done"
        finally:
            self.parts += writer.written
            writer.close()
            accounts.close()

    def _part_names(self, shard: int) -> list[str]:
        """The parts of a shard, those first that are known to count."""
        done = self._retry.call("read", lambda: self._folder.done(shard))
        listed = [part.name for part in done.parts] if done is not None else []
        names = self._retry.call("list", lambda: self._folder.part_names(shard))
        return [*listed, *(name for name in names if name not in listed)]

    def _changes(self, shard: int) -> Iterable[Change]:
        if self._listing is not None:
            return self._listing.of(shard)
        return share(self._source, shard, self._folder.shards)

    def _report(self) -> Report | None:
        report, before = self._progress, self._totals
        if report is None:
            return None

        def summed(now: Progress) -> None:
            counts = {name: count + before.get(name, 0) for name, count in now.counts.items()}
            report(replace(now, counts=counts, seconds=self._seconds()))

        return summed

    def _seconds(self) -> float:
        return time.monotonic() - self._began


def _requested(partition: tuple[int, int] | None, claim: bool, pieces: int) -> tuple[range, int]:
    """The numbers of the requested shards, and how many there are."""
    if partition is not None and claim:
        raise UsageError("partition and claim exclude each other: give one of the two")
    if partition is None:
        return range(1, (pieces if claim else 1) + 1), pieces if claim else 1
    number, of = partition
    if not 1 <= number <= of:
        raise UsageError(f"invalid partition {number}/{of}: expected one from 1/{of} to {of}/{of}")
    return range(number, number + 1), of


def check_images(embedder: MultiEmbedder) -> None:
    """Raise UsageError unless the model embeds images and they can be decoded."""
    if not embedder.embeds_images:
        raise UsageError(f"{embedder!r} embeds no images: take a CLIP or SigLIP model")
    if find_spec("PIL") is None:
        raise MissingExtra("decoding images (Pillow)", "images")
