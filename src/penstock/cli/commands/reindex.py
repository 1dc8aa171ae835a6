"""`penstock reindex`."""

from __future__ import annotations

import argparse

from penstock.cli.commands.runs import exit_status, log_end, log_report, show_report, shown
from penstock.cli.ledgers import ledger_path
from penstock.cli.output.results import reindexed_rows, rows_text, say
from penstock.cli.output.streams import OK, emit
from penstock.core.errors import UsageError
from penstock.core.generations import RECALL, TOLERANCE
from penstock.core.schema import parse_named
from penstock.pipeline import Pipeline


def reindex(args: argparse.Namespace) -> int:
    changes = {name: value for name in ("model", "chunk") if (value := getattr(args, name)) is not None}
    if (args.rollback or args.drop) == bool(changes):
        raise UsageError("reindex takes --model or --chunk or both; or --rollback; or --drop")
    if args.questions is None and args.tolerance is not None:
        raise UsageError("--tolerance is of --questions")
    if args.questions is not None and not changes:
        raise UsageError("--questions is of --model and --chunk: it says whether to switch to the new index")
    if args.model:
        changes["model"] = parse_named(args.model)
    pipeline = Pipeline.from_state(ledger_path(args), **changes)
    if args.rollback or args.drop:
        return _switch_back(pipeline, args)
    with shown(pipeline, args) as progress:
        reindexed = pipeline.reindex(
            progress,
            least_recall=RECALL if args.recall is None else args.recall,
            incomplete=args.incomplete,
            questions=args.questions,
            tolerance=TOLERANCE if args.tolerance is None else args.tolerance,
        )
    last = reindexed.reports[-1]
    ok = reindexed.switched and not reindexed.trouble and last.ok
    status = exit_status(last.status == "stopped", ok, progress)
    if args.json:
        emit(reindexed.to_json())
    if args.quiet:
        return status
    reports = reindexed.reports[:-1] or reindexed.reports  # the last one found nothing new
    if args.log_format == "json":
        for report in reports:
            log_report(report, pipeline)
        log_end(status, ok, reindexed.to_json())
    elif not args.json:
        for report in reports:
            show_report(report, pipeline)
        say(rows_text(reindexed_rows(reindexed)))
    return status


def _switch_back(pipeline: Pipeline, args: argparse.Namespace) -> int:
    """`--rollback` and `--drop`."""
    urls = [pipeline.rollback()] if args.rollback else pipeline.drop_former()
    record = {"current" if args.rollback else "dropped": urls}
    if args.json:
        emit(record)
    if args.quiet:
        return OK
    if args.log_format == "json":
        log_end(OK, True, record)
    elif not args.json:
        say("\n".join(f"{'current: ' if args.rollback else 'dropped: '}{url}" for url in urls) or "nothing to drop")
    return OK
