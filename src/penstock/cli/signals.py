"""Ctrl-C and SIGTERM in commands that write."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from penstock.cli.output.streams import OK, STOPPED, Stopped, complain
from penstock.display.progress import Display


@contextmanager
def interruptible(display: Display, *, stop_ok: bool = False) -> Iterator[None]:
    """Ctrl-C: the first finishes what is in flight, the second gives up, the third ends the process at once.

    SIGTERM does the same: a machine that is about to be taken away sends it a little before. `stop_ok`: to be stopped
    by SIGTERM first is the status 0, unless the command gives up."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    presses = 0

    def pressed(number: int, frame: object) -> None:
        nonlocal presses
        presses += 1
        if presses > 2:
            os._exit(STOPPED)
        if presses == 1:
            display.stopping(OK if stop_ok and number == signal.SIGTERM else STOPPED)
        raise KeyboardInterrupt

    # A shell that starts a command in the background has it ignore Ctrl-C on purpose.
    handled = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, pressed) for number in handled}
    try:
        yield
    except KeyboardInterrupt:
        complain("stopped; what was written is kept. Run it again to go on from there")
        raise Stopped(display.stop_status if presses == 1 else STOPPED) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
