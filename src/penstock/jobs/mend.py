"""Mend an index that is not what its ledger says."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from itertools import islice
from typing import NamedTuple

from penstock.core.contracts import Sink
from penstock.core.pieces import portions
from penstock.jobs.session import Session
from penstock.ledger import Comparison


class Altered(NamedTuple):
    """A point whose vectors are not what the model makes of it. The vectors are left behind: there may be many."""

    id: str
    uri: str


def mend(session: Session, sink: Sink, altered: Sequence[Altered] = ()) -> None:
    """Take out what belongs to nobody, and have documents read again that lack points, or whose points are altered."""
    ledger = session.components.ledger
    lose_altered(session, altered)
    with closing(ledger.compare(session.ids(sink))) as comparison:
        orphans = comparison.orphans()
        while page := list(islice(orphans, sink.max_rows)):
            sink.delete(page)
        lose_missing(session, sink, comparison)
        doubled = comparison.doubled()
        size = session.piece_size(sink.max_rows)
        while page := list(islice(doubled, size.rows)):
            points = sink.fetch(page)
            size.learn(points)
            sink.delete(page)
            for part in portions({point.id: point for point in points}.values(), sink.max_rows, sink.max_bytes):
                sink.write(part)
    sink.flush()


def lose_altered(session: Session, altered: Sequence[Altered]) -> None:
    """Have documents read again whose points are altered: of the ledger's view these are lost as well, so that they are
    embedded again and written over."""
    ledger = session.components.ledger
    known = ledger.known(list({one.uri for one in altered}))
    ledger.lose((known[one.uri].document, bytes.fromhex(one.id)) for one in altered if one.uri in known)


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
