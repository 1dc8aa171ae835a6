"""Options of `penstock work`."""

from __future__ import annotations

import argparse

from penstock.cli.options import add, add_output, parse_every, pipeline_options


def add_work(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "place", metavar="PLACE", help="where the run has its documents: shards:///srv/work, shards+s3://bucket/work"
    )
    parser.add_argument(
        "--idle", metavar="TIME", type=parse_every, default=600.0, help="end after so long without work (10m)"
    )
    parser.add_argument("--keep", action="store_true", help="stay when the run is over, for the next one")
    for name in ("memory", "workers"):
        add(parser, pipeline_options()[name], default=None)
    add_output(parser)
