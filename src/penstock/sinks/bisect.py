"""Requests in pages, and in smaller parts where a store refuses one as a whole."""

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


def in_pages(
    items: Sequence[T], size: int, call: Callable[[Sequence[T]], list[R]], refusal: type[Exception]
) -> list[R]:
    """Return what `call` returns for pages of that size, or for halves of them as `in_halves` does."""
    pages = (items[start : start + size] for start in range(0, len(items), size))
    return [result for page in pages for result in in_halves(page, call, refusal)]
