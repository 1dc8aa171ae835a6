"""Source, ledger and index, held against each other by ids."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from typing import Any
from zlib import crc32

from penstock.core.errors import PenstockError, UsageError
from penstock.core.records import Block, Chunk, Item, ListingEnd, Point, Sparse, Unreadable, Upsert, Vector
from penstock.engine.classify import classify
from penstock.engine.identity import shows
from penstock.engine.journal import FAILED, OPEN, Known
from penstock.engine.progress import Report
from penstock.engine.scan import PAGE
from penstock.jobs import reading
from penstock.jobs.components import Components
from penstock.jobs.mend import mend
from penstock.jobs.run import OnProgress, Options, go, unfinished
from penstock.jobs.session import Session
from penstock.ledger import Ledger
from penstock.support.bits import Bits

NEAR = 0.999
"""The least cosine of a vector that was kept with one made again: other machines and batches round otherwise."""
EMBEDDED = 32
"""Points that are embedded again in one call."""
SEEN = 8
"""Images, which may be large."""
ALTERED = 10_000
"""Altered points that one repair mends, at most; the next goes on."""


DIFFERENCES = ("missing", "orphans", "doubled", "altered", "behind", "outdated", "gone", "failing")


@dataclass(frozen=True, slots=True)
class Verification:
    documents: int
    points: int
    """In the index."""
    missing: int
    """Points that the ledger says were acknowledged, and the index has not."""
    orphans: int
    """Points in the index that belong to no document."""
    doubled: int
    """Ids that the index holds more than once."""
    outdated: int
    """Documents that are new, changed or half-done: a run brings them in."""
    gone: int
    """Documents in the index that the source no longer has: a run takes them out."""
    failing: int
    """Documents that cannot be read as they are: `penstock failures`. One that each run tries again is among them where
    its failures are accepted, else it is outdated."""
    sampled: int
    """Points whose vectors were made again and compared."""
    altered: int
    """... and are not what the model makes of their texts and images."""
    behind: int
    """Of several sinks, those that were away and have not caught up: `points` and the rest are about the others."""
    complete: bool
    """The source could be listed whole."""
    unseen: int = 0
    """Points of the sample whose images the source does not show any more as they were: no index keeps images."""
    repaired: Report | None = None
    accepted: int = 0
    """Of `failing`, those whose failures are all accepted: they are no difference."""

    @property
    def ok(self) -> bool:
        return self.complete and not any(number for _, number in self.differences)

    @property
    def differences(self) -> list[tuple[str, int]]:
        return [(name, getattr(self, name) - (self.accepted if name == "failing" else 0)) for name in DIFFERENCES]

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"ok": self.ok}


def verify(
    base: Components,
    *,
    repair: bool = False,
    sample: float = 0.0,
    progress: OnProgress = None,
    allow_mass_delete: bool = False,
) -> Verification:
    if not 0 <= sample <= 1:
        raise UsageError(f"invalid sample {sample}: expected a share from 0 to 1")
    if not base.sink.readable:
        raise UsageError(f"{base.sink.url} cannot be read back, so it cannot be verified")
    with ExitStack() as stack:
        session = Session(base, stack, read_only=not repair)
        if session.exists:
            session.open_sink()
        found, altered = _look(session, sample)
        if not repair or found.ok:
            return found
        if session.exists:
            session.catch_up()
            for sink in session.sinks:
                mend(session, sink, altered)
        # A feed names an event once, and perhaps not from its beginning: what lacks points is looked up.
        source = session.components.source
        changes = unfinished(session.components) if source.feed else source.changes(None)
        report = go(session, changes, progress, Options(force=source.feed, allow_mass_delete=allow_mass_delete))
        session.exists = True
        after, _ = _look(session, sample)
        return replace(after, repaired=report)


def _look(session: Session, sample: float) -> tuple[Verification, list[Point]]:
    """The differences, and the altered points of the sample, at most ALTERED."""
    components = session.components
    ledger = components.ledger
    outdated, present, complete = _against_source(session)
    counts = ledger.counts()
    sampled = unseen = count = 0
    altered: list[Point] = []
    for compared, hidden, wrong in _sampled(session, sample) if sample and session.exists else ():
        sampled, unseen, count = sampled + compared, unseen + hidden, count + len(wrong)
        altered += wrong[: ALTERED - len(altered)]
    points = missing = orphans = doubled = 0
    for sink in session.sinks:
        with closing(ledger.compare(session.ids(sink) if session.exists else ())) as comparison:
            points = max(points, comparison.total)
            missing += sum(1 for _ in comparison.missing(sink.url))
            orphans += sum(1 for _ in comparison.orphans())
            doubled += sum(1 for _ in comparison.doubled())
    found = Verification(
        documents=counts.documents,
        points=points,
        missing=missing,
        orphans=orphans,
        doubled=doubled,
        outdated=outdated,
        gone=counts.documents - present if complete else 0,
        failing=counts.failed + ledger.accepted_documents(OPEN),
        accepted=ledger.accepted_documents(OPEN, FAILED),
        sampled=sampled,
        altered=count,
        behind=len(session.fan_out.behind) if session.fan_out else 0,
        complete=complete or components.source.feed,
        unseen=unseen,
    )
    return found, altered


def _sampled(session: Session, share: float) -> Iterator[tuple[int, int, list[Point]]]:
    """How many points were compared, how many were not as their images are not there, and those that are not what the
    model makes of them; some at a time.

    Ids are hashes, so that their beginnings draw the sample: the same one every time.
    """
    sink, embedder = session.sink, session.components.embedder
    session.ready()
    for ids in session.ids(sink):
        drawn = [id for id in ids if crc32(id.encode()) < share * (1 << 32)]
        for start in range(0, len(drawn), EMBEDDED):
            points = sink.fetch(drawn[start : start + EMBEDDED])
            shown = [point for point in points if point.chunk.image == b""]
            alike = [[point for point in points if point.chunk.image != b""]]
            alike += [shown[start : start + SEEN] for start in range(0, len(shown), SEEN)]
            for some in filter(None, alike):
                complete = [(point, chunk) for point in some if (chunk := _complete(session, point.chunk)) is not None]
                columns = embedder.embed([chunk for _, chunk in complete]) if complete else {}
                wrong = [
                    point
                    for n, (point, _) in enumerate(complete)
                    if not all(_near(point.vectors[name], column[n]) for name, column in columns.items())
                ]
                yield len(complete), len(some) - len(complete), wrong


def _complete(session: Session, chunk: Chunk) -> Chunk | None:
    """With its image, which the source has. None where it is another by now, or none."""
    if chunk.image != b"":
        return chunk
    try:
        item = session.components.source.lookup(chunk.uri)
        if item is not None:
            with closing(session.parsers.parse(item).blocks) as blocks:
                for block in blocks:
                    if isinstance(block, Block) and block.image is not None and shows(chunk, block.image):
                        return replace(chunk, image=block.image)
    except PenstockError:
        pass  # a run lists it as a failure
    return None


def _near(kept: Vector, new: Vector) -> bool:
    import numpy as np

    if isinstance(kept, Sparse) and isinstance(new, Sparse) and not np.array_equal(kept.indices, new.indices):
        return False
    a, b = np.ravel(kept.values).astype(np.float64), np.ravel(new.values).astype(np.float64)
    return a.shape == b.shape and bool(a @ b >= NEAR * np.linalg.norm(a) * np.linalg.norm(b))


def _against_source(session: Session) -> tuple[int, int, bool]:
    """(documents that a run would read, documents of the ledger that are listed, whether the listing was complete)"""
    ledger, source = session.components.ledger, session.components.source
    if source.feed:
        counts = ledger.counts()
        return counts.open - ledger.accepted_documents(OPEN), counts.documents, False
    outdated = 0
    complete = False
    present = Bits()
    page: list[Item] = []

    since = reading.since(session.components, ledger) if ledger.get(reading.KEY) else 0  # none: an earlier version's

    def consider() -> None:
        nonlocal outdated
        classified = classify(page, ledger, parser_code=session.parsers.code, since=since)
        present.update(classified.documents)
        outdated += sum(not _accepted(item, known, ledger) for item, known in classified.work)
        outdated += len(classified.revised)
        page.clear()

    for change in source.changes(None):
        if isinstance(change, Upsert):
            page.append(change.item)
            if len(page) == PAGE:
                consider()
        elif isinstance(change, Unreadable):
            present.update(ledger.under(change.uri))
        elif isinstance(change, ListingEnd):
            complete = True
    consider()
    return outdated, len(present), complete


def _accepted(item: Item, known: Known | None, ledger: Ledger) -> bool:
    """Whether it is a document that each run tries again, and somebody lives with its failing as it is."""
    return known is not None and known.fingerprint == item.fingerprint and ledger.accepted(item.uri)
