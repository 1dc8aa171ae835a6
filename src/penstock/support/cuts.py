"""Calls that wait for the net, and that another thread can end."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Protocol


class Cuttable(Protocol):
    def cut(self) -> None:
        """Have the call end with an OSError, from another thread."""


class Connections:
    """Calls in progress, to be cut together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: set[Cuttable] = set()

    @contextmanager
    def holding(self, call: Cuttable) -> Iterator[None]:
        with self._lock:
            self._calls.add(call)
        try:
            yield
        finally:
            with self._lock:
                self._calls.discard(call)

    def cut(self) -> None:
        with self._lock:
            several = list(self._calls)
        for call in several:
            call.cut()


class Lookup:
    """The addresses of a host. The system's own call may take a minute and cannot be ended: it is made by a thread of
    its own, which runs out by itself where nobody waits for it any more."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._answers: SimpleQueue[list[str] | Exception] = SimpleQueue()

    def addresses(self, seconds: float) -> list[str]:
        """The addresses. Raises what the system does, OSError where it was cut, TimeoutError after so many seconds."""
        threading.Thread(target=self._work, name="lookup", daemon=True).start()
        try:
            answer = self._answers.get(timeout=seconds)
        except Empty:
            raise TimeoutError("it took too long to look up its host") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def cut(self) -> None:
        self._answers.put(OSError("the lookup was given up"))

    def _work(self) -> None:
        try:
            entries = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            self._answers.put([str(entry[4][0]) for entry in entries])
        except Exception as error:
            self._answers.put(error)
