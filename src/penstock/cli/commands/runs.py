"""What commands that run a pipeline share: composing it, showing it, and its exit status."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path
from typing import Any

from penstock.cli.ledgers import last_runs, state_option
from penstock.cli.options import pipeline_options, source_dest
from penstock.cli.output.log import Log
from penstock.cli.output.report import report_text
from penstock.cli.output.results import say
from penstock.cli.output.streams import INCOMPLETE, OK, complain, emit, log
from penstock.cli.signals import interruptible
from penstock.core.errors import PenstockError, UsageError
from penstock.core.metadata import parse_metadata
from penstock.core.schema import parse_named
from penstock.display.progress import Display, display
from penstock.display.text import clean, document_name
from penstock.engine.journal import Failure
from penstock.engine.progress import Progress, Report
from penstock.ledger import Ledger
from penstock.pipeline import Pipeline
from penstock.settings import Settings

NAMED = 20
"""Documents that a quiet command names, at most."""
LOGGED = ("stage", "place", "cause", "attempts", "permanent", "accepted")
"""What a log says of a failure, beside its document."""


def composed(args: argparse.Namespace) -> Pipeline:
    """The pipeline of `PATH --into URL ...`."""
    dests = {name: name for name in pipeline_options()} | {name: source_dest(name) for name in args.source_options}
    values = {name: value for name, dest in dests.items() if (value := getattr(args, dest)) is not None}
    if metadata := values.get("metadata"):
        values["metadata"] = parse_metadata(metadata)
    if models := values.get("model"):
        values["model"] = parse_named(models)
    return Pipeline.from_settings(Settings.from_mapping(values | {"source": args.path}, "command line"))


def run_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options of `run`, or with --live of `watch`."""
    options = {"allow_mass_delete": args.allow_mass_delete, "adopt": args.adopt}
    if args.on is not None:
        if args.live:
            raise UsageError("--on and --live exclude each other: workers need a source that is listed and done")
        options["on"] = args.on
    if args.every is None:
        return options
    if not args.live:
        raise UsageError("--every is of --live, which follows the source")
    return options | {"every": args.every}


@contextmanager
def shown(pipeline: Pipeline, args: argparse.Namespace) -> Iterator[Display]:
    """Show the progress of a job on this pipeline, and what failed in it where no report does; let Ctrl-C stop it."""
    source, index, state = pipeline.source.name, pipeline.sink.url, pipeline.ledger.path
    as_log = args.log_format == "json"
    before = last_runs(state)
    if not args.quiet:
        log("start", command=args.command, source=source, index=index, ledger=str(state))
    title = f"{document_name(source)} → {index}"
    shown = Log() if as_log and not args.quiet else display(title, as_json=args.json, quiet=args.quiet)
    try:
        with shown as progress, interruptible(progress, stop_ok=args.stop_ok):
            yield progress
    except Exception:
        with suppress(PenstockError):  # the first error is the one to raise
            name_failures(state, before, quiet=args.quiet, as_log=as_log)
        raise
    name_failures(state, before, quiet=args.quiet, as_log=as_log)


@contextmanager
def metered(progress: Display, address: str | None) -> Iterator[Callable[[Progress], None]]:
    """The display as a callback for a run's progress, which is served at that address as well, if there is one."""
    if address is None:
        yield progress
        return
    from penstock.cli.endpoint import Healths, endpoint  # here, as a command without it starts sooner

    healths = Healths()

    def both(now: Progress) -> None:
        healths[""](now)
        progress(now)

    with endpoint(address, healths):
        yield both


def name_failures(state: Path, before: dict[Path, int], *, quiet: bool, as_log: bool) -> None:
    """Log the failures that runs after these have noted; of a quiet command those for which its status is not 0, or
    name their documents."""
    if not (quiet or as_log):
        return
    now = last_runs(state)
    filled = [path for path, run in now.items() if run > before.get(path, 0)] or list(now)[:1]
    for path in filled:
        with Ledger.reader(path) as ledger:
            failures = ledger.pressing(before.get(path, 0)) if quiet else ledger.noted(before.get(path, 0))
            if as_log:
                _log_failures(failures)
            else:
                _name_documents(failures, state_option(state))


def _log_failures(failures: Iterator[Failure]) -> None:
    for failure in failures:
        level = "warning" if failure.accepted else "error"
        log("failure", level, document=failure.uri, **{name: getattr(failure, name) for name in LOGGED})


def _name_documents(failures: Iterator[Failure], again: str) -> None:
    more = 0
    for number, (uri, of_document) in enumerate(groupby(failures, lambda failure: failure.uri)):
        if number < NAMED:
            first = next(of_document)
            complain(f"{document_name(uri)}: {first.stage}: {clean(first.cause)}")
        else:
            more += 1
    if more:
        complain(f"and {more:,} more: `penstock failures{again}` lists all")


def conclude(report: Report, pipeline: Pipeline, args: argparse.Namespace, status: int, *, listed: bool = True) -> None:
    """Say what a run did, in the form that is asked for."""
    if args.json:
        emit({"event": "report", "ok": report.ok, **report.to_json()})
    if args.quiet:
        if report.behind:
            complain(f"{', '.join(report.behind)}: away, and behind: a later run brings it up to date")
    elif args.log_format == "json":
        log_report(report, pipeline, listed=listed)
        log_end(status, report.ok, report.to_json())
    elif not args.json:
        show_report(report, pipeline, listed=listed)


def show_report(report: Report, pipeline: Pipeline, *, listed: bool = True) -> None:
    """`listed`: the run went through the whole source, not only through what had failed."""
    say(report_text(report, again=state_option(pipeline.ledger.path), listed=listed))
    _note_listing(report, pipeline, listed)


def log_report(report: Report, pipeline: Pipeline, *, listed: bool = True) -> None:
    """What a report says besides its numbers, as events."""
    for notice in report.notices:
        complain(notice)
    _note_listing(report, pipeline, listed)


def _note_listing(report: Report, pipeline: Pipeline, listed: bool) -> None:
    if listed and report.status == "done" and not report.complete and not pipeline.source.feed:
        complain("the source could not be listed whole, so nothing was deleted from the index")


def log_end(status: int, ok: bool, numbers: dict[str, Any]) -> None:
    log("end", "info" if status == OK else "error", **{"ok": ok, "exit_status": status, **numbers})


def exit_status(stopped: bool, ok: bool, progress: Display) -> int:
    if stopped:
        return progress.stop_status
    return OK if ok else INCOMPLETE
