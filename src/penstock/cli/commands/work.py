"""`penstock work`."""

from __future__ import annotations

import argparse

from penstock import compose
from penstock.cli.output.results import Rows, rows_text, say
from penstock.cli.output.streams import OK, STOPPED, emit
from penstock.cli.signals import interruptible
from penstock.display.progress import display
from penstock.display.text import clean
from penstock.workers.worker import Terms, Worked


def work(args: argparse.Namespace) -> int:
    with display(clean(args.place), as_json=args.json, quiet=args.quiet) as progress, interruptible(progress):
        worked = compose.work(
            args.place,
            progress,
            memory=args.memory,
            workers=args.workers,
            terms=Terms(idle=args.idle, keep=args.keep),
        )
    if args.json:
        emit({"event": "report", **worked.to_json()})
    elif not args.quiet:
        say(rows_text(_rows(worked)))
    return STOPPED if worked.status == "stopped" else OK


def _rows(worked: Worked) -> Rows:
    counts = worked.counts
    return [
        ("documents", f"{counts['documents']:,} read · {counts['failed']:,} failed · {counts['skipped']:,} skipped"),
        ("chunks", f"{counts['embedded']:,} embedded · {counts['kept']:,} kept · {counts['moved']:,} moved"),
        ("shards", f"{worked.shards:,} finished · {worked.lost:,} taken over by others"),
    ]
