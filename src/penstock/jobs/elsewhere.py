"""A run whose documents are worked on elsewhere: see `penstock.workers`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib.metadata import version

from penstock.core.errors import OwnershipError, UsageError
from penstock.core.records import Change
from penstock.jobs.alerts import Matcher
from penstock.jobs.session import Session
from penstock.workers.coordinate import Elsewhere
from penstock.workers.place import Place, Work


def elsewhere(
    session: Session, changes: Iterable[Change], run: int, since: int, place: Place, *, force: bool
) -> Elsewhere:
    """The head of such a run. Raises UsageError for a pipeline that cannot be told in words, or of a feed."""
    components, sink, ledger = session.components, session.sink, session.components.ledger
    if components.settings is None:
        raise UsageError(
            "workers are told in words what to do: a pipeline with components or keys of your own has none"
        )
    if components.source.feed:
        raise UsageError(f"{components.source.name} is a feed: workers need a source that can be listed whole")
    work = Work(
        ledger.id, run, json.loads(components.settings), session.schema, components.reading, version("penstock")
    )
    kept = place.work()
    if kept is not None and kept.ledger != work.ledger and not place.over():
        raise OwnershipError(
            f"{place.url} has shards of another pipeline (ledger {kept.ledger}), whose run is not over: take another"
            " place"
        )
    alerts = any(True for _ in ledger.alerts())
    return Elsewhere(
        place=place,
        work=work,
        changes=changes,
        ready=session.ready if alerts else session.ready_to_write,  # the model is for their questions
        view=ledger,
        run=run,
        since=since,
        force=force,
        parser_code=session.parsers.code,
        fetch=sink.fetch if sink.readable else None,
        fetch_rows=sink.max_rows,
        match=Matcher(ledger, components.embedder, session.schema) if alerts and session.current else None,
        stop_source=components.source.stop,
    )
