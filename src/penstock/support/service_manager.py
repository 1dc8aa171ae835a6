"""Tells systemd (`Type=notify`) that a service is ready, alive or stopping; nothing where it was not started by it."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol


class Service(Protocol):
    """What a service says of itself."""

    def ready(self) -> None: ...

    def alive(self) -> None:
        """To be called often."""
        ...

    def stopping(self) -> None: ...


class ServiceManager:
    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        within = os.environ.get("WATCHDOG_USEC", "")
        self._interval = int(within) / 2e6 if within.isdecimal() else 0.0
        self._due = 0.0
        self._ready = False

    def ready(self) -> None:
        if not self._ready:
            self._ready = self._tell("READY=1")

    def alive(self) -> None:
        """To be called often: it is passed on as often as the watchdog wants to hear of it."""
        if self._interval and time.monotonic() >= self._due:
            self._due = time.monotonic() + self._interval
            self._tell("WATCHDOG=1")

    def stopping(self) -> None:
        self._tell("STOPPING=1")

    def _tell(self, message: str) -> bool:
        """Whether it was said. Who does not listen is not waited for, as the run would stand still."""
        if not self._address:
            return True
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            line.setblocking(False)
            line.sendto(message.encode(), address)
            return True
        return False


class Parts:
    """A service of several parts: ready when each of them is, and alive as long as each of them is."""

    def __init__(self, service: Service, names: Iterable[str]) -> None:
        self._service = service
        self._running = set(names)
        self._ready: set[str] = set()
        self._alive: set[str] = set()
        """Those that said so since all had."""
        self._lock = threading.Lock()

    def part(self, name: str) -> Part:
        return Part(self, name)

    def ready(self, name: str) -> None:
        with self._lock:
            self._ready.add(name)
            self._tell()

    def alive(self, name: str) -> None:
        with self._lock:
            self._alive.add(name)
            self._tell()

    def ended(self, name: str) -> None:
        """The others are the service now."""
        with self._lock:
            self._running.discard(name)
            self._tell()

    def _tell(self) -> None:
        if not self._running:
            return
        if self._ready >= self._running:
            self._service.ready()
        if self._alive >= self._running:
            self._alive.clear()
            self._service.alive()


@dataclass(frozen=True, slots=True)
class Part:
    """A service to those who run one part of it. It stops with the others, and not by itself."""

    parts: Parts
    name: str

    def ready(self) -> None:
        self.parts.ready(self.name)

    def alive(self) -> None:
        self.parts.alive(self.name)

    def stopping(self) -> None: ...
