"""`penstock models` and `penstock models fetch`."""

from __future__ import annotations

import argparse

from penstock.cli.output.results import say, table
from penstock.cli.output.streams import OK, emit
from penstock.display.text import clean, size
from penstock.embedders.models import list_models, resolve
from penstock.embedders.prefixes import INT8, SPLADE, TORCH


def models(args: argparse.Namespace) -> int:
    models = list_models()
    if args.json:
        for model in models:
            folder = str(model.folder) if model.folder else None
            emit({"name": model.name, "kind": model.kind, "folder": folder, "bytes": model.size})
        return OK
    rows = (
        (m.name, m.kind, size(m.size), str(m.folder))
        if m.folder
        else (m.name, m.kind, "", f"not here: penstock models fetch {m.name}")
        for m in models
    )
    for page in table(("model", "kind", "size", "folder"), rows):
        say(page)
    return OK


def fetch(args: argparse.Namespace) -> int:
    name = (args.name or "").removeprefix(INT8).removeprefix(TORCH).removeprefix(SPLADE)
    folder = str(resolve(name or None))
    if args.json:
        emit({"folder": folder})
    else:
        print(clean(folder))
    return OK
