"""The progress of a run, for other processes: a small file beside the ledger, while it goes on.

Nobody waits for it and nothing depends on it: it is not synced, and an old one is of a run that died.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from penstock.engine.progress import Progress

EVERY = 1.0
"""Seconds between two writes."""
FRESH = 10.0
"""Seconds after which a file is taken to be of a run that died."""


class ProgressFile:
    """Passes progress on, and writes it down now and then."""

    def __init__(
        self,
        ledger: Path,
        progress: Callable[[Progress], None] | None,
        more: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        """`more`: what else is written down with each moment."""
        self._path, self._progress, self._more = _beside(ledger), progress, more
        self._due = 0.0

    def __call__(self, moment: Progress) -> None:
        if self._progress is not None:
            self._progress(moment)
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + EVERY
            draft = self._path.with_name(f"{self._path.name}.{os.getpid()}")
            with suppress(OSError):  # a full disk is reported by those who need it
                draft.write_text(json.dumps({"at": time.time(), **moment.to_json(), **self._more()}), encoding="utf-8")
                os.replace(draft, self._path)

    def remove(self) -> None:
        with suppress(OSError):
            self._path.unlink()


def read(ledger: Path) -> dict[str, Any] | None:
    """The latest progress of a run that goes on."""
    try:
        progress: dict[str, Any] = json.loads(_beside(ledger).read_text(encoding="utf-8"))
        return progress if time.time() - progress["at"] < FRESH else None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def _beside(ledger: Path) -> Path:
    return ledger.with_name(f"{ledger.name}.now")
