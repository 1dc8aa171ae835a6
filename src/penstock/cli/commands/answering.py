"""How a command answers: its exit status, its lines of JSON, what it complains of, and Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from penstock.cli.display import Display, clean

OK, INCOMPLETE, USAGE, FAILED, BROKEN_PIPE, STOPPED = 0, 1, 2, 3, 141, 130


def emit(record: dict[str, Any]) -> None:
    print(json.dumps(record, default=str), flush=True)


def complain(what: str) -> None:
    lines = [line for line in map(clean, what.split("\n")) if line]
    with suppress(OSError, ValueError):  # stderr is closed: nobody is left to tell
        print("penstock: " + "\n  ".join(lines), file=sys.stderr, flush=True)


@contextmanager
def interruptible(shown: Display) -> Iterator[None]:
    """Ctrl-C: the first lets what is in flight run out, the second gives up, the third does not even tidy.

    SIGTERM is the same: a machine that is taken away says so a little before."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    presses = 0

    def pressed(number: int, at: object) -> None:
        nonlocal presses
        presses += 1
        if presses > 2:
            os._exit(STOPPED)
        shown.stopping()
        raise KeyboardInterrupt

    # Whoever started us in the background, where Ctrl-C is ignored, meant it.
    heard = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, pressed) for number in heard}
    try:
        yield
    except KeyboardInterrupt:
        complain("stopped; what was written is kept. Run it again to go on from there")
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
