"""Batches that a store refuses as a whole, sent again in smaller parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_halves(items: Sequence[T], call: Callable[[Sequence[T]], list[R]], refusal: type[Exception]) -> list[R]:
    """Return `call(items)`, or where it raises `refusal`, what it returns for each half. Of one item it is raised."""
    try:
        return call(items)
    except refusal:
        if len(items) < 2:
            raise
    middle = len(items) // 2
    return in_halves(items[:middle], call, refusal) + in_halves(items[middle:], call, refusal)
