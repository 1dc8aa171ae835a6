"""Fields of metadata: their paths, and the values that a filter compares with.

A field within a mapping is named by dots: `author.name`. A list counts as each of its values; what is in the mappings
of a list is not looked into. A null, an empty list and an empty mapping are as if the field were not there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

Path = tuple[str, ...]
Scalar = str | int | float | bool

DEPTH = 16
"""Names that lead to a field, at most: what lies deeper is not looked into."""
PREFIX = "metadata."
"""Leads to a field whose name is also one of a chunk's own: `metadata.id`."""


def parse_path(name: str) -> Path:
    """The path of a field. Raises ValueError for what names none."""
    path = tuple(name.removeprefix(PREFIX).split("."))
    if len(path) > DEPTH:
        raise ValueError(f"a field within more than {DEPTH - 1} mappings: {name!r}")
    if not all(path) or any(part.startswith("$") or not _encodable(part) for part in path):
        raise ValueError(f"invalid field {name!r}")
    return path


def kind(value: Scalar) -> type:
    """The type by which values are compared: only those of one type are ever equal, or in an order."""
    return bool if isinstance(value, bool) else str if isinstance(value, str) else float


def value_at(metadata: Mapping[str, Any], path: Path) -> Any:
    """What is at that path; None where there is nothing."""
    value: Any = metadata
    for name in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def has_value(value: Any) -> bool:
    """Whether the value counts as one."""
    if isinstance(value, Mapping) or _is_list(value):
        return bool(value)
    return value is not None


def scalars(value: Any) -> list[Scalar]:
    """The values of a field that can be compared with."""
    several = value if _is_list(value) else [value]
    return [one for one in several if isinstance(one, str | int | float)]


def leaves(metadata: Mapping[str, Any], path: Path = ()) -> Iterator[tuple[Path, list[Scalar]]]:
    """Every field that has a value and none within it that has, with those that can be compared with: none for a list
    of mappings. A mapping is there if a field within it is."""
    for name, value in metadata.items():
        deeper = isinstance(value, Mapping) and len(path) + 1 < DEPTH
        within = iter(leaves(value, (*path, name))) if deeper else iter(())
        if (first := next(within, None)) is not None:
            yield first
            yield from within
        elif has_value(value):
            yield (*path, name), scalars(value)


def seconds(value: object) -> float | None:
    """The time that a text stands for in the form in which metadata keep dates and times, in seconds; None for any
    other value. For stores that order numbers alone: within a second, the numbers are in the order of the texts, of
    which that with a fraction is before the one without."""
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        return None
    try:
        time = datetime.fromisoformat(value if len(value) > 10 else f"{value}T00:00:00Z")
    except ValueError:
        return None
    within = 0 if len(value) == 10 else time.microsecond or 1_000_000
    return time.replace(microsecond=0).timestamp() + within / (1 << 20)  # exact in doubles, from 1700 to 2240


_TIME = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\d(\.\d{6})?Z)?", re.ASCII)


def _encodable(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
