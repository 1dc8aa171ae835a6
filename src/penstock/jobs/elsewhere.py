"""A run whose documents are worked on elsewhere: see `penstock.workers`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib.metadata import version

from penstock.core.errors import UsageError
from penstock.core.records import Change
from penstock.jobs.alerts import Matcher
from penstock.jobs.session import Session
from penstock.workers.coordinate import Elsewhere
from penstock.workers.place import Place, Work


def claim(session: Session, place: Place) -> None:
    """Take the place. Raises UsageError for a pipeline that cannot be written down, or of a feed, and OwnershipError
    where the place is another's."""
    components = session.components
    if components.settings is None:
        raise UsageError(
            "a pipeline with components or keys of your own cannot be run by workers: they get its settings as words"
        )
    if components.source.feed:
        raise UsageError(f"{components.source.name} is a feed: workers need a source that can be listed whole")
    place.claim(components.ledger.id)


def elsewhere(
    session: Session, changes: Iterable[Change], run: int, since: int, place: Place, *, force: bool
) -> Elsewhere:
    """The head of such a run, whose place is claimed."""
    components, sink, ledger = session.components, session.sink, session.components.ledger
    settings = json.loads(components.settings or "{}")
    work = Work(ledger.id, run, settings, session.schema, components.reading, version("penstock"))
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
