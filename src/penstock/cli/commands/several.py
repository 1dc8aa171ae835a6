"""`penstock run` of a file with several pipelines."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from math import inf
from typing import TYPE_CHECKING, Any

from penstock.cli.commands.runs import conclude, exit_status, name_failures, run_options
from penstock.cli.ledgers import last_runs
from penstock.cli.output.errors import explain_error, message
from penstock.cli.output.log import Log
from penstock.cli.output.results import say
from penstock.cli.output.streams import FAILED, INCOMPLETE, OK, STOPPED, Stopped, complain, labelled, log
from penstock.cli.signals import interruptible
from penstock.core.errors import PenstockError, UsageError
from penstock.display.progress import Display, display
from penstock.display.several import Displays
from penstock.display.text import clean
from penstock.engine.progress import Progress
from penstock.jobs.several import Outcome
from penstock.pipelines import Pipelines

if TYPE_CHECKING:
    from penstock.cli.endpoint import Healths


def run_several(pipelines: Pipelines, args: argparse.Namespace) -> int:
    options = run_options(args)
    if args.on is not None:
        raise UsageError(f"{args.file} has several pipelines, and workers are for one: name it with --only")
    healths: Healths | None = None
    work = pipelines.watch if args.live else pipelines.run
    before = {name: last_runs(pipelines[name].ledger.path) for name in pipelines}
    if not args.quiet:
        for name in pipelines:
            with labelled(name):
                pipeline = pipelines[name]
                source, index, ledger = pipeline.source.name, pipeline.sink.url, str(pipeline.ledger.path)
                log("start", command=args.command, source=source, index=index, ledger=ledger)
    statuses: dict[str, int] = {}

    def failed(name: str, error: BaseException, again: float | None) -> None:
        if healths is not None:
            healths[name].rest(inf if again is None else again)
        with labelled(name):
            if again is None:
                statuses[name] = explain_error(error)
            else:
                complain(f"{message(error)}\nit begins again in {again:.0f} s")

    def show(name: str, now: Progress) -> None:
        if healths is not None:
            healths[name](now)
        shown.show_of(name, now)

    with ExitStack() as stack:
        if args.metrics:
            from penstock.cli.endpoint import Healths, endpoint  # here, as a command without it starts sooner

            healths = Healths(pipelines)
            stack.enter_context(endpoint(args.metrics, healths))
        shown = stack.enter_context(_displays(pipelines, args))
        stack.enter_context(interruptible(shown, stop_ok=args.stop_ok))
        outcomes = work(show, on_failure=failed, **options)
    for name, outcome in outcomes.items():
        with labelled(name):
            with suppress(PenstockError):
                name_failures(
                    pipelines[name].ledger.path, before[name], quiet=args.quiet, as_log=args.log_format == "json"
                )
            if name not in statuses:  # else its error was told when it ended
                statuses[name] = _conclude(name, outcome, pipelines, shown, args)
    status = combined(statuses.values())
    if shown.stopped:
        raise Stopped(status)  # threads that hang in a store are not waited for
    return status


def _displays(pipelines: Pipelines, args: argparse.Namespace) -> Displays:
    def make(title: str, name: str, **options: Any) -> Display:
        if args.log_format == "json" and not args.quiet:
            return Log(name)
        return display(title, name, as_json=args.json, quiet=args.quiet, **options)

    return Displays(pipelines.titles, make)


def _conclude(name: str, outcome: Outcome, pipelines: Pipelines, shown: Display, args: argparse.Namespace) -> int:
    """Say what became of a pipeline; its exit status."""
    if outcome.error is not None:
        return explain_error(outcome.error)
    if (report := outcome.report) is None:  # stopped before it had begun
        return shown.stop_status
    status = exit_status(report.status == "stopped", report.ok, shown)
    if not (args.json or args.quiet or args.log_format == "json"):
        say(f"{clean(name)}:")
    conclude(report, pipelines[name], args, status)
    return status


def combined(statuses: Iterable[int]) -> int:
    """The exit status of several pipelines: that of all which do not end with 0, or the one for errors."""
    left = {*statuses} - {OK}
    if len(left) < 2:
        return min(left, default=OK)
    return STOPPED if left == {INCOMPLETE, STOPPED} else FAILED
