"""Mend an index that is not what its ledger says."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from itertools import islice

from penstock.core.contracts import Sink
from penstock.core.records import Point
from penstock.jobs.session import Session
from penstock.ledger import Comparison


def mend(session: Session, sink: Sink, altered: Sequence[Point] = ()) -> None:
    """Take out what belongs to nobody, and have documents read again that lack points, or whose points are altered."""
    ledger = session.components.ledger
    with closing(ledger.compare(session.ids(sink))) as comparison:
        orphans = comparison.orphans()
        while page := list(islice(orphans, sink.max_rows)):
            sink.delete(page)
        lose_missing(session, sink, comparison)
        # Of the ledger's view they are lost as well, so that they are embedded again and written over.
        holders = ((comparison.document_of(point.id), bytes.fromhex(point.id)) for point in altered)
        ledger.lose((document, id) for document, id in holders if document is not None)
        doubled = comparison.doubled()
        while page := list(islice(doubled, sink.max_rows)):
            points = sink.fetch(page)
            sink.delete(page)
            sink.write(list({point.id: point for point in points}.values()))
    sink.flush()


def lose_missing(session: Session, sink: Sink, comparison: Comparison) -> None:
    """Have documents read again that lack points in the sink."""
    missing = comparison.missing(sink.url)
    while lost := list(islice(missing, 500)):
        session.components.ledger.lose(_not_restored(session, sink, lost))


def _not_restored(session: Session, sink: Sink, lost: Sequence[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """What one of several sinks lost, another may have."""
    if session.fan_out is None:
        return list(lost)
    left = set(session.fan_out.restore(sink.url, [id.hex() for _, id in lost]))
    return [(document, id) for document, id in lost if id.hex() in left]
