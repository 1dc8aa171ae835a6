"""The ledger that a command means, and the settings that it remembers."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, takewhile
from pathlib import Path
from typing import Any

from penstock.compose import STATE
from penstock.core.errors import PenstockError, UsageError
from penstock.jobs.components import current_ledger, numbered
from penstock.ledger import Ledger


def ledger_path(args: argparse.Namespace) -> Path:
    """The ledger that `--state` names, else the only one in `.penstock/`."""
    if args.state:
        return Path(args.state)
    paths = _ledgers()
    if not paths:
        raise UsageError(
            f"there is no ledger in {STATE}/ here: begin with `penstock ingest PATH --into lance://./index`,"
            " or name a ledger with --state FILE"
        )
    if len(paths) > 1:
        raise UsageError(
            "there are several ledgers here; choose one:\n"
            + "\n".join(f"--state {path}{_description(path)}" for path in paths)
        )
    return paths[0]


def _ledgers() -> list[Path]:
    return sorted(path for path in Path(STATE).glob("*.db") if not path.with_suffix("").suffix)  # not `notes.1.db`


def _description(path: Path) -> str:
    try:
        with Ledger.reader(path) as ledger:
            settings = remembered_settings(ledger)
    except PenstockError as error:
        return f"   ({error})"
    return f"   {', '.join(settings['source'])} → {index_urls(settings)}" if settings else ""


def state_option(path: Path) -> str:
    """The option that names this ledger, where other commands would not find it by themselves."""
    paths = [known.absolute() for known in _ledgers()]
    return "" if paths == [path.absolute()] else f" --state {path}"


@contextmanager
def open_ledger(args: argparse.Namespace) -> Iterator[Ledger]:
    with Ledger.reader(current_ledger(ledger_path(args))) as ledger:
        yield ledger


def last_runs(state: Path) -> dict[Path, int]:
    """The number of the last run in the ledger of the current generation, and in those of later ones, which a re-index
    builds; 0 where there was none."""
    if not state.exists():
        return {}
    current = current_ledger(state)
    with Ledger.reader(state) as ledger:
        numbers = count(ledger.current + 1)
    later = takewhile(Path.exists, (numbered(state, number) for number in numbers))
    return {path: _last_run(path) for path in (current, *later) if path.exists()}


def _last_run(path: Path) -> int:
    with Ledger.reader(path) as ledger:
        return next((run.id for run in ledger.runs(1)), 0)


def remembered_settings(ledger: Ledger) -> dict[str, Any]:
    """The settings of the last run; empty where it had components of the user's own."""
    settings: dict[str, Any] = json.loads(ledger.get("settings") or "{}")
    if isinstance(settings.get("into"), str):  # as ledgers from before there could be several
        settings["into"] = [settings["into"]]
    return settings


def index_urls(settings: dict[str, Any]) -> str | None:
    return " + ".join(settings["into"]) if settings else None


def size_on_disk(path: Path) -> int:
    """The ledger's bytes, with those of its write-ahead log."""
    return sum(p.stat().st_size for p in (path, Path(f"{path}-wal")) if p.exists())
