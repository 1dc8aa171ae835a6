"""Metadata as Qdrant filters by them: two lists of the payload, whatever the fields are.

One has the terms of `penstock.sinks.terms`. `numbers` has each number, and dates and times in seconds, with the name of
its field.
"""

from __future__ import annotations

import json
import math
import sys
from typing import Any

from penstock.core import fields
from penstock.core.fields import Scalar
from penstock.sinks import terms
from penstock.sinks.terms import TERMS

NUMBERS = "numbers"


def payload(metadata: str) -> dict[str, list[Any]]:
    """The lists for metadata that are given as JSON, without those that would be empty."""
    values = json.loads(metadata)
    numbers: dict[tuple[str, str, float], None] = {}
    for path, several in fields.leaves(values):
        for value in several:
            if (measure := measured(value)) is not None:
                numbers[(terms.named(path), *measure)] = None
    entries = [{"field": name, measure: number} for name, measure, number in numbers]
    return {key: several for key, several in ((TERMS, terms.listed(values)), (NUMBERS, entries)) if several}


def measured(value: Scalar) -> tuple[str, float] | None:
    """What an order compares a value by, `number` or `seconds`, and how much it is; None for what is in no order."""
    if isinstance(value, str):
        seconds = fields.seconds(value)
        return None if seconds is None else ("seconds", seconds)
    if isinstance(value, bool) or math.isnan(number := terms.double(value)):
        return None
    return "number", max(-sys.float_info.max, min(number, sys.float_info.max))  # JSON has no infinity
