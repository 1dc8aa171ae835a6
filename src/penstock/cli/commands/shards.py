"""`penstock embed`, `load` and `import`."""

from __future__ import annotations

import argparse

from penstock import compose, shards
from penstock.cli.output.results import embedded_rows, imported_rows, loaded_rows, rows_text, say
from penstock.cli.output.streams import FAILED, INCOMPLETE, OK, STOPPED, emit
from penstock.cli.signals import interruptible
from penstock.display.progress import counting, display
from penstock.display.text import clean
from penstock.shards.embed import Options


def embed(args: argparse.Namespace) -> int:
    title = clean(f"{', '.join(args.path)} → {args.out}")
    options = Options(rows=args.rows, memory=args.memory, workers=args.workers, again=args.again)
    with display(title, as_json=args.json, quiet=args.quiet) as progress, interruptible(progress):
        embedded = compose.embed(
            args.path,
            args.model,
            args.out,
            partition=args.partition,
            claim=args.claim,
            pieces=args.pieces,
            options=options,
            progress=progress,
        )
    if args.json:
        emit({"event": "report", **embedded.to_json()})
    elif not args.quiet:
        say(rows_text(embedded_rows(embedded)))
    if embedded.status == "stopped":
        return STOPPED
    return OK if embedded.ok else INCOMPLETE


def load(args: argparse.Namespace) -> int:
    with counting(clean(f"{args.parts} → {args.into}"), quiet=args.quiet or args.json) as update:
        loaded = compose.load(
            args.parts,
            args.into,
            lambda done: update(done.written + done.kept, done.total),
            incomplete=args.incomplete,
            replace_model=args.replace_model,
        )
    if args.json:
        emit(loaded.to_json())
    elif not args.quiet:
        say(rows_text(loaded_rows(loaded)))
    if not loaded.switched:
        return FAILED
    return OK if loaded.ok else INCOMPLETE


def import_foreign(args: argparse.Namespace) -> int:
    """`import`"""
    with counting(clean(f"{args.foreign} → {args.out}"), quiet=args.quiet or args.json) as update:
        imported = shards.import_foreign(args.foreign, args.out, args.model_name, progress=update)
    if args.json:
        emit(imported.to_json())
    elif not args.quiet:
        say(rows_text(imported_rows(imported)))
    return OK if imported.ok else INCOMPLETE
