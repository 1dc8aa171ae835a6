"""`penstock status`, `failures`, `approve` and `refresh`."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from penstock.cli.ledgers import index_urls, open_ledger
from penstock.cli.output.results import FAILURE_COLUMNS, failure_row, failure_text, rows_text, say, table
from penstock.cli.output.status import status_rows
from penstock.cli.output.streams import OK, emit
from penstock.core.errors import UsageError
from penstock.display.text import count
from penstock.engine.journal import FAILED, OPEN
from penstock.jobs import progress_file, requests
from penstock.jobs.held import Held
from penstock.jobs.ledgers import remembered, size
from penstock.jobs.live import noted
from penstock.sources import uri_of


def status(args: argparse.Namespace) -> int:
    with open_ledger(args) as ledger:
        settings = remembered(ledger)
        report: dict[str, Any] = {
            "ledger": str(ledger.path),
            "ledger_bytes": size(ledger.path),
            "index": index_urls(settings),
            "source": settings.get("source"),
            **asdict(ledger.counts()),
            "documents_accepted": ledger.accepted_documents(OPEN, FAILED),
            "runs": [asdict(run) for run in ledger.runs(5)],
            "alerts": len(ledger.alerts()),
            "matches_waiting": ledger.matches_waiting(),
            **noted(ledger),
            "run": (run := progress_file.read(ledger.path)),
            "live": run.get("live") if run else None,
        }
    if args.json:
        emit(report)
        return OK
    say(rows_text(status_rows(report)))
    return OK


def approve(args: argparse.Namespace) -> int:
    """The run that goes on lists the source again, and lets go what it lacks then."""
    with open_ledger(args) as ledger:
        if (held := Held.read(ledger)) is None:
            say("nothing is held")
            return OK
        held.approve(ledger)
    say(f"approved: {count(held.documents, 'document')} with {held.chunks:,} of {held.of:,} chunks may go")
    return OK


def refresh(args: argparse.Namespace) -> int:
    """Have the run that goes on list its source."""
    with open_ledger(args) as ledger:
        if not requests.refresh(ledger):
            raise UsageError(
                f"no run follows a source with the ledger {ledger.path}: a run of `penstock ingest` lists its own"
            )
    say("the run that follows the source lists it now")
    return OK


def failures(args: argparse.Namespace) -> int:
    if args.accept or args.accept_all or args.unaccept:
        return _accept(args)
    with open_ledger(args) as ledger:
        failures = ledger.failures()
        if args.json:
            for failure in failures:
                record = asdict(failure)
                if not args.traceback:
                    del record["traceback"]
                emit(record)
            return OK
        if not ledger.counts().failures:
            say("no failures")
            return OK
        if args.traceback:
            for failure in failures:
                say(failure_text(failure))
            return OK
        for page in table(FAILURE_COLUMNS, map(failure_row, failures)):
            say(page)
    return OK


def _accept(args: argparse.Namespace) -> int:
    """`--accept`, `--accept-all` and `--unaccept`. A run may go on meanwhile."""
    with open_ledger(args) as ledger:
        named = args.accept or args.unaccept or ()
        uris = [name if next(ledger.failures(name), None) else uri_of(name) for name in named]
        if args.unaccept:
            number = ledger.unaccept_failures(uris)
        else:
            number = ledger.accept_failures(None if args.accept_all else uris)
    if args.json:
        emit({"unaccepted" if args.unaccept else "accepted": number})
    else:
        say(f"{count(number, 'failure')} {'count again' if args.unaccept else 'accepted'}")
    return OK
