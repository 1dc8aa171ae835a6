"""`penstock plan`, `status`, `failures` and `explain`: commands that change nothing."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from rich.text import Text

from penstock.cli.arguments import COMPOSING
from penstock.cli.commands.answering import INCOMPLETE, OK, complain, emit
from penstock.cli.commands.ledgers import bytes_of, ledger_of, path_of, places_of, settings_of
from penstock.cli.commands.running import composed
from penstock.cli.display import clean, moment, place
from penstock.cli.results import origin_rows, plan_rows, rows_text, say, status_rows, table
from penstock.core.errors import PenstockError, UsageError
from penstock.core.generations import current
from penstock.core.schema import to_dict
from penstock.pipeline import Pipeline
from penstock.registry import INDEXES, find, scheme


def plan(args: argparse.Namespace) -> int:
    if args.path and args.into:
        pipeline = composed(args)
    elif args.path or any(getattr(args, name) is not None for name in COMPOSING):
        raise UsageError("plan takes PATH and --into, or neither: then it plans for the pipeline that the ledger knows")
    else:
        pipeline = Pipeline.from_state(path_of(args))
    plan = pipeline.plan()
    if args.json:
        emit(plan.to_json())
        return OK
    say(rows_text(plan_rows(plan)))
    if plan.documents:
        say(rows_text((kind, place(uri)) for kind, uri in plan.documents))
    if (rest := plan.new + plan.changed - len(plan.documents)) > 0:
        say(f"... and {rest:,} more")
    if not plan.complete and not pipeline.source.feed:
        complain("the source could not be listed whole: nothing would be deleted")
    return OK


def status(args: argparse.Namespace) -> int:
    with ledger_of(args) as ledger:
        settings = settings_of(ledger)
        told: dict[str, Any] = {
            "ledger": str(ledger.path),
            "ledger_bytes": bytes_of(ledger.path),
            "index": places_of(settings),
            "source": settings.get("source"),
            **asdict(ledger.counts()),
            "runs": [asdict(run) for run in ledger.runs(5)],
        }
    if args.json:
        emit(told)
        return OK
    say(rows_text(status_rows(told)))
    return OK


def failures(args: argparse.Namespace) -> int:
    with ledger_of(args) as ledger:
        failures = ledger.failures()
        if args.json:
            for failure in failures:
                emit(asdict(failure))
            return OK
        rows = ((place(f.uri), f.stage, f.place, f.cause, str(f.attempts), moment(f.last)) for f in failures)
        if not ledger.counts().failures:
            say("no failures")
            return OK
        for part in table(("document", "stage", "place", "cause", "attempts", "when"), rows):
            say(part)
    return OK


def explain(args: argparse.Namespace) -> int:
    try:
        id = bytes.fromhex(args.id)
    except ValueError:
        id = b""
    if len(id) != 16:
        raise UsageError(f"{args.id!r} is no id: 32 hexadecimal digits, as `penstock search --json` shows them")
    with ledger_of(args) as ledger:
        origin = ledger.origin(id)
        if origin is None:
            complain(f"the ledger {ledger.path} knows no point {id.hex()}")
            return INCOMPLETE
        uri, number = origin
        document = ledger.document(uri)
        newest = ledger.runs(1)[0].id
        # Runs are numbered without gaps, so this many back is the one that wrote the point.
        run = ledger.runs(newest - number + 1)[-1] if number else None
        settings = settings_of(ledger)
    told: dict[str, Any] = {
        "id": id.hex(),
        "uri": uri,
        "document": asdict(document) if document else {},
        "run": asdict(run) if run else None,
    }
    told |= {"index": places_of(settings)} | _from_index(next(iter(settings.get("into") or ()), None), id.hex())
    if args.json:
        emit(told)
        return OK
    say(rows_text(origin_rows(told)))
    if chunk := told.get("chunk"):
        say(*(Text(clean(part)) for part in chunk["text"].split("\n")), indent=3)
    return OK


def _from_index(url: str | None, id: str) -> dict[str, Any]:
    """What the index itself knows of a point; where it cannot be read, why."""
    if url is None or scheme(url) not in INDEXES:
        return {"index_says": "the index cannot be read back from here"}
    try:
        with current(find(INDEXES, scheme(url), "index")(url)) as index:
            index.open()
            told: dict[str, Any] = {"schema": to_dict(index.manifest().schema)}
            points = index.fetch([id])
    except PenstockError as error:
        return {"index_says": str(error)}
    if not points:
        return told | {"index_says": "the index does not hold this point: `penstock verify --repair`"}
    c = points[0].chunk
    chunk = {"ordinal": c.ordinal, "span": list(c.span), "page": c.page, "headings": list(c.headings)}
    return told | {"chunk": chunk | {"metadata": dict(c.metadata), "text": c.text}}
