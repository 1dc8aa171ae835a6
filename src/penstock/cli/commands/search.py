"""`penstock search`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from penstock.cli.output.results import copies_line, hit_body, hit_head, hit_json, say
from penstock.cli.output.streams import OK, complain, emit
from penstock.cli.output.text import document_uri
from penstock.compose import open_index
from penstock.core.errors import UsageError
from penstock.core.records import Hit
from penstock.jobs.search import DISTINCT_AMONG, DistinctHit, distinct_hits
from penstock.jobs.snippets import words_of


def search(args: argparse.Namespace) -> int:
    if (args.query is None) == (args.image is None):
        raise UsageError("search takes words, or --image FILE")
    where = _filter(args.where)
    if args.document:
        named = {"uri": document_uri(args.document)}
        where = {"$and": [where, named]} if where else named
    image = None if args.image is None else _read(args.image)
    with open_index(args.index) as index:

        def nearest(k: int) -> list[Hit]:
            if image is None:
                return index.search(args.query, k, where, using=args.using)
            return index.search_image(image, k, where, using=args.using)

        hits = [DistinctHit(hit) for hit in nearest(args.k)] if args.all else distinct_hits(nearest, args.k)
    if args.json:
        for distinct in hits:
            emit(hit_json(distinct))
        return OK
    words = words_of(args.query or "")
    for number, distinct in enumerate(hits, 1):
        say(hit_head(number, distinct.hit))
        say(*hit_body(distinct.hit, words, full=args.full), *copies_line(distinct), indent=3)
    if not hits:
        complain("nothing found")
    elif len(hits) < args.k and len(hits) + sum(len(each.copies) for each in hits) >= DISTINCT_AMONG:
        complain(f"the nearest {DISTINCT_AMONG:,} hits have only {len(hits):,} different texts; --all shows every hit")
    return OK


def _filter(text: str | None) -> dict[str, Any]:
    try:
        where = json.loads(text or "{}")
    except ValueError as error:
        raise UsageError(f"invalid --where: {error}; expected JSON such as '{{\"page\": 3}}'") from None
    if not isinstance(where, dict):
        raise UsageError("invalid --where: expected a JSON object such as '{\"page\": 3}'")
    return where


def _read(image: str) -> bytes:
    try:
        return Path(image).expanduser().read_bytes()
    except OSError as error:
        raise UsageError(f"{image} cannot be read: {error.strerror}") from None
