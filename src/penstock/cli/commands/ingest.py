"""`penstock ingest`, `run` and `retry`."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from penstock.cli.commands.runs import composed, exit_status, log_end, log_report, metered, show_report, shown
from penstock.cli.ledgers import ledger_path
from penstock.cli.output.streams import complain, emit
from penstock.core.errors import UsageError
from penstock.engine.progress import Progress, Report
from penstock.pipeline import Pipeline

Work = Callable[[Callable[[Progress], None]], Report]


def ingest(args: argparse.Namespace) -> int:
    return _update(composed(args), args)


def run(args: argparse.Namespace) -> int:
    return _update(Pipeline.from_toml(args.file), args)


def retry(args: argparse.Namespace) -> int:
    pipeline = Pipeline.from_state(ledger_path(args))
    return _report(pipeline, args, pipeline.retry, listed=False)


def _update(pipeline: Pipeline, args: argparse.Namespace) -> int:
    options = {"allow_mass_delete": args.allow_mass_delete, "adopt": args.adopt}
    if args.live:
        every = {} if args.every is None else {"every": args.every}
        return _report(pipeline, args, lambda progress: pipeline.watch(progress, **options, **every))
    if args.every is not None:
        raise UsageError("--every is of --live, which follows the source")
    return _report(pipeline, args, lambda progress: pipeline.run(progress, **options))


def _report(pipeline: Pipeline, args: argparse.Namespace, work: Work, *, listed: bool = True) -> int:
    with shown(pipeline, args) as progress, metered(progress, getattr(args, "metrics", None)) as metering:
        report = work(metering)
    status = exit_status(report.status == "stopped", report.ok, progress)
    if args.json:
        emit({"event": "report", "ok": report.ok, **report.to_json()})
    if args.quiet:
        if report.behind:
            complain(f"{', '.join(report.behind)}: away, and behind: a later run brings it up to date")
        return status
    if args.log_format == "json":
        log_report(report, pipeline, listed=listed)
        log_end(status, report.ok, report.to_json())
    elif not args.json:
        show_report(report, pipeline, listed=listed)
    return status
