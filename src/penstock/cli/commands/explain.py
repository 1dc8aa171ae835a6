"""`penstock explain`."""

from __future__ import annotations

import argparse
import re
from dataclasses import asdict
from typing import Any

from rich.text import Text

from penstock.cli.ledgers import index_urls, ledger_path, open_ledger
from penstock.cli.output.results import chunk_rows, explanation_rows, origin_rows, rows_text, say, table
from penstock.cli.output.streams import INCOMPLETE, OK, complain, emit
from penstock.compose import make_index
from penstock.core.errors import PenstockError, UsageError
from penstock.core.generations import current
from penstock.core.schema import to_dict
from penstock.display.text import clean
from penstock.jobs.ledgers import remembered
from penstock.pipeline import Pipeline
from penstock.registry import has_index


def explain(args: argparse.Namespace) -> int:
    if not re.fullmatch("[0-9a-fA-F]{32}", args.name):
        return _explain_document(args)
    if args.chunks:
        raise UsageError("--chunks lists those of a document: name one by its path or uri")
    return _explain_point(args, bytes.fromhex(args.name))


def _explain_document(args: argparse.Namespace) -> int:
    pipeline = Pipeline.from_state(ledger_path(args))
    explanation = pipeline.explain(args.name)
    chunks = pipeline.chunks(args.name) if args.chunks else iter(())
    if args.json:
        emit(explanation.to_json())
        for chunk in chunks:
            emit(chunk.to_json())
    else:
        say(rows_text(explanation_rows(explanation, pipeline.sink.url)))
        if args.chunks:
            for page in table(("chunk", "page", "text"), chunk_rows(chunks)):
                say(page)
    return OK if explanation.ok else INCOMPLETE


def _explain_point(args: argparse.Namespace, id: bytes) -> int:
    with open_ledger(args) as ledger:
        origin = ledger.origin(id)
        if origin is None:
            complain(f"the ledger {ledger.path} knows no point {id.hex()}")
            return INCOMPLETE
        uri, number = origin
        document = ledger.document(uri)
        run = ledger.run(number)
        settings = remembered(ledger)
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
