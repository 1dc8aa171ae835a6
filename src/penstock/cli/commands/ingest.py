"""`penstock ingest`, `run` and `retry`."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from penstock.cli.commands.runs import composed, conclude, exit_status, metered, run_options, shown
from penstock.cli.ledgers import ledger_path
from penstock.engine.progress import Progress, Report
from penstock.pipeline import Pipeline

Work = Callable[[Callable[[Progress], None]], Report]


def ingest(args: argparse.Namespace) -> int:
    return _update(composed(args), args)


def run(args: argparse.Namespace) -> int:
    from penstock.cli.commands.several import run_several
    from penstock.pipelines import Pipelines

    pipelines = Pipelines.from_toml(args.file, only=args.only)
    if [*pipelines] == [""]:
        return _update(pipelines[""], args)
    return run_several(pipelines, args)


def retry(args: argparse.Namespace) -> int:
    pipeline = Pipeline.from_state(ledger_path(args))
    return _report(pipeline, args, pipeline.retry, listed=False)


def _update(pipeline: Pipeline, args: argparse.Namespace) -> int:
    options = run_options(args)
    if args.live:
        return _report(pipeline, args, lambda progress: pipeline.watch(progress, **options))
    return _report(pipeline, args, lambda progress: pipeline.run(progress, **options))


def _report(pipeline: Pipeline, args: argparse.Namespace, work: Work, *, listed: bool = True) -> int:
    with shown(pipeline, args) as progress, metered(progress, getattr(args, "metrics", None)) as metering:
        report = work(metering)
    status = exit_status(report.status == "stopped", report.ok, progress)
    conclude(report, pipeline, args, status, listed=listed)
    return status
