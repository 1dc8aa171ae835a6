"""Runs that go on, and waiting for what they do."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Self

import penstock as ps
from penstock.engine.progress import Progress, Report


def until(condition: Callable[[], object], seconds: float = 20, describe: Callable[[], object] = lambda: "") -> None:
    """Wait for the condition; `describe` says what there is instead."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, describe()
        time.sleep(0.01)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Watched:
    """A pipeline that follows its source in a thread, until it is stopped as by Ctrl-C; more than once if need be."""

    def __init__(self, pipeline: ps.Pipeline, **options: Any) -> None:
        self.pipeline, self._options = pipeline, options
        self._stop = threading.Event()
        self._thread = threading.Thread()
        self.report: Report | BaseException | None = None

    def _run(self) -> None:
        try:
            self.report = self.pipeline.watch(self._progress, **self._options)
        except BaseException as error:
            self.report = error

    def _progress(self, now: Progress) -> None:
        if self._stop.is_set():
            self._stop.clear()
            raise KeyboardInterrupt

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join(30)
        assert isinstance(self.report, Report), self.report
        assert self.report.status == "stopped"
