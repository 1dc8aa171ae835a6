"""`penstock status` and `failures`."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from penstock.cli.ledgers import index_urls, open_ledger
from penstock.cli.output.results import rows_text, say, status_rows, table
from penstock.cli.output.streams import OK, emit
from penstock.display.text import document_name, moment
from penstock.jobs.ledgers import remembered, size


def status(args: argparse.Namespace) -> int:
    with open_ledger(args) as ledger:
        settings = remembered(ledger)
        report: dict[str, Any] = {
            "ledger": str(ledger.path),
            "ledger_bytes": size(ledger.path),
            "index": index_urls(settings),
            "source": settings.get("source"),
            **asdict(ledger.counts()),
            "runs": [asdict(run) for run in ledger.runs(5)],
        }
    if args.json:
        emit(report)
        return OK
    say(rows_text(status_rows(report)))
    return OK


def failures(args: argparse.Namespace) -> int:
    with open_ledger(args) as ledger:
        failures = ledger.failures()
        if args.json:
            for failure in failures:
                emit(asdict(failure))
            return OK
        rows = ((document_name(f.uri), f.stage, f.place, f.cause, str(f.attempts), moment(f.last)) for f in failures)
        if not ledger.counts().failures:
            say("no failures")
            return OK
        for page in table(("document", "stage", "place", "cause", "attempts", "when"), rows):
            say(page)
    return OK
