"""`penstock remove`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from penstock.cli.ledgers import ledger_path
from penstock.cli.output.results import removed_rows, rows_text, say
from penstock.cli.output.streams import INCOMPLETE, OK, complain, confirmed, emit, interactive
from penstock.display.text import count
from penstock.pipeline import Pipeline


def remove(args: argparse.Namespace) -> int:
    pipeline = Pipeline.from_state(ledger_path(args))
    if args.undo or args.dry_run:
        removed = pipeline.remove(*args.name, undo=args.undo, dry_run=args.dry_run)
    else:
        if not args.yes and not _confirmed(pipeline, args.name):
            complain("nothing was removed")
            return INCOMPLETE
        removed = pipeline.remove(*args.name)
    if args.json:
        emit({"undo": args.undo, "dry_run": args.dry_run, **removed.to_json()})
    elif not args.quiet:
        say(rows_text(removed_rows(removed, undo=args.undo, dry_run=args.dry_run)))
    return OK


def _confirmed(pipeline: Pipeline, names: Sequence[str]) -> bool:
    """Whether to go on: asked where somebody can answer, and more than one document goes."""
    if not interactive():
        return True
    planned = pipeline.remove(*names, dry_run=True)
    if planned.documents < 2:
        return True
    what = f"{count(planned.documents, 'document')} with {count(planned.chunks, 'chunk')}"
    return confirmed(f"Remove {what} from the index for good?")
