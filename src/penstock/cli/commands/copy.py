"""`penstock copy`."""

from __future__ import annotations

import argparse

from penstock import compose
from penstock.cli.output.results import copied_rows, rows_text, say
from penstock.cli.output.streams import INCOMPLETE, OK, emit
from penstock.display.progress import counting
from penstock.display.text import clean


def copy(args: argparse.Namespace) -> int:
    title = clean(f"{args.index} → {args.into}")
    with counting(title, quiet=args.quiet or args.json) as update:
        copied = compose.copy(args.index, args.into, lambda done: update(done.written + done.kept, done.total))
    if args.json:
        emit(copied.to_json())
    elif not args.quiet:
        say(rows_text(copied_rows(copied)))
    return OK if copied.ok else INCOMPLETE
