"""What `penstock status` shows of a ledger."""

from __future__ import annotations

from typing import Any

from penstock.cli.output.results import Rows
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
        *([("following", _following(status["live"]))] if status["live"] else []),
        *((f"run {run['id']}", _run(run)) for run in status["runs"]),
    ]


def _alerts(status: dict[str, Any]) -> str:
    waiting = status["matches_waiting"]
    return f"{status['alerts']:,}, {waiting:,} {'match' if waiting == 1 else 'matches'} waiting to be delivered"


def _held(held: dict[str, Any]) -> str:
    return (
        f"{count(held['documents'], 'document')} with {held['chunks']:,} of {held['of']:,} chunks, which the source"
        f" lacks since {moment(held['since'])}: `penstock approve` lets them go"
    )


def _following(live: dict[str, Any]) -> str:
    """How a run that follows its source stands."""
    listed, heard = live["listed"], live["heard"]
    how = ["a feed"]
    if not live["feed"]:
        how = ["listens" if live["watching"] else "lists from time to time"]
        how.append(f"listed {moment(listed)}" if listed else "not listed whole yet")
    return " · ".join(
        [*how, *([f"heard {moment(heard)}"] if heard else []), *filter(None, (live["trouble"], live["away"]))]
    )


def _run(run: dict[str, Any]) -> str:
    if run["ended"] is None:
        return f"{moment(run['started'])}  running, or killed: the next run completes it"
    line = f"{moment(run['started'])}  {run['status']} in {duration(run['ended'] - run['started'])}"
    if counts := run["report"].get("counts"):
        line += f" · {counts['documents']:,} documents · {counts['embedded']:,} chunks embedded"
        line += f" · {counts['deleted']:,} deleted · {counts['failed']:,} failed"
    return line
