"""Options of `penstock serve` about keys and logs, and of `penstock keys`."""

from __future__ import annotations

import argparse

from penstock.cli.options import add_json, parse_positive
from penstock.cli.parser import CommandParser


def add_keys_and_logs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--keys", metavar="FILE", help="require one of its keys; `penstock keys` makes and changes it")
    parser.add_argument("--access-log", metavar="FILE", help="write a line of JSON for each request; -: to stdout")
    parser.add_argument("--audit-log", metavar="FILE", help="write who was refused, and what changed; -: to stdout")
    parser.add_argument("--log-queries", action="store_true", help="with the texts of queries in the access log")


def add_keys_command(parser: argparse.ArgumentParser) -> None:
    from penstock.server.keys import SCOPES, SEARCH  # which imports nothing heavy

    actions = parser.add_subparsers(metavar="ACTION", required=True, parser_class=CommandParser)

    def action(name: str, does: str) -> argparse.ArgumentParser:
        child = actions.add_parser(name, help=does, description=does[0].upper() + does[1:])
        child.set_defaults(command=f"keys {name}", target=f"keys:{name}")
        child.add_argument("--file", metavar="FILE", required=True, help="the file of keys")
        return child

    add = action("add", "make a key and print it, once; the file gets its hash")
    add.add_argument("name", metavar="NAME", help="for logs and for `revoke`")
    scopes = "; ".join(f"{name}: {what}" for name, what in SCOPES.items())
    again = f"what it is for ({SEARCH}); may come again. {scopes}"
    add.add_argument("--scope", action="append", choices=tuple(SCOPES), help=again)
    add.add_argument("--days", metavar="N", type=parse_positive, help="for how long it is valid (for ever)")
    add_json(add)
    add_json(action("list", "list the keys: their names, what each is for, and until when"))
    revoke = action("revoke", "take a key out: a server refuses it within seconds")
    revoke.add_argument("name", metavar="NAME", help="the name of the key")
