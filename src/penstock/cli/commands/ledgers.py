"""`penstock ledgers`."""

from __future__ import annotations

import argparse
from pathlib import Path

from penstock.cli.output.results import say, table
from penstock.cli.output.streams import OK, complain, confirmed, emit, interactive
from penstock.compose import make_sink
from penstock.core.errors import UsageError
from penstock.display.text import count, moment, size
from penstock.jobs.ledgers import Summary, dead, paths, prune, summary
from penstock.sinks.manifests import STATE


def ledgers(args: argparse.Namespace) -> int:
    folder = Path(args.folder or STATE)
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}: ledgers are in {STATE}/ where `penstock ingest` was run")
    if args.prune:
        return _prune(folder, args)
    found = map(summary, paths(folder))
    if args.json:
        for one in found:
            emit(one.to_json())
        return OK
    rows = [_row(one) for one in found]
    if not rows:
        say(f"no ledgers in {folder}")
    for page in table(("ledger", "source", "index", "documents", "size", "last run"), iter(rows)):
        say(page)
    return OK


def _row(one: Summary) -> tuple[str, ...]:
    if one.error:
        return str(one.path), one.error, "", "", "", ""
    index = " + ".join(one.into) + (f" ({one.namespace})" if one.namespace else "")
    last = f"{moment(one.last)}, {one.status}" if one.last else "never"
    source = ", ".join(one.source) or "components of a program"
    return str(one.path), source, index or "unknown", f"{one.documents:,}", size(one.bytes), last


def _prune(folder: Path, args: argparse.Namespace) -> int:
    """Remove ledgers whose index is gone or another one's, once that is confirmed."""
    doomed = list(dead(folder, make_sink))
    if args.json and not args.yes:
        raise UsageError("--prune --json asks nothing: add --yes")
    for path, why in doomed:
        if not args.json:
            say(f"{path}: {why}")
    if not doomed:
        if not args.json:
            say("nothing to prune: each ledger fills its index, or cannot be told not to")
        return OK
    if not args.yes:
        if not interactive():
            raise UsageError("pruning removes ledgers for good: add --yes")
        if not confirmed(f"Remove {count(len(doomed), 'ledger')} for good?"):
            complain("nothing was removed")
            return OK
    for path, why in doomed:
        prune(path)
        if args.json:
            emit({"removed": str(path), "cause": why})
    if not args.json:
        say(f"removed {count(len(doomed), 'ledger')}")
    return OK
