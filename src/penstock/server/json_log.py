"""A log of JSON lines that never holds up a request: a thread writes it, and what cannot be written is counted.

A file that was moved, removed or truncated is followed, so that logrotate needs no signal.
"""

from __future__ import annotations

import json
import logging
import os
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from penstock.core.errors import UsageError

log = logging.getLogger("penstock.server")

STDOUT = "-"
MAX_WAITING = 10_000
"""Records that wait to be written; further ones are lost."""
MAX_BATCH = 500
GATHER = 0.05
"""Seconds in which records gather to be written together."""
CLOSE_TIMEOUT = 2.0
COMPLAIN_EVERY = 60.0


class JsonLog:
    def __init__(self, target: str, lost: Callable[[], object] = lambda: None) -> None:
        """`target`: a file, or `-` for stdout; `lost` is called for each record that cannot be written. Raises
        UsageError where the file cannot be opened."""
        self._target, self._lost = target, lost
        self._records: deque[Mapping[str, Any]] = deque()
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._reopen = self._torn = False
        self._complained = float("-inf")
        self._thread: threading.Thread | None = None
        try:
            self._file = 1 if target == STDOUT else _open(target)
        except OSError as error:
            raise UsageError(f"the log {target} cannot be written: {error.strerror}") from None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="penstock-log", daemon=True)
        self._thread.start()

    def write(self, record: Mapping[str, Any]) -> None:
        """Have a record written soon. Does not block, and raises nothing."""
        if len(self._records) >= MAX_WAITING:
            self._lost()
            return
        self._records.append(record)
        if not self._wake.is_set():
            self._wake.set()

    def reopen(self) -> None:
        self._reopen = True
        self._wake.set()

    def close(self) -> None:
        """Write what waits, unless that takes long: a pipe may have a reader that reads nothing."""
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(CLOSE_TIMEOUT)
            if self._thread.is_alive():
                return
        if self._target != STDOUT:
            with suppress(OSError):
                os.close(self._file)

    def _run(self) -> None:
        while True:
            self._wake.wait()
            stopping = self._stopping.wait(GATHER)
            self._wake.clear()
            self._follow()
            while self._records:
                self._write([line(self._records.popleft()) for _ in range(min(MAX_BATCH, len(self._records)))])
            if stopping:
                return

    def _follow(self) -> None:
        """Open the file anew where another one, or none, is at its path."""
        if self._target == STDOUT:
            return
        try:
            here = os.fstat(self._file)
            if not self._reopen and (not stat.S_ISREG(here.st_mode) or _is_at(here, self._target)):
                return
            self._reopen = False
            file = _open(self._target)
        except OSError as error:  # the open one is as good as any
            self._complain(error)
            return
        os.close(self._file)
        self._file, self._torn = file, False

    def _write(self, lines: list[bytes]) -> None:
        data = (b"\n" if self._torn else b"") + b"".join(lines)
        written = 0
        try:
            while written < len(data):
                written += os.write(self._file, data[written:] if written else data)
            self._torn = False
        except OSError as error:
            whole = data[:written]
            kept = whole.count(b"\n") - (self._torn and bool(whole))
            if whole:
                self._torn = not whole.endswith(b"\n")
            for _ in range(len(lines) - kept):
                self._lost()
            self._complain(error)

    def _complain(self, error: OSError) -> None:
        if (now := time.monotonic()) - self._complained >= COMPLAIN_EVERY:
            self._complained = now
            log.warning(
                "the log %s cannot be written: %s; penstock_log_lost_total counts", self._target, error.strerror
            )


def line(record: Mapping[str, Any]) -> bytes:
    """One line of printable ASCII, whatever the record holds."""
    text = json.dumps(record, separators=(",", ":"), default=str)
    return text.replace("\x7f", r"\u007f").encode("ascii") + b"\n"


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _open(path: str) -> int:
    # A named pipe without a reader is an error, not a wait.
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o640)
    os.set_blocking(file, True)
    return file


def _is_at(opened: os.stat_result, path: str) -> bool:
    try:
        return os.path.samestat(opened, os.stat(path))
    except FileNotFoundError:
        return False
