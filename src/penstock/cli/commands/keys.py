"""`penstock keys add`, `list` and `revoke`."""

from __future__ import annotations

import argparse
from pathlib import Path

from penstock.cli.output.results import say, table
from penstock.cli.output.streams import OK, complain, emit
from penstock.display.text import moment
from penstock.server import keys_file
from penstock.server.keys import SCOPES, SEARCH, KeptKey


def add(args: argparse.Namespace) -> int:
    path = Path(args.file)
    secret, key = keys_file.add(path, args.name, args.scope or [SEARCH], args.days)
    if args.json:
        expires = key.expires and key.expires.isoformat()
        emit({"name": key.name, "scopes": _scopes(key.scopes), "expires": expires, "secret": secret})
        return OK
    print(secret)
    complain(f"this is the key {key.name}, shown only now: {path} has but its hash")
    return OK


def list(args: argparse.Namespace) -> int:
    kept = keys_file.read(Path(args.file))
    if args.json:
        for one in kept:
            created, expires = (time and time.isoformat() for time in (one.created, one.key.expires))
            emit({"name": one.key.name, "scopes": _scopes(one.key.scopes), "created": created, "expires": expires})
        return OK
    if not kept:
        say(f"no keys in {args.file}")
    for page in table(("key", "scopes", "created", "expires"), map(_row, kept)):
        say(page)
    return OK


def revoke(args: argparse.Namespace) -> int:
    keys_file.revoke(Path(args.file), args.name)
    say(f"revoked the key {args.name}")
    return OK


def _row(one: KeptKey) -> tuple[str, ...]:
    created = moment(one.created.timestamp()) if one.created else ""
    until = moment(one.key.expires.timestamp()) if one.key.expires else "never"
    return one.key.name, ", ".join(_scopes(one.key.scopes)), created, f"{until}, expired" if one.key.expired else until


def _scopes(scopes: frozenset[str]) -> tuple[str, ...]:
    return tuple(scope for scope in SCOPES if scope in scopes)
