"""Options of `penstock evaluate`, and of `penstock reindex`, which can be held to the same questions."""

from __future__ import annotations

import argparse

from penstock.cli.options import (
    add_indexes,
    add_json,
    add_output,
    add_rerank,
    add_state,
    add_unattended,
    parse_positive,
    parse_share,
)


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument(
        "--questions",
        metavar="FILE",
        help='JSON lines: {"question": "...", "uri": "docs/a.md"}, with "page" and "passage" where they are known',
    )
    task.add_argument(
        "--make", metavar="N", type=parse_positive, help="propose N such lines from the index, to begin with"
    )
    add_indexes(parser, "to compare several")
    parser.add_argument("-k", type=parse_positive, metavar="N", help="hits that recall is of (10)")
    add_rerank(parser, "measure searches that this cross-encoder reranks as well")
    parser.add_argument("--plot", metavar="FILE", help="draw the results into that file: quality.svg")
    add_json(parser)


def add_reindex(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", metavar="M", action="append", help="the model to build with; NAME=M for each of several vectors"
    )
    parser.add_argument("--chunk", metavar="SIZE", help='the size of chunks: "256 tokens"')
    parser.add_argument("--recall", metavar="SHARE", type=parse_share, help="true neighbours that searches find (95%%)")
    parser.add_argument(
        "--questions", metavar="FILE", help="do not switch if the new index answers these worse: see `evaluate`"
    )
    parser.add_argument(
        "--tolerance", metavar="D", type=parse_share, help="with --questions: loss of nDCG@10 that may be chance (0.05)"
    )
    parser.add_argument("--incomplete", action="store_true", help="switch though documents of the old one are lost")
    back = parser.add_mutually_exclusive_group()
    back.add_argument("--rollback", action="store_true", help="go back to the index before the current one")
    back.add_argument("--drop", action="store_true", help="remove the one before, or one that was not finished")
    add_state(parser)
    add_output(parser)
    add_unattended(parser)
