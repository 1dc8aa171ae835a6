"""`embed`: the images of a source, or a share of them, into parts."""

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
from penstock.core.schema import IndexSchema
from penstock.engine.progress import COUNTERS, Progress
from penstock.shards import images
from penstock.shards import store as stores
from penstock.shards.accounts import Accounts
from penstock.shards.folder import Folder
from penstock.shards.format import FAILED, STATES
from penstock.shards.head import Means, run
from penstock.shards.leases import TTL, Lease, LeaseLost, Leases
from penstock.shards.listing import Listing, share
from penstock.shards.writer import Writer
from penstock.support.cores import usable_cores
from penstock.support.sizes import parse_budget

ROWS = 4096
PIECES = 64
POLL = 5.0
"""Seconds between two looks for a piece that is free, at most."""

Tell = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Embedded:
    """What one worker did."""

    out: str
    status: str
    """`done`, or `stopped` (Ctrl-C)."""
    finished: int
    """Pieces that this worker finished."""
    lost: int
    """Pieces that another one took over, as this one gave no sign of life."""
    open: int
    """Pieces it was asked for that are not finished: the source could not be listed whole, or it was stopped."""
    parts: int
    """That it wrote."""
    counts: Mapping[str, int]
    """What became of the inputs of the pieces it finished, those included that earlier workers had embedded."""
    seconds: float
    passed_over: Mapping[str, int] = field(default_factory=dict)
    """What the source left alone on purpose, by reason."""

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
    """Go back to finished pieces, and try whatever failed once more."""
    ttl: float = TTL
    """Seconds without a sign of life after which a worker is taken for dead."""
    max_wait: float = 600.0
    """Seconds for which a store or model that is away is waited for."""
    storage: Mapping[str, Any] = field(default_factory=dict)
    """What fsspec takes for where the parts go: `endpoint_url`, keys."""


def embed(
    source: Source,
    embedder: MultiEmbedder,
    out: str | os.PathLike[str],
    *,
    partition: tuple[int, int] | None = None,
    claim: bool = False,
    pieces: int = PIECES,
    options: Options | None = None,
    progress: Tell | None = None,
) -> Embedded:
    """Embed the images of a source into Parquet parts: a folder, or a url of an object store.

    - `partition=(3, 100)`: the third of a hundred shares, the same on every machine that lists the same source.
    - `claim=True`: one piece of `pieces` after the other that nobody else has, until all are finished.
    - Neither: all of it, as one piece.

    Killed anywhere and started again, on any machine, it goes on where it was: what one part holds is embedded again at
    most. A finished piece is left alone: parts are the source as it was. For how it is later, take another folder.
    """
    began = time.monotonic()
    given = options or Options()
    wanted, number = _wanted(partition, claim, pieces)
    check_images(embedder)
    with ExitStack() as stack:
        if given.rows < 1:
            raise UsageError(f"invalid rows={given.rows}: expected at least 1")
        place = stores.at(out, given.storage)
        if source.feed:
            raise UsageError(f"{source.name} tells of events, and has no end that parts could be complete at")
        stack.callback(source.close)
        stack.callback(setattr, source, "select_container", None)
        stack.callback(embedder.close)
        source.open()
        schema = IndexSchema(embedder.describe(), images.Whole.spec)
        folder = Folder.begin(place, schema, number, source.name)
        image_parsers = images.parsers()
        stack.callback(image_parsers.close)
        means = Means(
            embedder=embedder,
            chunker=images.Whole(),
            parse=images.parse_with(image_parsers),
            budget=parse_budget(given.memory),
            workers=given.workers or usable_cores(),
            max_wait=given.max_wait,
        )
        listing = Listing(source, number) if claim else None
        if listing:
            stack.callback(listing.close)
        worker = _Worker(folder, means, given, source, listing, progress)
        status = worker.work(wanted)
        return Embedded(
            out=place.url,
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
        means: Means,
        options: Options,
        source: Source,
        listing: Listing | None,
        progress: Tell | None,
    ) -> None:
        self.finished = self.lost = self.parts = 0
        self.counts = dict.fromkeys(STATES, 0)
        self.left: set[int] = set()
        self._folder, self._means, self._options = folder, means, options
        self._source, self._listing, self._progress = source, listing, progress
        self._leases = Leases(folder, options.ttl)
        self._retry = Retry(options.max_wait)
        self._before: dict[str, int] = {}
        """Of the pieces before this one, for the progress."""
        self._ago = time.monotonic()
        self._broken: set[int] = set()
        """Pieces that could not be finished, as the listing was not complete."""
        self._again: set[int] = set()
        """Finished pieces that are gone back to."""

    def work(self, wanted: Iterable[int]) -> str:
        """Until nothing is left that could be done."""
        self.left = set(wanted)
        if self._options.again:
            self._again = {piece for piece in self.left if self._failed(piece)}
        try:
            while self.left - self._broken:
                self.left -= self._retry.call("look", self._folder.finished).keys() - self._again
                todo = sorted(self.left - self._broken)
                random.shuffle(todo)  # or all that begin at once would go for the same ones
                for piece in todo:
                    lease = self._retry.call("claim", lambda: self._leases.take(piece))  # noqa: B023
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

    def _failed(self, piece: int) -> bool:
        done = self._folder.done(piece)
        return done is not None and done.counts[FAILED] > 0

    def _wait(self) -> None:
        """Others have all that is left. They may die."""
        if self._progress:
            counts = dict.fromkeys(COUNTERS, 0) | self._before
            waiting = f"{len(self.left)} pieces that other workers have"
            self._progress(Progress(self._seconds(), counts, (), self._means.budget, False, 0, waiting))
        time.sleep(min(POLL, self._options.ttl / 8))

    def _hold(self, lease: Lease) -> bool:
        """False if it was stopped."""
        piece = lease.piece
        try:
            if self._folder.done(piece) is not None and piece not in self._again:
                return True  # it was finished between the two looks
            ended = self._piece(lease)
        except LeaseLost:
            self.lost += 1
            return True
        finally:
            lease.release()
        if ended == "done":
            self.left.discard(piece)
            self._again.discard(piece)
        elif ended == "broken":
            self._broken.add(piece)
        return ended != "stopped"

    def _piece(self, lease: Lease) -> str:
        """How it ended: `done`, `broken` where the source could not be listed whole, or `stopped`."""
        accounts = Accounts(again=self._options.again)
        writer = Writer(self._folder, lease.piece, lease.term, self._options.rows, accounts, lease.check)
        try:
            for name in self._counting(lease.piece):
                writer.take_in(self._retry.call("read", lambda: self._folder.read(name)))  # noqa: B023
            try:
                ran = run(self._means, writer, accounts, self._changes(lease.piece), self._tell())
            except PenstockError:
                with suppress(
                    PenstockError
                ):  # what was embedded until then is kept; the first error is the one to tell
                    writer.flush()
                raise
            self._before = {name: count + self._before.get(name, 0) for name, count in ran.last.counts.items()}
            if ran.ended != "done" or accounts.open():
                self._retry.call("flush", writer.flush)
                return "stopped" if ran.ended == "stopped" else "broken"
            done = self._retry.call("finish", writer.finish)
            self.finished += 1
            self.counts = {state: self.counts[state] + done.counts[state] for state in STATES}
            return "done"
        finally:
            self.parts += writer.written
            writer.close()
            accounts.close()

    def _counting(self, piece: int) -> list[str]:
        """The parts that are there, those first that are known to count."""
        done = self._retry.call("read", lambda: self._folder.done(piece))
        listed = [part.name for part in done.parts] if done is not None else []
        there = self._retry.call("list", lambda: self._folder.part_names(piece))
        return [*listed, *(name for name in there if name not in listed)]

    def _changes(self, piece: int) -> Iterable[Change]:
        if self._listing is not None:
            return self._listing.of(piece)
        return share(self._source, piece, self._folder.pieces)

    def _tell(self) -> Tell | None:
        tell, before = self._progress, self._before
        if tell is None:
            return None

        def summed(now: Progress) -> None:
            counts = {name: count + before.get(name, 0) for name, count in now.counts.items()}
            tell(replace(now, counts=counts, seconds=self._seconds()))

        return summed

    def _seconds(self) -> float:
        return time.monotonic() - self._ago


def _wanted(partition: tuple[int, int] | None, claim: bool, pieces: int) -> tuple[range, int]:
    """Which pieces, and how many there are."""
    if partition is not None and claim:
        raise UsageError("a partition is one's own; to claim is to take what is free: say one of the two")
    if partition is None:
        return range(1, (pieces if claim else 1) + 1), pieces if claim else 1
    number, of = partition
    if not 1 <= number <= of:
        raise UsageError(f"partition {number}/{of}: they go from 1/{of} to {of}/{of}")
    return range(number, number + 1), of


def check_images(embedder: MultiEmbedder) -> None:
    """Raise UsageError unless the model embeds images and they can be decoded."""
    if not embedder.embeds_images:
        raise UsageError(f"{embedder!r} embeds no images: name a CLIP or SigLIP model")
    if find_spec("PIL") is None:
        raise MissingExtra("decoding images (Pillow)", "images")
