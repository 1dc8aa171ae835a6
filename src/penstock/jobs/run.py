"""Bring an index up to date with its source, or try again what failed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from penstock.chunkers.fitted import Fitted
from penstock.chunkers.text import TextChunker
from penstock.core.deletions import Missing
from penstock.core.errors import Transient
from penstock.core.records import Change
from penstock.core.retry import MAX_WAIT
from penstock.engine.commit import Errand
from penstock.engine.flow import AnyHead, Flow
from penstock.engine.head import Head
from penstock.engine.journal import FAILED, OPEN
from penstock.engine.progress import Progress, Report
from penstock.engine.tail import LINGER, Tail
from penstock.jobs import reading, restored
from penstock.jobs.alerts import Matcher, delivering
from penstock.jobs.beside import beside, wait
from penstock.jobs.beside import report as beside_report
from penstock.jobs.components import Components, current_ledger
from penstock.jobs.elsewhere import claim, elsewhere
from penstock.jobs.progress_file import ProgressFile
from penstock.jobs.remove import finish
from penstock.jobs.requests import looked_up
from penstock.jobs.session import Session, fingerprints
from penstock.ledger import Ledger
from penstock.workers.place import Place

DELIVERING = 30.0
"""Seconds that a run waits at its end for what alerts found to be delivered; a later run delivers the rest."""
OnProgress = Callable[[Progress], None] | None


class Following(Protocol):
    """What a run needs that follows its source (see `live`)."""

    def stop(self) -> None:
        """Have the changes come to their end."""
        ...

    def hold(self, missing: Missing | None) -> bool:
        """See `engine.commit`."""
        ...

    def describe(self, now: Progress) -> dict[str, Any]:
        """How it stands."""
        ...

    @property
    def errand(self) -> Errand: ...

    def begin(self, wake: Callable[[], None]) -> None:
        """The run begins: `wake` has it look at the errand."""
        ...


@dataclass(frozen=True, slots=True)
class Options:
    """How a run goes about it."""

    force: bool = False
    """Read every item, whatever the ledger knows of it."""
    allow_mass_delete: bool = False
    """Take out whatever the source no longer has, however much it is."""
    max_wait: float = MAX_WAIT
    """Seconds for which a store or model that is away is waited for."""
    live: Following | None = None
    """Where the run goes on until it is stopped."""
    place: Place | None = None
    """Where workers take documents and bring what they have made of them."""


def run(
    components: Components, progress: OnProgress = None, *, options: Options | None = None, adopt: bool = False
) -> Report:
    """Bring the index up to date with the source."""
    with ExitStack() as stack:
        session = Session(components, stack, adopt=adopt)
        source = session.components.source
        changes = source.changes(session.components.ledger.cursor(source.name))
        return go(session, changes, progress, options or Options())


def retry(components: Components, progress: OnProgress = None, *, max_wait: float = MAX_WAIT) -> Report:
    """Try again everything that is in the ledger as failed or skipped. A run that follows its source and holds the
    ledger is asked to."""

    def alone() -> Report:
        with ExitStack() as stack:
            session = Session(components, stack)
            return go(session, unfinished(session.components), progress, Options(force=True, max_wait=max_wait))

    path = components.state
    if not path.exists():
        return alone()
    path = current_ledger(path)
    return beside(path, alone, lambda: _asked_to_retry(path, max_wait))


def _asked_to_retry(path: Path, max_wait: float) -> Report:
    with Ledger.reader(path) as ledger:
        asked = time.time()
        number = ledger.retry_now(asked)
        wait(path, lambda: not ledger.untried(asked), max_wait)
        failed = ledger.tried_in_vain(asked)
        left = ledger.untried(asked)
        notice = "tried by the run that follows the source"
        if left:
            notice += f", which has {left:,} of {number:,} documents still to try"
        return beside_report(ledger, notice, documents=max(0, number - failed - left), failed=failed)


def unfinished(components: Components) -> Iterator[Change]:
    """Documents that failed, were skipped or are half-done, as the source has them now."""
    return looked_up(components.source, components.ledger.unfinished())


def go(session: Session, changes: Iterable[Change], progress: OnProgress, options: Options) -> Report:
    """Run these changes through the engine, and deliver what alerts find."""
    with delivering(session, live=options.live is not None) as deliveries:
        report = _go(session, changes, progress, options)
        if deliveries is not None and report.status == "done":
            deliveries.finish(DELIVERING)
        return report


def _go(session: Session, changes: Iterable[Change], progress: OnProgress, options: Options) -> Report:
    ledger = session.components.ledger
    began = time.monotonic()
    if options.place is not None:
        claim(session, options.place)
    session.catch_up()
    restored.compare_if_restored(session, options.max_wait)
    if late := finish(ledger, session.sink, session.open_sink, options.max_wait):
        session.notices.append(f"{late:,} documents that were removed before went now")
    run = ledger.begin_run(fingerprints(session.schema))
    since, notices = reading.begin(session.components, ledger, run)
    session.notices += notices
    flow = _flow(session, changes, run, since, options)
    status = "failed"
    live = options.live
    if live is not None:
        live.begin(flow.wake)
    progress_file = ProgressFile(ledger.path, progress, live.describe if live else None)
    try:
        with session.ready_early() if live is not None else nullcontext():
            flow.run(progress_file)
        status = "stopped" if flow.interrupted else "done"
        if not flow.interrupted:
            with suppress(Transient):  # what is acknowledged is there; the report names who is behind
                session.catch_up()
    finally:
        session.source_ended = flow.source_ended
        progress_file.remove()
        report = _report(session, flow, run, status, time.monotonic() - began)
        ledger.end_run(run, status, report.to_json())
    changed = bool(report.written + report.removed)
    if session.sink_is_open and changed and options.live is None:  # else it was maintained as it went
        with suppress(Transient):  # as while another run writes to the store; the next run does it
            session.sink.maintain()
    if status == "done":
        with suppress(Exception):  # of the store: what it has is safe, and the next run looks no further
            restored.note(session, run, changed=changed)
    return report


def _flow(session: Session, changes: Iterable[Change], run: int, since: int, options: Options) -> Flow:
    components, sink = session.components, session.sink
    source, ledger, live = components.source, components.ledger, options.live
    feed = source.feed or live is not None
    head: AnyHead
    ready: Callable[[], object]
    if options.place is not None:
        head = elsewhere(session, changes, run, since, options.place, force=options.force)
        ready = session.ready_to_write
    else:
        head = Head(
            changes=changes,
            parse=session.parsers.parse,
            embedder=components.embedder,
            ready=session.ready,
            view=ledger,
            run=run,
            workers=components.workers,
            id_prefix=components.id_prefix,
            feed=feed,
            heard=not source.feed,
            fetchers=source.fetchers,
            stop_source=live.stop if live else source.stop,
            force=options.force,
            metadata=components.metadata,
            since=since,
            parser_code=session.parsers.code,
            fetch=sink.fetch if sink.readable else None,
            fetch_rows=sink.max_rows,
            match=Matcher(ledger, components.embedder, session.schema) if session.current else None,
        )
        ready = session.ready
    tail = Tail(
        sink=sink,
        ready=ready,
        journal=ledger,
        run=run,
        source=source.name,
        feed=feed,
        maintain=(lambda beside: _maintain(session, beside)) if live else None,
        errand=live.errand if live else None,
        hold=live.hold if live else None,
        max_delete=None if options.allow_mass_delete else components.max_delete,
        linger=LINGER,
    )
    return Flow(head, tail, budget=components.budget, max_wait=options.max_wait)


def _maintain(session: Session, beside: bool) -> bool:
    """Maintain the sink while the run goes on; what fails is tried again later."""
    try:
        if beside:
            return session.sink.maintain_beside()
        session.sink.maintain()
    except Exception as error:  # whatever its driver raises: no reason to end a run of weeks
        if (notice := f"{session.sink.url} could not be maintained: {error}") not in session.notices:
            session.notices.append(notice)
    return True


def _report(session: Session, flow: Flow, run: int, status: str, seconds: float) -> Report:
    last, ledger = flow.progress(), session.components.ledger
    counts = ledger.counts()
    fan_out, barred = session.fan_out, last.counts["barred"]
    return Report(
        run=run,
        status=status,
        seconds=seconds,
        counts=last.counts,
        failing=counts.failed + counts.open,
        complete=flow.complete,
        peak_bytes=last.peak,
        budget=session.components.budget,
        passed_over={**session.components.source.passed_over, **({"removed": barred} if barred else {})},
        notices=(*session.notices, *(fan_out.notices if fan_out else ()), *_shortened(session)),
        behind=tuple(fan_out.behind) if fan_out else (),
        accepted=ledger.accepted_documents(OPEN, FAILED),
        unaccepted=ledger.unaccepted(run),
    )


def _shortened(session: Session) -> list[str]:
    """A notice where the model takes less than the size of chunks that was asked for."""
    chunker, tokenizer = session.chunker, session.components.embedder.tokenizer
    if not isinstance(chunker, Fitted | TextChunker) or not chunker.shortened or tokenizer is None:
        return []
    return [
        f"{chunker.shortened:,} of {chunker.pieces:,} chunks are shorter than asked for: {session.schema.chunking} are"
        f" often more than the {tokenizer.max_tokens:,} tokens that the model takes"
    ]
