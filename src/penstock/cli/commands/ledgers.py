"""Which ledger a command means, and what it says of itself."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from penstock.compose import STATE
from penstock.core.errors import PenstockError, UsageError
from penstock.jobs.components import current_ledger
from penstock.ledger import Ledger


def path_of(args: argparse.Namespace) -> Path:
    """The ledger that is meant: the one named, else the only one there is."""
    if args.state:
        return Path(args.state)
    found = _ledgers()
    if not found:
        raise UsageError(
            f"there is no ledger in {STATE}/ here: begin with `penstock ingest PATH --into lance://./index`,"
            " or name a ledger with --state FILE"
        )
    if len(found) > 1:
        raise UsageError(
            "there are several ledgers here; choose one:\n"
            + "\n".join(f"--state {path}{_fills(path)}" for path in found)
        )
    return found[0]


def _ledgers() -> list[Path]:
    return sorted(path for path in Path(STATE).glob("*.db") if not path.with_suffix("").suffix)  # not `notes.1.db`


def _fills(path: Path) -> str:
    try:
        with Ledger.reader(path) as ledger:
            settings = settings_of(ledger)
    except PenstockError as error:
        return f"   ({error})"
    return f"   {', '.join(settings['source'])} → {places_of(settings)}" if settings else ""


def option_of(path: Path) -> str:
    """The option that names this ledger, where other commands would not find it by themselves."""
    found = [known.absolute() for known in _ledgers()]
    return "" if found == [path.absolute()] else f" --state {path}"


@contextmanager
def ledger_of(args: argparse.Namespace) -> Iterator[Ledger]:
    with Ledger.reader(current_ledger(path_of(args))) as ledger:
        yield ledger


def settings_of(ledger: Ledger) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(ledger.get("settings") or "{}")
    if isinstance(told.get("into"), str):  # as ledgers from before there could be several
        told["into"] = [told["into"]]
    return told


def places_of(settings: dict[str, Any]) -> str | None:
    return " + ".join(settings["into"]) if settings else None


def bytes_of(path: Path) -> int:
    """The ledger's size, with what its write-ahead log holds."""
    return sum(p.stat().st_size for p in (path, Path(f"{path}-wal")) if p.exists())
