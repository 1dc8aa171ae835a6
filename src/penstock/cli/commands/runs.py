"""What commands that run a pipeline share: composing it, showing it, and its exit status."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

from penstock.cli.ledgers import state_option
from penstock.cli.options import pipeline_options, source_dest
from penstock.cli.output.report import report_text
from penstock.cli.output.results import say
from penstock.cli.output.streams import INCOMPLETE, OK, STOPPED, complain
from penstock.cli.signals import interruptible
from penstock.core.metadata import parse_metadata
from penstock.display.progress import Display, display
from penstock.display.text import document_name
from penstock.engine.progress import Report
from penstock.pipeline import Pipeline
from penstock.settings import Settings


def composed(args: argparse.Namespace) -> Pipeline:
    """The pipeline of `PATH --into URL ...`."""
    dests = {name: name for name in pipeline_options()} | {name: source_dest(name) for name in args.source_options}
    values = {name: value for name, dest in dests.items() if (value := getattr(args, dest)) is not None}
    if metadata := values.get("metadata"):
        values["metadata"] = parse_metadata(metadata)
    return Pipeline.from_settings(Settings.from_mapping(values | {"source": args.path}, "command line"))


@contextmanager
def shown(pipeline: Pipeline, args: argparse.Namespace) -> Iterator[Display]:
    """Show the progress of a job on this pipeline, and let Ctrl-C stop it."""
    title = f"{document_name(pipeline.source.name)} → {pipeline.sink.url}"
    with display(title, as_json=args.json, quiet=args.quiet) as progress, interruptible(progress):
        yield progress


def show_report(report: Report, pipeline: Pipeline, *, listed: bool = True) -> None:
    """`listed`: the run went through the whole source, not only through what had failed."""
    say(report_text(report, again=state_option(pipeline.ledger.path), listed=listed))
    if listed and report.status == "done" and not report.complete and not pipeline.source.feed:
        complain("the source could not be listed whole, so nothing was deleted from the index")


def exit_status(report: Report) -> int:
    if report.status == "stopped":
        return STOPPED
    return OK if report.ok else INCOMPLETE
