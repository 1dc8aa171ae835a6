"""How a run is getting on, for other processes: a small file beside the ledger, while it runs.

Nobody waits for it and nothing depends on it: it is not synced, and one that is old is of a run that died.
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
FRESH = 10.0
"""Seconds between two notes, and after which nobody is taken to write them any more."""


class Bulletin:
    """Passes progress on, and notes it down now and then."""

    def __init__(self, ledger: Path, tell: Callable[[Progress], None] | None) -> None:
        self._path, self._tell = _beside(ledger), tell
        self._due = 0.0

    def __call__(self, moment: Progress) -> None:
        if self._tell is not None:
            self._tell(moment)
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + EVERY
            draft = self._path.with_name(f"{self._path.name}.{os.getpid()}")
            with suppress(OSError):  # a full disk is told by those who need it
                draft.write_text(json.dumps({"at": time.time(), **moment.to_json()}), encoding="utf-8")
                os.replace(draft, self._path)

    def end(self) -> None:
        with suppress(OSError):
            self._path.unlink()


def read(ledger: Path) -> dict[str, Any] | None:
    """The last note of a run that is going on."""
    try:
        told: dict[str, Any] = json.loads(_beside(ledger).read_text(encoding="utf-8"))
        return told if time.time() - told["at"] < FRESH else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _beside(ledger: Path) -> Path:
    return ledger.with_name(f"{ledger.name}.now")
