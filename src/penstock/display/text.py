"""Words for values. Nothing that comes from documents, stores or file names is shown before `clean` has seen it."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, TextIO

from penstock.jobs.snippets import one_line as clean

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "accepted_part",
    "clean",
    "count",
    "document_name",
    "duration",
    "milliseconds",
    "moment",
    "rate",
    "size",
    "speed",
    "terminal",
]


def size(amount: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:,.1f} GiB"


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02} min"


def milliseconds(seconds: float) -> str:
    amount = 1000 * seconds
    return f"{amount:,.0f} ms" if amount >= 10 else f"{amount:.1f} ms"


def count(number: int, one: str) -> str:
    return f"{number:,} {one if number == 1 else one + 's'}"


def accepted_part(failing: int, accepted: int) -> str:
    """What a count of failures adds on those that somebody lives with."""
    if not accepted:
        return ""
    return ", accepted" if accepted == failing else f", {accepted:,} of them accepted"


def rate(amount: float) -> str:
    return f"{amount:,.0f}" if amount >= 100 else f"{amount:.1f}" if amount >= 1 else f"{amount:.2f}"


def speed(bytes_a_second: float) -> str:
    return f"{rate(bytes_a_second / 1e6)} MB/s" if bytes_a_second >= 1e5 else f"{rate(bytes_a_second / 1e3)} kB/s"


def moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def document_name(uri: str) -> str:
    """A document's name for people: a local file by its path, relative where it lies under the working directory."""
    from penstock.sources import name_of  # here, as the help of a command does without it

    here = os.path.join(os.getcwd(), "")
    return clean(name_of(uri).removeprefix(here))


def terminal(file: TextIO) -> Console:
    from rich.console import Console

    return Console(file=file, highlight=False, markup=False, emoji=False)
