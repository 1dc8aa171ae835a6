"""Source, ledger and index, held against each other by ids."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any
from zlib import crc32

from penstock.core.errors import PenstockError, SinkError, UsageError
from penstock.core.precision import floats
from penstock.core.records import Block, Chunk, Item, ListingEnd, Sparse, Unreadable, Upsert, Vector
from penstock.engine.classify import classify
from penstock.engine.identity import shows
from penstock.engine.journal import FAILED, OPEN, Known
from penstock.engine.progress import Report
from penstock.engine.scan import PAGE
from penstock.jobs import progress_file, reading
from penstock.jobs.beside import beside, report, settled, twice, wait
from penstock.jobs.components import Components
from penstock.jobs.mend import Altered, lose_altered, mend
from penstock.jobs.requests import REPAIR, answer
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
FOREVER = float("inf")

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
    in_sync: float | None = None
    """All that the source knew of by then is in the index, in seconds since 1970. None where nobody knows."""

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

    def alone() -> Verification:
        return _verify(base, repair, sample, progress, allow_mass_delete)

    path = base.current()[0].ledger.path
    return beside(path, alone, lambda: _verify_beside(base, repair, sample))


def _verify(
    base: Components, repair: bool, sample: float, progress: OnProgress, allow_mass_delete: bool
) -> Verification:
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


def _verify_beside(base: Components, repair: bool, sample: float) -> Verification:
    """While a run follows the source: it goes on, and mends what is to be."""
    with ExitStack() as stack:
        session = Session(base, stack, read_only=True, beside=True)
        if session.exists:
            session.open_sink()
        ledger = session.components.ledger

        def look() -> tuple[Verification, list[Altered]]:
            return twice(ledger.path, partial(_look, session, sample), lambda pair: pair[0].ok)

        found, altered = look()
        if not repair or found.ok:
            return found
        lose_altered(session, altered)
        asked, number = time.time(), uuid.uuid4().hex
        ledger.set(REPAIR, number)
        wait(ledger.path, lambda: answer(ledger, number) is not None, FOREVER)
        if trouble := answer(ledger, number):
            raise SinkError(f"the run that follows the source could not mend {base.sink.url}: {trouble}")
        wait(ledger.path, lambda: _listed_since(ledger, asked), FOREVER)
        settled(ledger.path)
        after, _ = look()
        return replace(after, repaired=report(ledger, "mended by the run that follows the source"))


def _listed_since(ledger: Ledger, moment: float) -> bool:
    """Whether the run has listed its source since then, or cannot."""
    live = (progress_file.read(ledger.path) or {}).get("live") or {}
    return bool(live.get("feed") or live.get("away") or (live.get("listed") or 0.0) >= moment)


Count = Callable[[str, Iterable[str]], int]
"""How many differences of a kind there are, by what they are about."""


def all_of(kind: str, keys: Iterable[str]) -> int:
    return sum(1 for _ in keys)


def _look(session: Session, sample: float, count: Count = all_of) -> tuple[Verification, list[Altered]]:
    """The differences, and the altered points of the sample, at most ALTERED."""
    components = session.components
    ledger = components.ledger
    outdated, gone, complete = _against_source(session, count)
    counts = ledger.counts()
    sampled = unseen = differing = 0
    altered: list[Altered] = []
    for compared, hidden, wrong in _sampled(session, sample) if sample and session.exists else ():
        sampled, unseen = sampled + compared, unseen + hidden
        differing += count("altered", (one.id for one in wrong))
        altered += wrong[: ALTERED - len(altered)]
    points = missing = orphans = doubled = 0
    for sink in session.sinks:
        with closing(ledger.compare(session.ids(sink) if session.exists else ())) as comparison:
            points = max(points, comparison.total)
            missing += count(f"missing {sink.url}", (f"{n} {id.hex()}" for n, id in comparison.missing(sink.url)))
            orphans += count(f"orphans {sink.url}", comparison.orphans())
            doubled += count(f"doubled {sink.url}", comparison.doubled())
    found = Verification(
        documents=counts.documents,
        points=points,
        missing=missing,
        orphans=orphans,
        doubled=doubled,
        outdated=outdated,
        gone=gone,
        failing=counts.failed + ledger.accepted_documents(OPEN),
        accepted=ledger.accepted_documents(OPEN, FAILED),
        sampled=sampled,
        altered=differing,
        behind=len(session.behind),
        complete=complete or components.source.feed,
        unseen=unseen,
        in_sync=ledger.in_sync,
    )
    return found, altered


def _sampled(session: Session, share: float) -> Iterator[tuple[int, int, list[Altered]]]:
    """How many points were compared, how many were not as their images are not there, and those that are not what the
    model makes of them; some at a time.

    Ids are hashes, so that their beginnings draw the sample: the same one every time.
    """
    sink, embedder = session.sink, session.components.embedder
    session.ready()
    size = session.piece_size(EMBEDDED)
    for ids in session.ids(sink):
        drawn = [id for id in ids if crc32(id.encode()) < share * (1 << 32)]
        for points in size.read(sink.fetch, drawn):
            shown = [point for point in points if point.chunk.image == b""]
            alike = [[point for point in points if point.chunk.image != b""]]
            alike += [shown[start : start + SEEN] for start in range(0, len(shown), SEEN)]
            for some in filter(None, alike):
                complete = [(point, chunk) for point in some if (chunk := _complete(session, point.chunk)) is not None]
                columns = embedder.embed([chunk for _, chunk in complete]) if complete else {}
                wrong = [
                    Altered(point.id, point.uri)
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
    a, b = (np.ravel(floats(vector.values)).astype(np.float64) for vector in (kept, new))
    return a.shape == b.shape and bool(a @ b >= NEAR * np.linalg.norm(a) * np.linalg.norm(b))


def _against_source(session: Session, count: Count) -> tuple[int, int, bool]:
    """(documents that a run would read, documents of the ledger that the source lacks, whether it was listed whole)"""
    ledger, source = session.components.ledger, session.components.source
    if source.feed:
        return count("outdated", ledger.open_uris()) - ledger.accepted_documents(OPEN), 0, False
    outdated = 0
    complete = False
    present = Bits()
    page: list[Item] = []

    since = reading.since(session.components, ledger) if ledger.get(reading.KEY) else 0  # none: an earlier version's

    def consider() -> None:
        nonlocal outdated
        classified = classify(page, ledger, parser_code=session.parsers.code, since=since)
        present.update(classified.documents)
        work = [item for item, known in classified.work if not _accepted(item, known, ledger)]
        work += [item for item, _ in classified.revised]
        outdated += count("outdated", (f"{item.fingerprint} {item.revision} {item.uri}" for item in work))
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
    gone = (f"{hash(tuple(contents))} {uri}" for uri, contents in ledger.absent(present))  # as it was when it went
    return outdated, count("gone", gone) if complete else 0, complete


def _accepted(item: Item, known: Known | None, ledger: Ledger) -> bool:
    """Whether it is a document that each run tries again, and somebody lives with its failing as it is."""
    return known is not None and known.fingerprint == item.fingerprint and ledger.accepted(item.uri)
