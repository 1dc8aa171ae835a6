"""The command line of chaos runs."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from penstock.testing.chaos import Broken, Chaos

ABOUT = "Kill an ingest again and again, and compare the index with that of an undisturbed run."


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m penstock.testing.chaos", description=ABOUT)
    parser.add_argument("--kills", type=int, default=50, help="kills (50)")
    parser.add_argument("--sink", default="journal", help="journal, lance or sqlite (journal)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same corpora and moments (0)")
    parser.add_argument("--documents", type=int, default=24, help="in the first corpus (24)")
    parser.add_argument("--feed", action="store_true", help="a feed with cursors, not a listing")
    parser.add_argument("--json", action="store_true", help="the outcome for machines")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="penstock-chaos-") as folder:
        chaos = Chaos(
            Path(folder), sink=options.sink, seed=options.seed, documents=options.documents, feed=options.feed
        )
        try:
            outcome = chaos.run(options.kills)
        except Broken as error:
            print(f"after {chaos.outcome.kills} kills, seed {options.seed}: {error}", file=sys.stderr)
            return 1
    if options.json:
        print(json.dumps(asdict(outcome)))
        return 0
    print(
        f"{outcome.kills} kills in {outcome.runs} runs ({outcome.by_clock} by the clock), {outcome.seconds} s:"
        f" {outcome.compared} indexes equal to undisturbed ones (the last of {outcome.points} points),"
        f" {outcome.embedded} chunks embedded, {outcome.again} of them again, none after its acknowledgement"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
