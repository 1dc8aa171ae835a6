"""`penstock evaluate`."""

from __future__ import annotations

import argparse
import json
from contextlib import ExitStack
from pathlib import Path

from penstock.cli.output.evaluation import comparison_rows, quality_columns, quality_rows
from penstock.cli.output.results import rows_text, say, table
from penstock.cli.output.streams import OK, complain, emit
from penstock.compose import make_sink, open_index
from penstock.core.errors import UsageError
from penstock.core.generations import current
from penstock.display.plot import plot
from penstock.display.progress import counting
from penstock.display.text import clean, count
from penstock.jobs.evaluate import Evaluation
from penstock.jobs.evaluate import evaluate as measure
from penstock.jobs.proposals import propose_questions
from penstock.support import durable


def evaluate(args: argparse.Namespace) -> int:
    if args.make is not None:
        return _propose(args)
    _check_plot(args.plot)
    with ExitStack() as stack:
        indexes = [stack.enter_context(open_index(url)) for url in args.indexes]
        with counting("searches", quiet=args.json) as update:
            evaluation = measure(indexes, args.questions, k=args.k or 10, rerank=args.rerank, progress=update)
    if args.plot:
        durable.replace(Path(args.plot), plot(evaluation).encode())
    if args.json:
        emit(evaluation.to_json())
    else:
        _show(evaluation)
    if evaluation.hint:
        complain(evaluation.hint)
    for one in evaluation.qualities:
        if one.refused:
            complain(
                f"{one.leg} of {one.index}: {count(one.refused, 'question')} that its model cannot take, counted as"
                " not answered"
            )
    return OK


def _show(evaluation: Evaluation) -> None:
    several = len({one.index for one in evaluation.qualities}) > 1
    say(f"{count(evaluation.questions, 'question')} · mean and 95 % confidence interval", "")
    say(*table(quality_columns(evaluation, several), quality_rows(evaluation, several)))
    if evaluation.comparisons:
        say("", rows_text(comparison_rows(evaluation, several)))


def _check_plot(path: str | None) -> None:
    """Raise UsageError before anything is searched, where the plot could not be written."""
    if path is None:
        return
    if not path.endswith(".svg"):
        raise UsageError(f"invalid --plot {path!r}: expected a name that ends with .svg")
    if not Path(path).parent.is_dir():
        raise UsageError(f"invalid --plot {path!r}: there is no folder {Path(path).parent}")


def _propose(args: argparse.Namespace) -> int:
    if len(args.indexes) > 1 or args.k or args.plot or args.rerank:
        raise UsageError("--make takes one --in, and neither -k nor --plot nor --rerank")
    with current(make_sink(args.indexes[0])) as sink, counting(clean(sink.url), quiet=args.json) as update:
        proposals = propose_questions(sink, args.make, progress=update)
    for proposal in proposals:
        print(json.dumps(proposal.to_json(), ensure_ascii=False))
    fewer = "" if len(proposals) == args.make else f", all that {'were' if proposals else 'could be'} found"
    complain(
        f"{count(len(proposals), 'question')} proposed{fewer}. They are a beginning only: made of headings and first"
        " sentences, they favour the words that stand in the text. Put them into your users' words, and add questions"
        " that were really asked"
    )
    return OK
