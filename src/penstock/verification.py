"""Source, ledger and index, held against each other by ids."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from penstock.engine.progress import Progress, Report
from penstock.errors import UsageError
from penstock.ledger import FAILED, OPEN, Comparison
from penstock.records import Item, Mark, Unreadable, Upsert

if TYPE_CHECKING:
    from penstock.pipeline import Pipeline
    from penstock.session import Session


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
    """Documents that cannot be read as they are: `penstock failures`."""
    complete: bool
    """The source could be listed whole."""
    repaired: Report | None = None

    @property
    def ok(self) -> bool:
        return self.complete and not (
            self.missing or self.orphans or self.doubled or self.outdated or self.gone or self.failing
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"ok": self.ok}


def verify(
    pipeline: Pipeline, repair: bool, progress: Callable[[Progress], None] | None, allow_mass_delete: bool
) -> Verification:
    from penstock.session import Session

    if not pipeline.sink.readable:
        raise UsageError(f"{pipeline.sink.url} cannot be read back, so it cannot be verified")
    with ExitStack() as stack:
        session = Session(pipeline, stack, look=not repair)
        if session.there:
            session.open_sink()
        found = _look(session)
        if not repair or found.ok:
            return found
        if session.there:
            _mend(session)
        # A feed tells an event once, and perhaps not from its beginning: what lacks points is looked up.
        feed = pipeline.source.feed
        changes = pipeline.unfinished() if feed else pipeline.source.changes(None)
        report = session.run(changes, progress, force=feed, allow_mass_delete=allow_mass_delete)
        session.there = True
        after = _look(session)
        return Verification(
            **{name: getattr(after, name) for name in Verification.__dataclass_fields__ if name != "repaired"},
            repaired=report,
        )


def _look(session: Session) -> Verification:
    pipeline = session.pipeline
    ledger = pipeline.ledger
    outdated, present, complete = _against_source(pipeline)
    counts = ledger.counts()
    comparison = ledger.compare(pipeline.sink.ids() if session.there else ())
    try:
        return Verification(
            documents=counts["documents"],
            points=comparison.total,
            missing=sum(1 for _ in comparison.missing()),
            orphans=sum(1 for _ in comparison.orphans()),
            doubled=sum(1 for _ in comparison.doubled()),
            outdated=outdated,
            gone=counts["documents"] - present if complete else 0,
            failing=counts[FAILED],
            complete=complete or pipeline.source.feed,
        )
    finally:
        comparison.close()


def _against_source(pipeline: Pipeline) -> tuple[int, int, bool]:
    """(documents that a run would read, documents of the ledger that are listed, whether the listing was complete)"""
    ledger, source = pipeline.ledger, pipeline.source
    if source.feed:
        return ledger.counts()[OPEN], ledger.counts()["documents"], False
    outdated = present = 0
    complete = False
    page: list[Item] = []

    def consider() -> None:
        nonlocal outdated, present
        known = ledger.known([item.uri for item in page])
        present += len(known)
        for item in page:
            before = known.get(item.uri)
            outdated += not (before and before.settled(item.fingerprint))
        page.clear()

    for change in source.changes(None):
        if isinstance(change, Upsert):
            page.append(change.item)
            if len(page) == 256:
                consider()
        elif isinstance(change, Unreadable):
            present += ledger.count_under(change.uri)
        elif isinstance(change, Mark):
            complete = True
    consider()
    return outdated, present, complete


def _mend(session: Session) -> None:
    """Take out what belongs to nobody, and have documents read again that lack points."""
    sink, ledger = session.pipeline.sink, session.pipeline.ledger
    comparison: Comparison = ledger.compare(sink.ids())
    try:
        orphans = comparison.orphans()
        while page := list(islice(orphans, sink.max_rows)):
            sink.delete(page)
        missing = comparison.missing()
        while lost := list(islice(missing, 500)):
            for document in {number for number, _ in lost}:
                ledger.forget(document, [id for number, id in lost if number == document])
                ledger.reopen(document)
        doubled = comparison.doubled()
        while page := list(islice(doubled, sink.max_rows)):
            points = sink.fetch(page)
            sink.delete(page)
            sink.write(list({point.id: point for point in points}.values()))
        sink.flush()
    finally:
        comparison.close()
