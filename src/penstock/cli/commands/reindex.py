"""`penstock reindex`."""

from __future__ import annotations

import argparse

from penstock.cli.commands.runs import show_report, shown
from penstock.cli.ledgers import ledger_path
from penstock.cli.output.results import reindexed_rows, rows_text, say
from penstock.cli.output.streams import INCOMPLETE, OK, STOPPED, emit
from penstock.core.errors import UsageError
from penstock.pipeline import Pipeline


def reindex(args: argparse.Namespace) -> int:
    changes = {name: value for name in ("model", "chunk") if (value := getattr(args, name)) is not None}
    if (args.rollback or args.drop) == bool(changes):
        raise UsageError("reindex takes --model or --chunk or both; or --rollback; or --drop")
    pipeline = Pipeline.from_state(ledger_path(args), **changes)
    if args.rollback or args.drop:
        return _switch_back(pipeline, args)
    with shown(pipeline, args) as progress:
        reindexed = pipeline.reindex(progress, least_recall=args.recall, incomplete=args.incomplete)
    if args.json:
        emit(reindexed.to_json())
    elif not args.quiet:
        for report in reindexed.reports[:-1] or reindexed.reports:  # the last one found nothing new
            show_report(report, pipeline)
        say(rows_text(reindexed_rows(reindexed)))
    if reindexed.reports[-1].status == "stopped":
        return STOPPED
    return OK if reindexed.switched and not reindexed.trouble and reindexed.reports[-1].ok else INCOMPLETE


def _switch_back(pipeline: Pipeline, args: argparse.Namespace) -> int:
    """`--rollback` and `--drop`."""
    urls = [pipeline.rollback()] if args.rollback else pipeline.drop_former()
    if args.json:
        emit({"current" if args.rollback else "dropped": urls})
    elif not args.quiet:
        say("\n".join(f"{'current: ' if args.rollback else 'dropped: '}{url}" for url in urls) or "nothing to drop")
    return OK
