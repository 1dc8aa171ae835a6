"""`penstock embed`, `load`, `import`, and `verify` of a folder of parts."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from penstock import compose
from penstock import shards as parts
from penstock.cli.commands.answering import FAILED, INCOMPLETE, OK, STOPPED, emit, interruptible
from penstock.cli.display import clean, counting, display
from penstock.cli.results import Rows, rows_text, say
from penstock.shards.embed import Options


def embed(args: argparse.Namespace) -> int:
    title = clean(f"{', '.join(args.path)} → {args.out}")
    options = Options(rows=args.rows, memory=args.memory, workers=args.workers, again=args.again)
    with display(title, as_json=args.json, quiet=args.quiet) as shown, interruptible(shown):
        made = compose.embed(
            args.path,
            args.model,
            args.out,
            partition=args.partition,
            claim=args.claim,
            pieces=args.pieces,
            options=options,
            progress=shown,
        )
    if args.json:
        emit({"event": "report", **made.to_json()})
    elif not args.quiet:
        rows = [*_inputs(made.counts), ("parts", f"{made.parts:,} written to {clean(made.out)}")]
        rows.append(("shards", f"{made.finished:,} finished · {made.open:,} open · {made.lost:,} taken over by others"))
        say(rows_text(rows))
    if made.status == "stopped":
        return STOPPED
    return OK if made.ok else INCOMPLETE


def verify(args: argparse.Namespace) -> int:
    with counting(clean(args.parts), quiet=args.quiet or args.json) as tell:
        found = parts.verify(args.parts, lambda done: tell(done.rows, done.total))
    if args.json:
        emit({"event": "verification", **found.to_json()})
    elif not args.quiet:
        rows = [("shards", f"{found.finished:,} of {found.shards:,} finished"), *_inputs(found.counts)]
        rows.append(("parts", f"{found.parts:,} with {found.rows:,} of {found.total:,} rows"))
        if found.alike:
            rows.append(("alike", f"{found.alike:,} images that another shard has as well"))
        rows += [("wrong", clean(trouble)) for trouble in found.troubles]
        rows += [("failed", clean(f"{uri}: {why}")) for uri, why in found.failures]
        say(rows_text(rows))
        say("the parts are complete" if found.ok else "the parts are not complete")
    return OK if found.ok else INCOMPLETE


def load(args: argparse.Namespace) -> int:
    with counting(clean(f"{args.parts} → {args.into}"), quiet=args.quiet or args.json) as tell:
        made = compose.load(
            args.parts,
            args.into,
            lambda done: tell(done.written + done.kept, done.total),
            incomplete=args.incomplete,
            replace_model=args.replace_model,
        )
    if args.json:
        emit(made.to_json())
    elif not args.quiet:
        rows = [
            ("rows", f"{made.written:,} written · {made.kept:,} there already · {made.total:,} in all"),
            ("parts", f"{made.parts:,} of {made.of_parts:,}"),
            ("index", f"{clean(made.url)}{' · current from now on' if made.switched else ''}"),
        ]
        rows += [("missing", clean(gap)) for gap in made.gaps]
        rows += [("refused", clean(f"{id}: {why}")) for id, why in list(made.refused.items())[:20]]
        rows += [("trouble", clean(made.trouble))] if made.trouble else []
        rows += [("alias", clean(made.alias))] if made.alias else []
        say(rows_text(rows))
    if not made.switched:
        return FAILED
    return OK if made.ok else INCOMPLETE


def take(args: argparse.Namespace) -> int:
    """`import`"""
    with counting(clean(f"{args.foreign} → {args.out}"), quiet=args.quiet or args.json) as tell:
        made = parts.import_foreign(args.foreign, args.out, args.model_name, progress=tell)
    if args.json:
        emit(made.to_json())
    elif not args.quiet:
        rows = [("files", f"{made.files:,}"), *_inputs(made.counts)]
        say(rows_text([*rows, *(("failed", clean(f"{uri}: {why}")) for uri, why in made.failures)]))
    return OK if made.ok else INCOMPLETE


def _inputs(counts: Mapping[str, int]) -> Rows:
    return [("inputs", " · ".join(f"{number:,} {name}" for name, number in counts.items()))]
