"""An evaluation as a picture: an SVG with each measure's mean and interval, drawn by itself."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from penstock.display.text import clean, count, milliseconds

if TYPE_CHECKING:
    from penstock.jobs.evaluate import Evaluation, Quality
    from penstock.jobs.measures import Estimate

WIDTH, MARGIN, ROW, HEAD = 960, 24, 28, 88
LABELS, PANEL, GAP = 120, 200, 36
"""Widths: of the names of legs, a measure's panel, and the room between two."""
INK, PALE, GRID = "#24292f", "#6e7781", "#d8dee4"
COLORS = ("#0969da", "#bc4c00", "#1a7f37", "#8250df", "#cf222e", "#4d2d00")
"""One for each index, again and again."""
LONGEST = 110
"""Characters of an index's url that are shown, its end."""


def plot(evaluation: Evaluation) -> str:
    """Draw an evaluation: a row for each leg, a panel for each measure."""
    groups = [(index, list(legs)) for index, legs in groupby(evaluation.qualities, lambda one: one.index)]
    rows = len(evaluation.qualities) + len(groups)
    height = HEAD + rows * ROW + 2 * MARGIN
    title = f"{count(evaluation.questions, 'question')}: mean and 95 % confidence interval"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
            f' font-family="system-ui, sans-serif" font-size="13" fill="{INK}" role="img">',
            f"<title>{escape(title)}</title>",
            f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
            _text(MARGIN, MARGIN + 12, title, weight="600", size=15),
            *_axes(evaluation.k, HEAD + rows * ROW),
            *_rows(groups),
            "</svg>\n",
        ]
    )


def _left(panel: int) -> int:
    return MARGIN + LABELS + panel * (PANEL + GAP)


def _axes(k: int, bottom: int) -> Iterator[str]:
    for panel, name in enumerate((f"recall@{k}", "nDCG@10", "MRR")):
        yield _text(_left(panel), HEAD - 22, name, weight="600")
        for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
            x = _left(panel) + tick * PANEL
            yield f'<line x1="{x:g}" y1="{HEAD - 12}" x2="{x:g}" y2="{bottom}" stroke="{GRID}"/>'
            yield _text(x, bottom + 16, f"{tick:g}", anchor="middle", size=11, color=PALE)
    yield _text(WIDTH - MARGIN, HEAD - 22, "p50 · p95", weight="600", anchor="end")


def _rows(groups: list[tuple[str, list[Quality]]]) -> Iterator[str]:
    y = HEAD + ROW / 2
    for number, (index, legs) in enumerate(groups):
        color = COLORS[number % len(COLORS)]
        name = clean(index)
        shown = name if len(name) <= LONGEST else f"…{name[-LONGEST:]}"
        # The grid ends at a name, which is as wide as several panels.
        yield f'<rect x="{MARGIN}" y="{y - 11:g}" width="{WIDTH - 2 * MARGIN}" height="20" fill="#ffffff"/>'
        yield _text(MARGIN, y + 4, shown, weight="600", size=12, color=color)
        y += ROW
        for leg in legs:
            yield _text(MARGIN + 12, y + 4, leg.leg)
            for panel, estimate in enumerate(leg.measures):
                yield from _interval(_left(panel), y, estimate, color)
            times = f"{milliseconds(leg.p50)} · {milliseconds(leg.p95)}"
            yield _text(WIDTH - MARGIN, y + 4, times, anchor="end", size=12)
            y += ROW


def _interval(left: float, y: float, estimate: Estimate, color: str) -> Iterator[str]:
    low, mean, high = (left + value * PANEL for value in (estimate.low, estimate.mean, estimate.high))
    yield f'<g stroke="{color}" stroke-width="2"><line x1="{low:.1f}" y1="{y:g}" x2="{high:.1f}" y2="{y:g}"/>'
    for end in (low, high):
        yield f'<line x1="{end:.1f}" y1="{y - 4:g}" x2="{end:.1f}" y2="{y + 4:g}"/>'
    yield f'</g><circle cx="{mean:.1f}" cy="{y:g}" r="4.5" fill="{color}"/>'
    yield _text(mean, y - 8, f"{estimate.mean:.2f}", anchor="middle", size=10, color=PALE)


def _text(x: float, y: float, text: str, *, weight: str = "", size: int = 0, anchor: str = "", color: str = "") -> str:
    given = {"font-weight": weight, "font-size": size, "text-anchor": anchor, "fill": color}
    attributes = "".join(f' {name}="{value}"' for name, value in given.items() if value)
    return f'<text x="{x:g}" y="{y:g}"{attributes}>{escape(text)}</text>'
