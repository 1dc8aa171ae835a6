"""`penstock documents`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import chain, islice

from penstock.cli.ledgers import ledger_path, open_ledger
from penstock.cli.output.results import say, table
from penstock.cli.output.streams import INCOMPLETE, OK, complain, emit
from penstock.core.errors import UsageError
from penstock.display.text import document_name, moment
from penstock.jobs import documents as jobs
from penstock.jobs.documents import DocumentEntry
from penstock.pipeline import Pipeline


def documents(args: argparse.Namespace) -> int:
    if args.removed and (args.failing or args.missing):
        raise UsageError("--removed lists what was taken out for good: it takes no --failing and no --missing")
    listed = islice(_entries(args), args.limit)
    if (first := next(listed, None)) is None:
        if args.pattern is not None:
            complain(f"no document matches {args.pattern}")
            return INCOMPLETE
        if not args.json:
            say("no documents")
        return OK
    entries = chain([first], listed)
    if args.json:
        for entry in entries:
            emit(entry.to_json())
        return OK
    headings = ["document", "state", "chunks", "changed", *(["cause"] if args.missing else [])]
    for page in table(headings, (_row(entry)[: len(headings)] for entry in entries)):
        say(page)
    return OK


def _entries(args: argparse.Namespace) -> Iterator[DocumentEntry]:
    if args.missing:  # which takes the source, and so the pipeline
        pipeline = Pipeline.from_state(ledger_path(args))
        yield from pipeline.documents(args.pattern, failing=args.failing, missing=True)
        return
    with open_ledger(args) as ledger:
        if args.removed:
            yield from jobs.removed(ledger, args.pattern)
        else:
            yield from jobs.documents(ledger, args.pattern, failing=args.failing)


def _row(entry: DocumentEntry) -> tuple[str, ...]:
    changed = "" if entry.changed is None else moment(entry.changed)
    return document_name(entry.uri), entry.state, f"{entry.chunks:,}", changed, entry.cause
