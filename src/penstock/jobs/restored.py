"""Notice an index that is not as the last run left it: restored from a backup, emptied, or cleaned up by hand.

Its ledger would leave out what it takes for indexed. At its end a run writes down how many points there are, and some
of those that it wrote; the next one looks, which takes the store a moment. Where that differs, all are compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import closing
from itertools import groupby, islice
from typing import Any

from penstock.core.errors import PenstockError
from penstock.core.retry import Retry
from penstock.engine.identity import digest_of_stored
from penstock.jobs.mend import lose_missing
from penstock.jobs.session import Session

KEY = "left"
"""Where the ledger has what the last run left."""
SAMPLE = 32


def compare_if_restored(session: Session, max_wait: float) -> None:
    """Compare the index with the ledger where it is not as the last run left it.

    Points that it lacks are lost, so that their documents are read again; those that the ledger does not know are
    recorded, so that the run that follows keeps them, or takes them out like any other."""
    ledger, sink = session.components.ledger, session.sink
    noted = ledger.get(KEY)
    if not noted or not session.exists or not _can_be_looked_at(session):
        return
    left = json.loads(noted)
    if left["state"] and left["state"] == sink.state():
        return
    session.open_sink()
    if not (difference := _difference(session, left, Retry(max_wait))):
        return
    with closing(ledger.compare(session.ids(sink))) as comparison:
        lose_missing(session, sink, comparison)
        size = session.piece_size(sink.max_rows)
        for ids in session.ids(sink):
            for points in size.read(sink.fetch, ids):
                ledger.doubt(comparison.differing({point.id: digest_of_stored(point.chunk) for point in points}))
        orphans = comparison.orphans()
        session.record_points(iter(lambda: list(islice(orphans, sink.max_rows)), []))
    session.notices.append(
        f"{sink.url} is not as the last run left it, as after a backup was restored: {difference}. It was compared with"
        " the ledger, point by point"
    )


def _can_be_looked_at(session: Session) -> bool:
    return session.fan_out is None and session.sink.readable


def _difference(session: Session, noted: Any, retry: Retry) -> str:
    """What is not as it was left; nothing where all seems well."""
    sink, ledger = session.sink, session.components.ledger
    counts = ledger.counts()
    # Where the ledger has others by now, a run was interrupted, or another command has changed the index.
    comparable = [counts.chunks, counts.acknowledged] == noted["chunks"] and noted["points"] is not None
    expected = _digests(session, [(document, bytes.fromhex(id)) for document, id in noted["sample"]])
    try:
        held = retry.call("count", sink.count) if comparable else noted["points"]
        stored = retry.call("fetch", lambda: _stored(session, expected))
    except PenstockError:
        raise
    except Exception:  # of the store's driver: the run that follows meets it as well, and says where
        return ""
    if held != noted["points"]:
        return f"it has {held:,} points, and had {noted['points']:,}"
    if expected != stored:
        return "points that were written last are missing, or are others"
    return ""


def _digests(session: Session, sample: Sequence[tuple[int, bytes]]) -> dict[bytes, int]:
    """What the ledger says now of these points, as far as they are acknowledged and none is in doubt."""
    found: dict[bytes, int] = {}
    for document, pairs in groupby(sorted(sample), key=lambda pair: pair[0]):
        found |= session.components.ledger.digests(document, [id for _, id in pairs])
    return {id: digest for id, digest in found.items() if digest}


def _stored(session: Session, ids: Iterable[bytes]) -> dict[bytes, int]:
    """The digests of these points as the index has them."""
    pieces = session.piece_size(SAMPLE).read(session.sink.fetch, [id.hex() for id in ids])
    return {bytes.fromhex(point.id): digest_of_stored(point.chunk) for points in pieces for point in points}


def note(session: Session, run: int, *, changed: bool) -> None:
    """Write down what this run, which came to its end, left."""
    ledger, sink = session.components.ledger, session.sink
    if not _can_be_looked_at(session) or not (session.exists or session.sink_is_open):
        return
    if not changed and ledger.get(KEY):
        return
    session.open_sink()
    sample = ledger.some_acknowledged(run, SAMPLE)
    digests = _digests(session, sample)
    # Only those that come back as they were written: a store may be unable to keep some metadata.
    same = dict(_stored(session, digests).items() & digests.items())
    counts = ledger.counts()
    noted = {
        "points": sink.count() if sink.counts_exactly and not session.components.namespace else None,
        "chunks": [counts.chunks, counts.acknowledged],
        "state": sink.state(),
        "sample": [(document, id.hex()) for document, id in sample if id in same],
    }
    ledger.set(KEY, json.dumps(noted))
