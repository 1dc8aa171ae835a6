"""`penstock explain`."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from rich.text import Text

from penstock.cli.ledgers import index_urls, open_ledger, remembered_settings
from penstock.cli.output.results import origin_rows, rows_text, say
from penstock.cli.output.streams import INCOMPLETE, OK, complain, emit
from penstock.compose import make_index
from penstock.core.errors import PenstockError, UsageError
from penstock.core.generations import current
from penstock.core.schema import to_dict
from penstock.display.text import clean
from penstock.registry import has_index


def explain(args: argparse.Namespace) -> int:
    id = _id(args.id)
    with open_ledger(args) as ledger:
        origin = ledger.origin(id)
        if origin is None:
            complain(f"the ledger {ledger.path} knows no point {id.hex()}")
            return INCOMPLETE
        uri, number = origin
        document = ledger.document(uri)
        newest = ledger.runs(1)[0].id
        # Runs are numbered without gaps, so this many back is the one that wrote the point.
        run = ledger.runs(newest - number + 1)[-1] if number else None
        settings = remembered_settings(ledger)
    report: dict[str, Any] = {
        "id": id.hex(),
        "uri": uri,
        "document": asdict(document) if document else {},
        "run": asdict(run) if run else None,
        "index": index_urls(settings),
    }
    report |= _from_index(next(iter(settings.get("into") or ()), None), id.hex())
    if args.json:
        emit(report)
        return OK
    say(rows_text(origin_rows(report)))
    if chunk := report.get("chunk"):
        say(*(Text(clean(line)) for line in chunk["text"].split("\n")), indent=3)
    return OK


def _id(text: str) -> bytes:
    try:
        id = bytes.fromhex(text)
    except ValueError:
        id = b""
    if len(id) != 16:
        raise UsageError(f"invalid id {text!r}: expected 32 hexadecimal digits, as `penstock search --json` shows them")
    return id


def _from_index(url: str | None, id: str) -> dict[str, Any]:
    """What the index itself knows of a point; where it cannot be read, why."""
    if url is None or not has_index(url):
        return {"index_says": "the index cannot be read back from here"}
    try:
        with current(make_index(url)) as index:
            index.open()
            report: dict[str, Any] = {"schema": to_dict(index.manifest().schema)}
            points = index.fetch([id])
    except PenstockError as error:
        return {"index_says": str(error)}
    if not points:
        return report | {"index_says": "the index does not hold this point: `penstock verify --repair`"}
    c = points[0].chunk
    chunk = {"ordinal": c.ordinal, "span": list(c.span), "page": c.page, "headings": list(c.headings)}
    return report | {"chunk": chunk | {"metadata": dict(c.metadata), "text": c.text}}
