"""Tells systemd (`Type=notify`) that a service is ready, alive or stopping; nothing where it was not started by it."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress


class ServiceManager:
    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        within = os.environ.get("WATCHDOG_USEC", "")
        self._interval = int(within) / 2e6 if within.isdecimal() else 0.0
        self._due = 0.0
        self._ready = False

    def ready(self) -> None:
        if not self._ready:
            self._ready = True
            self._tell("READY=1")

    def alive(self) -> None:
        """To be called often: it is passed on as often as the watchdog wants to hear of it."""
        if self._interval and time.monotonic() >= self._due:
            self._due = time.monotonic() + self._interval
            self._tell("WATCHDOG=1")

    def stopping(self) -> None:
        self._tell("STOPPING=1")

    def _tell(self, message: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            line.sendto(message.encode(), address)
