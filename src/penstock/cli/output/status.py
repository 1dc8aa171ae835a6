"""What `penstock status` shows of a ledger."""

from __future__ import annotations

from typing import Any

from penstock.cli.output.results import Rows
from penstock.display.live import in_sync, live_rows, retries
from penstock.display.text import accepted_part, count, duration, moment, size


def status_rows(status: dict[str, Any]) -> Rows:
    unknown = "(an object of your program)"
    return [
        ("source", ", ".join(status["source"] or [unknown])),
        ("index", status["index"] or unknown),
        ("ledger", f"{status['ledger']} ({size(status['ledger_bytes'])})"),
        (
            "documents",
            f"{status['documents']:,}: {status['done']:,} done · {status['open']:,} unfinished ·"
            f" {status['failed']:,} failed · {status['skipped']:,} skipped",
        ),
        ("chunks", f"{status['acknowledged']:,} in the index"),
        ("failures", f"{status['failures']:,}{accepted_part(status['failures'], status['accepted'])}"),
        *([("alerts", _alerts(status))] if status["alerts"] else []),
        *([("held", _held(status["held"]))] if status["held"] else []),
        *_following(status["run"], status),
        *((f"run {run['id']}", _run(run, going_on=status["run"] is not None)) for run in status["runs"]),
    ]


def _alerts(status: dict[str, Any]) -> str:
    waiting = status["matches_waiting"]
    return f"{status['alerts']:,}, {waiting:,} {'match' if waiting == 1 else 'matches'} waiting to be delivered"


def _following(run: dict[str, Any] | None, ledger: dict[str, Any]) -> Rows:
    """How a run that follows its source stands; else what is known of following it."""
    if run is not None and run.get("live") is not None:
        waiting = [("waiting for", run["waiting"])] if run["waiting"] else []
        return [("following", f"process {run['pid']}, for {duration(run['seconds'])}"), *live_rows(run), *waiting]
    rows = [("in sync", f"as of {in_sync(ledger)}")] if ledger["in_sync"] else []
    return [*rows, ("retries", retries(ledger))] if ledger["retries"] else rows


def _held(held: dict[str, Any]) -> str:
    return (
        f"{count(held['documents'], 'document')} with {held['chunks']:,} of {held['of']:,} chunks, which the source"
        f" lacks since {moment(held['since'])}: `penstock approve` lets them go"
    )


def _run(run: dict[str, Any], *, going_on: bool) -> str:
    if run["ended"] is None and going_on:
        return f"{moment(run['started'])}  running"
    if run["ended"] is None:
        return f"{moment(run['started'])}  running, or killed: the next run completes it"
    line = f"{moment(run['started'])}  {run['status']} in {duration(run['ended'] - run['started'])}"
    if counts := run["report"].get("counts"):
        line += f" · {counts['documents']:,} documents · {counts['embedded']:,} chunks embedded"
        line += f" · {counts['deleted']:,} deleted · {counts['failed']:,} failed"
    return line
