"""The progress of a run, for other processes: a small file beside the ledger, while it goes on.

Nobody waits for it and nothing depends on it: it is not synced, and an old one is of a run that died.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from penstock.engine.progress import Progress
from penstock.support.durable import NEW

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
        live: Callable[[Progress], dict[str, Any]] | None = None,
    ) -> None:
        """`live`: how a run that follows its source stands, which is passed on as well."""
        self._path, self._progress, self._live = _beside(ledger), progress, live
        self._draft = self._path.with_name(f"{self._path.name}.new")
        self._due = 0.0

    def __call__(self, moment: Progress) -> None:
        if self._live is not None:
            moment = replace(moment, live=self._live(moment))
        if self._progress is not None:
            self._progress(moment)
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + EVERY
            note = {"at": time.time(), "pid": os.getpid(), **moment.to_json()}
            with suppress(OSError):  # a full disk is reported by those who need it
                self._draft.unlink(missing_ok=True)
                with open(os.open(self._draft, NEW, 0o666), "wb") as file:
                    file.write(json.dumps(note).encode())
                os.replace(self._draft, self._path)

    def remove(self) -> None:
        for path in (self._path, self._draft):
            with suppress(OSError):
                path.unlink()


def read(ledger: Path) -> dict[str, Any] | None:
    """The latest progress of a run that goes on."""
    try:
        progress: dict[str, Any] = json.loads(_beside(ledger).read_text(encoding="utf-8"))
        return progress if abs(time.time() - progress["at"]) < FRESH else None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def _beside(ledger: Path) -> Path:
    return ledger.with_name(f"{ledger.name}.now")
