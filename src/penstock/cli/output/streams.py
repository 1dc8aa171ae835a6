"""Exit statuses; JSON on stdout; messages on stderr."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from typing import Any

from penstock.display.text import clean

OK, INCOMPLETE, USAGE, FAILED, BROKEN_PIPE, STOPPED = 0, 1, 2, 3, 141, 130


def emit(record: dict[str, Any]) -> None:
    print(json.dumps(record, default=str), flush=True)


def complain(message: str) -> None:
    lines = [line for line in map(clean, message.split("\n")) if line]
    with suppress(OSError, ValueError):  # stderr is closed
        print("penstock: " + "\n  ".join(lines), file=sys.stderr, flush=True)
