"""Mend an index that is not what its ledger says; and notice one that is not as the last run left it.

A database that was restored from a backup, emptied or cleaned up by hand is older than its ledger, which would leave
out what it takes for indexed. At its end a run writes down how many points there are, and some of those that it wrote;
the next one looks, which takes the store a moment. What differs is then looked for among all points.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from itertools import islice
from typing import Any

from penstock.core.contracts import Sink
from penstock.core.errors import PenstockError
from penstock.core.records import Point
from penstock.core.retry import Retry
from penstock.engine.identity import digest_of_stored
from penstock.jobs.session import Session
from penstock.ledger import Comparison

KEY = "as_left"
"""Where the ledger has what the last run left."""
LOOKED_AT = 32


def mend(session: Session, sink: Sink, altered: Sequence[Point] = ()) -> None:
    """Take out what belongs to nobody, and have documents read again that lack points, or whose points are altered."""
    ledger = session.components.ledger
    with closing(ledger.compare(session.ids(sink))) as comparison:
        orphans = comparison.orphans()
        while page := list(islice(orphans, sink.max_rows)):
            sink.delete(page)
        _lose_missing(session, sink, comparison)
        # Of the ledger's view they are lost as well, so that they are embedded again and written over.
        holders = ((comparison.document_of(point.id), bytes.fromhex(point.id)) for point in altered)
        ledger.lose((document, id) for document, id in holders if document is not None)
        doubled = comparison.doubled()
        while page := list(islice(doubled, sink.max_rows)):
            points = sink.fetch(page)
            sink.delete(page)
            sink.write(list({point.id: point for point in points}.values()))
    sink.flush()


def _lose_missing(session: Session, sink: Sink, comparison: Comparison) -> None:
    missing = comparison.missing(sink.url)
    while lost := list(islice(missing, 500)):
        session.components.ledger.lose(_not_restored(session, sink, lost))


def _not_restored(session: Session, sink: Sink, lost: Sequence[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """What one of several sinks lost, another may have."""
    if session.fan_out is None:
        return list(lost)
    left = set(session.fan_out.restore(sink.url, [id.hex() for _, id in lost]))
    return [(document, id) for document, id in lost if id.hex() in left]


# ---------------------------------------------------------------- as the last run left it


def check(session: Session, max_wait: float) -> str:
    """Compare the index with the ledger if it is not as the last run left it, and give what that one wrote down.

    Points that it lacks are lost, so that their documents are read again; those that the ledger does not know are
    recorded, so that the run that follows keeps them, or takes them out like any other."""
    ledger, sink = session.components.ledger, session.sink
    text = ledger.get(KEY) or ""
    if not text or not session.exists or session.fan_out or not sink.readable:
        return ""
    ledger.set(KEY, "")  # until the run has come to its end
    session.open_sink()
    if not (found := _difference(session, json.loads(text), Retry(max_wait))):
        return text
    with closing(ledger.compare(session.ids(sink))) as comparison:
        _lose_missing(session, sink, comparison)
        for ids in session.ids(sink):
            for start in range(0, len(ids), sink.max_rows):
                points = sink.fetch(ids[start : start + sink.max_rows])
                ledger.doubt(comparison.differing({point.id: digest_of_stored(point.chunk) for point in points}))
        orphans = comparison.orphans()
        session.record_points(iter(lambda: list(islice(orphans, sink.max_rows)), []))
    session.notices.append(
        f"{sink.url} is not as the last run left it, as after a backup was restored: {found}. It was compared with the"
        " ledger, point by point"
    )
    return ""


def _difference(session: Session, left: Mapping[str, Any], retry: Retry) -> str:
    """What is not as it was left; nothing where all seems well, or a command other than a run has changed the index."""
    sink, ledger = session.sink, session.components.ledger
    if ledger.counts().acknowledged != left["acknowledged"]:
        return ""
    expected = ledger.all_digests([bytes.fromhex(id) for id in left["some"]])
    try:
        held = retry.call("count", sink.count) if left["points"] is not None else None
        points = retry.call("fetch", lambda: sink.fetch([id.hex() for id in expected])) if expected else ()
    except PenstockError:
        raise
    except Exception:  # of the store's driver: the run that follows meets it as well, and says where
        return ""
    if held != left["points"]:
        return f"it has {held:,} points, and had {left['points']:,}"
    if expected != {bytes.fromhex(point.id): digest_of_stored(point.chunk) for point in points}:
        return "points that were written last are missing, or are others"
    return ""


def remember(session: Session, run: int, before: str, *, changed: bool) -> None:
    """Write down what this run, which came to its end, left: what was there `before`, if it changed nothing."""
    ledger, sink = session.components.ledger, session.sink
    if session.fan_out or not sink.readable or not session.sink_is_open:
        return
    if before and not changed:
        ledger.set(KEY, before)
        return
    some = ledger.acknowledged_in(run, LOOKED_AT)
    some = some or [bytes.fromhex(id) for id in (json.loads(before)["some"] if before else ())]
    digests = ledger.all_digests(some)
    # Only those that come back as they were written: a store may be unable to keep some metadata.
    points = {bytes.fromhex(point.id): point for point in sink.fetch([id.hex() for id in digests])}
    kept = [id.hex() for id, point in points.items() if digest_of_stored(point.chunk) == digests[id]]
    number = sink.count() if sink.counts_exactly and not session.components.namespace else None
    ledger.set(KEY, json.dumps({"points": number, "acknowledged": ledger.counts().acknowledged, "some": kept}))
