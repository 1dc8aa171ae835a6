"""Options of `penstock alert`."""

from __future__ import annotations

import argparse

from penstock.cli.options import add_json, add_state, parse_positive
from penstock.cli.parser import CommandParser


def add_alert_command(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", required=True, parser_class=CommandParser)

    def action(name: str, does: str) -> argparse.ArgumentParser:
        child = actions.add_parser(name, help=does, description=does[0].upper() + does[1:])
        child.set_defaults(command=f"alert {name}", target=f"alerts:{name}")
        add_state(child)
        return child

    add = action("add", "have runs tell of new documents that are near to a query")
    add.add_argument("query", metavar="QUERY", help="what to look for, in words")
    add.add_argument("--score", type=float, metavar="N", help="tell of what scores at least so much (0.5)")
    add.add_argument("--name", metavar="NAME", help="its name (the query)")
    receiver = add.add_mutually_exclusive_group()
    receiver.add_argument(
        "--webhook", metavar="URL", help="post to it; env:NAME: the url is in that variable of the run"
    )
    receiver.add_argument("--exec", dest="exec_command", metavar="CMD", help="start it, without a shell: JSON on stdin")
    add.add_argument(
        "--secret-env",
        metavar="NAME",
        help="the run's environment variable with the secret that signs what is posted (PENSTOCK_WEBHOOK_SECRET)",
    )
    add.add_argument(
        "--where", metavar="FILTER", action="append", default=[], help="narrow it, as for search; may come again"
    )
    add.add_argument("--using", metavar="NAME", help="the vector to compare with, where the index has several")
    add_json(add)
    add_json(action("list", "list the alerts: what each has found, delivered and still to deliver"))
    remove = action("remove", "remove an alert, with what it has still to deliver")
    remove.add_argument("name", metavar="NAME", help="the name of the alert")
    tail = action("tail", "show the latest matches")
    tail.add_argument("-n", dest="number", type=parse_positive, default=20, metavar="N", help="how many (20)")
    tail.add_argument("--follow", action="store_true", help="go on, with what is found from now on")
    add_json(tail)
