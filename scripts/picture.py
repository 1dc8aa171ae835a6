"""Draws docs/picture.svg from a real run: ingest this project's own text, again, and ask a question.

    python scripts/picture.py [--out docs/picture.svg]

It shows what the command line shows: a moment half-way, the report, the second run, the answer.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.text import Text

from penstock import Pipeline, open_index
from penstock.cli.output.report import report_text
from penstock.cli.output.results import hit_body, hit_head
from penstock.display.progress import Rates, frame
from penstock.jobs.snippets import words_of

ROOT = Path(__file__).parents[1]
INDEX = "lance://./index"
MEMORY = "8MiB"
QUESTION = "what happens to the index when a run is killed?"


class Film:
    """Every picture of a run, with how many chunks were embedded by then."""

    def __init__(self, title: str) -> None:
        self._title, self._rates = title, Rates()
        self._pictures: list[tuple[int, RenderableType]] = []

    def __call__(self, progress: Any) -> None:
        self._rates.add(progress)
        self._pictures.append((progress.counts["embedded"], frame(self._title, progress, self._rates)))

    def half_way(self) -> RenderableType:
        end = self._pictures[-1][0]
        return min(self._pictures, key=lambda picture: abs(picture[0] - end / 2))[1]


def record() -> Console:
    """Run in the working directory, on docs/."""
    console = Console(record=True, width=100, file=io.StringIO(), force_terminal=True, highlight=False)
    film = Film(f"docs → {INDEX}")

    def command(line: str) -> None:
        console.print(Text("$ ", style="green").append(line, style="bold default"))

    command(f"penstock ingest docs/ --into {INDEX} --memory {MEMORY}")
    report = Pipeline("docs/", into=INDEX, memory=MEMORY).run(film)
    console.print(film.half_way())
    console.print(Text("⋮", style="bright_black"))
    console.print(report_text(report))
    command(f"penstock ingest docs/ --into {INDEX} --memory {MEMORY}")
    console.print(report_text(Pipeline("docs/", into=INDEX, memory=MEMORY).run()))
    command(f'penstock search "{QUESTION}" --in {INDEX} -k 2')
    words = words_of(QUESTION)
    with open_index(INDEX) as index:
        for number, hit in enumerate(index.search(QUESTION, k=2), 1):
            console.print(hit_head(number, hit))
            for line in hit_body(hit, words):
                console.print(Padding(line, (0, 0, 0, 3)))
    return console


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "picture.svg", help="where the picture goes")
    out = parser.parse_args().out.absolute()
    with tempfile.TemporaryDirectory(prefix="penstock-picture-") as folder:
        os.chdir(folder)
        shutil.copytree(ROOT / "docs", "docs", ignore=shutil.ignore_patterns("*.svg", "*.png"))
        shutil.copytree(ROOT / "src" / "penstock", "docs/penstock", ignore=shutil.ignore_patterns("__pycache__"))
        console = record()
        os.chdir(ROOT)
    svg = console.export_svg(title="penstock", unique_id="penstock")
    # rich links to fonts on the web; a picture in a repository asks nobody for anything.
    svg = re.sub(r"@font-face\s*\{.*?\}\s*", "", svg, flags=re.DOTALL).replace("Fira Code, monospace", "monospace")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n", encoding="utf-8")
    print(out)


if __name__ == "__main__":
    main()
