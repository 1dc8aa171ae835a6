"""The ledger that a command means, and the settings that it remembers."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from penstock.core.errors import UsageError
from penstock.jobs.components import current_ledger
from penstock.jobs.ledgers import Summary, paths, summary
from penstock.ledger import Ledger
from penstock.sinks.manifests import STATE


def ledger_path(args: argparse.Namespace) -> Path:
    """The ledger that `--state` names, else the only one in `.penstock/`."""
    if args.state:
        return Path(args.state)
    known = paths(Path(STATE))
    if not known:
        raise UsageError(
            f"there is no ledger in {STATE}/ here: begin with `penstock ingest PATH --into lance://./index`,"
            " or name a ledger with --state FILE"
        )
    if len(known) > 1:
        raise UsageError(
            "there are several ledgers here; choose one:\n"
            + "\n".join(f"--state {path}{_description(summary(path))}" for path in known)
        )
    return known[0]


def _description(found: Summary) -> str:
    if found.error:
        return f"   ({found.error})"
    return f"   {', '.join(found.source)} → {' + '.join(found.into)}" if found.into else ""


def state_option(path: Path) -> str:
    """The option that names this ledger, where other commands would not find it by themselves."""
    known = [one.absolute() for one in paths(Path(STATE))]
    return "" if known == [path.absolute()] else f" --state {path}"


@contextmanager
def open_ledger(args: argparse.Namespace) -> Iterator[Ledger]:
    with Ledger.reader(current_ledger(ledger_path(args))) as ledger:
        yield ledger


def index_urls(settings: dict[str, Any]) -> str | None:
    return " + ".join(settings["into"]) if settings else None
