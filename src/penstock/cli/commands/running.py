"""`penstock ingest`, `run`, `retry`, `verify`, `reindex` and `copy`: commands that take a while."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from penstock import compose
from penstock.cli.arguments import COMPOSING
from penstock.cli.commands.answering import INCOMPLETE, OK, STOPPED, complain, emit, interruptible
from penstock.cli.commands.ledgers import option_of, path_of
from penstock.cli.display import Display, clean, counting, display, place, report_text
from penstock.cli.results import copied_rows, reindexed_rows, rows_text, say, verification_rows
from penstock.core.errors import UsageError
from penstock.engine.progress import Progress, Report
from penstock.pipeline import Pipeline
from penstock.settings import Settings


def ingest(args: argparse.Namespace) -> int:
    return _bring(composed(args), args)


def run(args: argparse.Namespace) -> int:
    return _bring(Pipeline.from_toml(args.file), args)


def _bring(pipeline: Pipeline, args: argparse.Namespace) -> int:
    return _go(
        pipeline, args, lambda tell: pipeline.run(tell, allow_mass_delete=args.allow_mass_delete, adopt=args.adopt)
    )


def retry(args: argparse.Namespace) -> int:
    pipeline = Pipeline.from_state(path_of(args))
    return _go(pipeline, args, pipeline.retry, listed=False)


def _go(
    pipeline: Pipeline,
    args: argparse.Namespace,
    work: Callable[[Callable[[Progress], None]], Report],
    *,
    listed: bool = True,
) -> int:
    """`listed`: the whole source is, and not only what failed."""
    with _shown(pipeline, args) as tell:
        report = work(tell)
    if args.json:
        emit({"event": "report", "ok": _status_of(report) == OK, **report.to_json()})
    elif not args.quiet:
        _show_report(report, pipeline, listed)
    return _status_of(report)


def _show_report(report: Report, pipeline: Pipeline, listed: bool = True) -> None:
    say(report_text(report, again=option_of(pipeline.ledger.path)))
    if listed and report.status == "done" and not report.complete and not pipeline.source.feed:
        complain("the source could not be listed whole, so nothing was deleted on the strength of it")


def _status_of(report: Report) -> int:
    if report.status == "stopped":
        return STOPPED
    return OK if report.ok else INCOMPLETE


@contextmanager
def _shown(pipeline: Pipeline, args: argparse.Namespace) -> Iterator[Display]:
    title = f"{place(pipeline.source.name)} → {pipeline.sink.url}"
    with display(title, as_json=args.json, quiet=args.quiet) as shown, interruptible(shown):
        yield shown


def verify(args: argparse.Namespace) -> int:
    if args.parts:
        if args.repair or args.sample or args.state or args.allow_mass_delete:
            raise UsageError("a folder of parts is verified whole: no other option goes with it")
        from penstock.cli.commands import parts

        return parts.verify(args)
    pipeline = Pipeline.from_state(path_of(args))
    with _shown(pipeline, args) as tell:
        found = pipeline.verify(
            repair=args.repair, sample=args.sample, progress=tell, allow_mass_delete=args.allow_mass_delete
        )
    if args.json:
        emit({"event": "verification", **found.to_json()})
    elif not args.quiet:
        if found.repaired is not None:
            _show_report(found.repaired, pipeline)
        say(rows_text(verification_rows(found)))
        again = option_of(pipeline.ledger.path)
        if found.ok:
            say("source, ledger and index agree")
        elif not found.complete:
            say("the source could not be listed whole")
        elif found.failing == sum(number for _, number in found.differences):
            say(f"`penstock failures{again}` says why")
        elif found.repaired is None:
            say(f"they differ: `penstock verify --repair{again}` mends what can be mended")
    if found.repaired is not None and found.repaired.status == "stopped":
        return STOPPED
    return OK if found.ok else INCOMPLETE


def reindex(args: argparse.Namespace) -> int:
    changes = {name: value for name in ("model", "chunk") if (value := getattr(args, name)) is not None}
    if (args.rollback or args.drop) == bool(changes):
        raise UsageError("reindex takes --model or --chunk or both; or --rollback; or --drop")
    pipeline = Pipeline.from_state(path_of(args), **changes)
    if args.rollback or args.drop:
        urls = [pipeline.rollback()] if args.rollback else pipeline.drop_former()
        if args.json:
            emit({"current" if args.rollback else "dropped": urls})
        elif not args.quiet:
            say("\n".join(f"{'current: ' if args.rollback else 'dropped: '}{url}" for url in urls) or "nothing to drop")
        return OK
    with _shown(pipeline, args) as tell:
        made = pipeline.reindex(tell, least_recall=args.recall, incomplete=args.incomplete)
    if args.json:
        emit(made.to_json())
    elif not args.quiet:
        for report in made.reports[:-1] or made.reports:  # the last has found nothing new
            _show_report(report, pipeline)
        say(rows_text(reindexed_rows(made)))
    if made.reports[-1].status == "stopped":
        return STOPPED
    return OK if made.switched and not made.trouble and made.reports[-1].ok else INCOMPLETE


def copy(args: argparse.Namespace) -> int:
    title = clean(f"{args.index} → {args.into}")
    with counting(title, quiet=args.quiet or args.json) as tell:
        copied = compose.copy(args.index, args.into, lambda done: tell(done.written + done.kept, done.total))
    if args.json:
        emit(copied.to_json())
    elif not args.quiet:
        say(rows_text(copied_rows(copied)))
    return OK if copied.ok else INCOMPLETE


def composed(args: argparse.Namespace) -> Pipeline:
    given = {name: value for name in (*COMPOSING, "state") if (value := getattr(args, name)) is not None}
    return Pipeline.from_settings(Settings.from_mapping(given | {"source": args.path}, "command line"))
