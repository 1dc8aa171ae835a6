"""From one store into another: ids, texts, metadata and vectors, as they are. No model, no ledger.

A page is read while the one before it is written. What the target has already, equal in everything, is not written
again: a copy that broke off goes on where it was, and a second copy is a comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from threading import Event
from typing import Any

from penstock.core.contracts import Sink
from penstock.core.errors import OwnershipError, SinkError, UsageError
from penstock.core.pieces import PieceSize
from penstock.core.records import Point
from penstock.core.retry import Retry
from penstock.core.schema import Manifest
from penstock.sinks.transfer import PAGE, held_equal, write_all


@dataclass(frozen=True, slots=True)
class Copied:
    written: int
    kept: int
    """The target had them, equal."""
    total: int
    """In the source when the copy began."""
    foreign: int
    """Points of the target that the source has not: they were there before, or the source lost them meanwhile."""
    refused: Mapping[str, str]
    """Ids that the target can never hold, and why."""

    @property
    def ok(self) -> bool:
        return not self.foreign and not self.refused

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"ok": self.ok}


def copy(old: Sink, new: Sink, progress: Callable[[Copied], None] | None = None) -> Copied:
    """Copy all points of a readable store into another one, of any kind.

    The copy belongs to no ledger: the first `ingest` into it reads it back and takes it over.
    """
    for sink in (old, new):
        if not sink.readable:
            raise UsageError(f"{sink.url} cannot be read back, so nothing can be copied from or into it")
    if old.url == new.url:
        raise UsageError(f"{old.url} cannot be copied into itself")
    if (held := old.manifest()) is None:
        raise SinkError(f"there is no index at {old.url}")
    if (existing := new.manifest()) is not None and existing.owners:
        raise OwnershipError(f"{new.url} is filled by a ledger of its own: copy into another url")
    old.open(held)
    new.open(Manifest(replace(held.schema, filterable=True)))
    _check_unowned(new, "nothing was copied: copy into another url")  # a run may have been first
    total, before = old.count(), new.count()
    written = kept = 0
    refused: dict[str, str] = {}
    retry = Retry()
    with closing(_ahead(old, PieceSize(held.schema.vectors, min(old.max_rows, PAGE)))) as ahead:
        for points in ahead:
            same = retry.call("read", partial(held_equal, new, points)) if before else set()
            missing = [point for point in points if point.id not in same]
            why = write_all(new, missing, retry)
            refused |= why
            written, kept = written + len(missing) - len(why), kept + len(same)
            if progress:
                progress(Copied(written, kept, total, 0, refused))
    retry.call("flush", new.flush)
    _check_unowned(new, "what was copied since then belongs to nobody: `penstock verify --repair` there removes it")
    new.maintain()
    return Copied(written, kept, total, max(0, new.count() - written - kept), refused)


def _check_unowned(new: Sink, advice: str) -> None:
    if (kept := new.manifest()) is not None and kept.owners:
        raise OwnershipError(f"{new.url} was taken by a ledger of its own meanwhile, and {advice}")


def _ahead(old: Sink, size: PieceSize) -> Generator[Sequence[Point], None, None]:
    """The store's points, a piece being read while the caller has the one before it."""
    stop = Event()
    retry = Retry(stop=stop)

    def fetch(ids: Sequence[str]) -> Sequence[Point]:
        return retry.call("read", partial(old.fetch, ids))

    pieces = (points for ids in old.ids() for points in size.read(fetch, ids))
    with ThreadPoolExecutor(1, thread_name_prefix="penstock-copy") as reader:
        try:
            following: Future[Sequence[Point] | None] = reader.submit(next, pieces, None)
            while (points := following.result()) is not None:
                following = reader.submit(next, pieces, None)
                yield points
        finally:
            stop.set()  # nobody waits for a store that is away once the copy has failed
            reader.submit(pieces.close)
