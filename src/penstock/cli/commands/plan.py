"""`penstock plan`."""

from __future__ import annotations

import argparse

from penstock.cli.commands.runs import composed
from penstock.cli.ledgers import ledger_path
from penstock.cli.options import pipeline_options
from penstock.cli.output.results import plan_rows, rows_text, say
from penstock.cli.output.streams import OK, complain, emit
from penstock.core.errors import UsageError
from penstock.display.text import document_name
from penstock.pipeline import Pipeline


def plan(args: argparse.Namespace) -> int:
    options = [name for name in pipeline_options() if name != "state" and getattr(args, name) is not None]
    if args.path and args.into:
        pipeline = composed(args)
    elif args.path or options:
        raise UsageError("plan takes PATH and --into, or neither: then it plans for the pipeline that the ledger knows")
    else:
        pipeline = Pipeline.from_state(ledger_path(args))
    plan = pipeline.plan()
    if args.json:
        emit(plan.to_json())
        return OK
    say(rows_text(plan_rows(plan)))
    if plan.documents:
        say(rows_text((kind, document_name(uri)) for kind, uri in plan.documents))
    if (rest := plan.new + plan.changed + plan.deleted - len(plan.documents)) > 0:
        say(f"... and {rest:,} more")
    if plan.refused:
        complain("so much would be deleted that a run stops: if it is right, run with --allow-mass-delete")
    if not plan.complete and not pipeline.source.feed:
        complain("the source could not be listed whole: nothing would be deleted")
    return OK
