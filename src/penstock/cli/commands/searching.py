"""`penstock search`."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from penstock.cli.commands.answering import OK, complain, emit
from penstock.cli.results import hit_body, hit_head, hit_json, say, words_of
from penstock.compose import open_index
from penstock.core.errors import UsageError


def search(args: argparse.Namespace) -> int:
    if (args.query is None) == (args.image is None):
        raise UsageError("search takes words, or --image FILE")
    where = _filter(args.where)
    if args.document:
        where = {"$and": [where, {"uri": _uri(args.document)}]} if where else {"uri": _uri(args.document)}
    with open_index(args.index) as index:
        if args.image is None:
            hits = index.search(args.query, args.k, where)
        else:
            hits = index.search_image(_read(args.image), args.k, where)
    if args.json:
        for hit in hits:
            emit(hit_json(hit))
        return OK
    words = words_of(args.query or "")
    for number, hit in enumerate(hits, 1):
        say(hit_head(number, hit))
        say(*hit_body(hit, words, full=args.full), indent=3)
    if not hits:
        complain("nothing found")
    return OK


def _filter(text: str | None) -> dict[str, Any]:
    try:
        where = json.loads(text or "{}")
    except ValueError as error:
        raise UsageError(f"--where is no JSON ({error}); write it like '{{\"page\": 3}}'") from None
    if not isinstance(where, dict):
        raise UsageError("--where takes a JSON object, such as '{\"page\": 3}'")
    return where


def _read(image: str) -> bytes:
    try:
        return Path(image).expanduser().read_bytes()
    except OSError as error:
        raise UsageError(f"{image} cannot be read: {error.strerror}") from None


def _uri(document: str) -> str:
    return document if "://" in document else Path(os.path.abspath(document)).as_uri()
