"""Figures of a benchmark as data: scripts `record` them beside their tables, run.py keeps them."""

from __future__ import annotations

import json
import os
from typing import Literal

VARIABLE = "PENSTOCK_FIGURES"
"""Environment variable with the path of the file that figures are appended to, a JSON object a line."""
MISSED = 3
"""Exit status of a benchmark that measured everything and missed a bar."""


def record(
    name: str,
    value: float,
    unit: str = "",
    *,
    bar: float | None = None,
    better: Literal["higher", "lower"] = "higher",
) -> None:
    """Keep one figure; do nothing where a script is run directly.

    The name says how large the measurement was ("first vector of 1,600 MB"): figures of a small trial then never
    replace those of the full run.
    """
    path = os.environ.get(VARIABLE)
    if not path:
        return
    value = float(value)  # numpy's numbers are no JSON
    figure = {"name": name, "value": value, "unit": unit, "bar": bar, "better": better}
    if bar is not None:
        figure["reached"] = value >= bar if better == "higher" else value <= bar
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(figure) + "\n")
