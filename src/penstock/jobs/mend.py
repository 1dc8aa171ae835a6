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
    lose_altered(session, altered)
    with closing(ledger.compare(session.ids(sink))) as comparison:
        orphans = comparison.orphans()
        while page := list(islice(orphans, sink.max_rows)):
            sink.delete(page)
        lose_missing(session, sink, comparison)
        doubled = comparison.doubled()
        while page := list(islice(doubled, sink.max_rows)):
            points = sink.fetch(page)
            sink.delete(page)
            sink.write(list({point.id: point for point in points}.values()))
    sink.flush()


def lose_altered(session: Session, altered: Sequence[Point]) -> None:
    """Have documents read again whose points are altered: of the ledger's view these are lost as well, so that they are
    embedded again and written over."""
    ledger = session.components.ledger
    uris = list({point.chunk.uri for point in altered})
    documents = {uri: known.document for uri, known in ledger.known(uris).items()}
    points = [(documents.get(point.chunk.uri), bytes.fromhex(point.id)) for point in altered]
    ledger.lose((document, id) for document, id in points if document is not None)


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
