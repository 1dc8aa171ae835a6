"""The ledger that a command means, and the settings that it remembers."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, takewhile
from pathlib import Path
from typing import Any

from penstock.core.errors import UsageError
from penstock.jobs.components import current_ledger, numbered
from penstock.jobs.ledgers import Summary, paths, summary
from penstock.ledger import Ledger
from penstock.sinks.manifests import STATE


def ledger_path(args: argparse.Namespace) -> Path:
    """The ledger that `--state` names, or that of a pipeline in such a file; else the only one in `.penstock/`."""
    if args.state:
        return _of_file(args.state) or Path(args.state)
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


def _of_file(state: str) -> Path | None:
    """The ledger of the pipeline of `penstock.toml`, or of one of several in it: `penstock.toml:NAME`."""
    if (parts := re.fullmatch(r"(.*\.toml)(?::(.+))?", state, re.DOTALL)) is None:
        return None
    from penstock.pipelines import Pipelines

    file, name = parts.groups()
    pipelines = Pipelines.from_toml(file, only=[name] if name else ())
    if len(pipelines) > 1:
        several = "\n".join(f"--state {file}:{one}" for one in pipelines)
        raise UsageError(f"there are several pipelines in {file}; choose one:\n{several}")
    (one,) = pipelines
    return pipelines[one].ledger.path


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


def index_urls(settings: dict[str, Any]) -> str | None:
    return " + ".join(settings["into"]) if settings else None
