"""`penstock alert add`, `list`, `remove` and `tail`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from penstock.cli.conditions import parse_conditions
from penstock.cli.ledgers import ledger_path, open_ledger
from penstock.cli.output.results import say, table
from penstock.cli.output.streams import OK, emit
from penstock.display.text import clean, document_name, moment
from penstock.jobs.alerts import SCORE, Alerts
from penstock.ledger import Alert, FoundMatch
from penstock.support.redaction import hide_secrets

if TYPE_CHECKING:
    from rich.text import Text

COLUMNS = ("alert", "query", "score", "to", "matches", "delivered", "waiting", "lost", "last delivery", "trouble")
EVERY = 0.5
"""Seconds between two looks of `tail --follow`."""
PAGE = 500


def add(args: argparse.Namespace) -> int:
    alert = Alerts(ledger_path(args)).add(
        args.query,
        SCORE if args.score is None else args.score,
        name=args.name,
        webhook=args.webhook,
        command=args.exec_command,
        secret_env=args.secret_env,
        where=parse_conditions(args.where),
        using=args.using,
    )
    if args.json:
        emit(alert.to_json())
    else:
        say(f"added the alert {alert.name!r}: it tells of what is embedded from now on")
    return OK


def list(args: argparse.Namespace) -> int:
    alerts = Alerts(ledger_path(args)).list()
    if args.json:
        for alert in alerts:
            emit(alert.to_json())
        return OK
    if not alerts:
        say("no alerts")
        return OK
    for page in table(COLUMNS, map(_row, alerts)):
        say(page)
    return OK


def remove(args: argparse.Namespace) -> int:
    Alerts(ledger_path(args)).remove(args.name)
    say(f"removed the alert {args.name!r}")
    return OK


def tail(args: argparse.Namespace) -> int:
    with open_ledger(args) as ledger:
        path, matches = ledger.path, ledger.last_matches(args.number)
        last, latest = (matches[-1].id, matches[-1].time) if matches else (0, 0.0)
    _show(matches, args.json)
    since = 0.0  # of a generation that becomes the current one: what it took over was shown
    while args.follow:
        time.sleep(EVERY)
        with open_ledger(args) as ledger:  # anew each time: another generation may have become the current one
            if ledger.path != path:
                path, last = ledger.path, 0
                since = latest
            while matches := ledger.matches(last, PAGE):
                _show([match for match in matches if match.time > since], args.json)
                last, latest = matches[-1].id, matches[-1].time
    return OK


def _show(matches: Sequence[FoundMatch], json: bool) -> None:
    for match in matches:
        if json:
            emit(match.to_json())
        else:
            say(_text(match))


def _text(match: FoundMatch) -> Text:
    from rich.text import Text

    text = Text(f"{moment(match.time)}  {match.score:.3f}  ", style="default")
    text.append(clean(match.alert), style="cyan").append(f"  {document_name(match.uri)}", style="bold default")
    return text.append(f"\n   {clean(match.text)}", style="default")


def _row(alert: Alert) -> tuple[str, ...]:
    receiver = hide_secrets(alert.webhook or alert.command or "")
    numbers = (alert.matches, alert.delivered, alert.waiting, alert.lost)
    last = moment(alert.last) if alert.last else ""
    return (alert.name, alert.query, f"{alert.score:g}", receiver, *map(str, numbers), last, alert.trouble)
