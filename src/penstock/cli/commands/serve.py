"""`penstock serve`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from penstock.cli.output.streams import OK
from penstock.core.errors import MissingExtra
from penstock.support.sizes import parse_size


def serve(args: argparse.Namespace) -> int:
    try:
        from penstock.server.server import serve as start
        from penstock.server.settings import TLS_PASSWORD, Settings, keys_from
    except ModuleNotFoundError as error:
        raise MissingExtra(f"serve ({error.name})", "serve") from None
    names = ("host", "port", "rate", "seconds", "pixels", "queue", "batch")
    options = {name: value for name in names if (value := getattr(args, name)) is not None}
    if args.body:
        options["body"] = parse_size(args.body)
    settings = Settings(
        roots=tuple(Path(root).expanduser() for root in args.root or ()),
        state=Path(args.state) if args.state else None,
        fetch_urls=args.fetch_urls,
        origins=tuple(args.origin or ()),
        allowed_hosts=tuple(args.allowed_host or ()),
        trusted_proxies=tuple(args.trusted_proxy or ()),
        tls_cert=Path(args.tls_cert).expanduser() if args.tls_cert else None,
        tls_key=Path(args.tls_key).expanduser() if args.tls_key else None,
        tls_password=os.environ.get(TLS_PASSWORD, ""),
        keys=keys_from(os.environ),
        keys_file=Path(args.keys).expanduser() if args.keys else None,
        access_log=args.access_log,
        audit_log=args.audit_log,
        log_queries=args.log_queries,
        embeddings=args.embeddings,
        **options,
    )
    start(args.index, settings, model=args.model, rerank=args.rerank)
    return OK
