"""`penstock models` and `penstock models fetch`."""

from __future__ import annotations

import argparse

from penstock.cli.commands.answering import OK, emit
from penstock.cli.display import clean, size
from penstock.cli.results import say, table
from penstock.embedders.models import list_models, resolve
from penstock.embedders.prefixes import INT8, TORCH


def models(args: argparse.Namespace) -> int:
    found = list_models()
    if args.json:
        for model in found:
            folder = str(model.folder) if model.folder else None
            emit({"name": model.name, "folder": folder, "bytes": model.size})
        return OK
    rows = (
        (m.name, size(m.size), str(m.folder)) if m.folder else (m.name, "", f"not here: penstock models fetch {m.name}")
        for m in found
    )
    for part in table(("model", "size", "folder"), rows):
        say(part)
    return OK


def fetch(args: argparse.Namespace) -> int:
    folder = str(resolve(args.name.removeprefix(INT8).removeprefix(TORCH) or None))
    if args.json:
        emit({"folder": folder})
    else:
        print(clean(folder))
    return OK
