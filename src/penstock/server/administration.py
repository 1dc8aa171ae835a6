"""The keys and the logs of a server, and their upkeep while it runs."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from penstock import __version__
from penstock.server.audit import Audit
from penstock.server.generations import ServedIndex
from penstock.server.json_log import JsonLog
from penstock.server.keys import Keyring
from penstock.server.keys_file import FollowedKeys
from penstock.server.metrics import Metrics
from penstock.server.settings import Settings


class Administration:
    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        """Raises UsageError where the file of keys or a log is of no use."""
        self._poll, self._metrics = settings.poll, metrics
        self._followed = FollowedKeys(settings.keys_file) if settings.keys_file is not None else None
        self.keyring = Keyring(settings.keys, None if self._followed is None else self._followed.keys)
        self.access_log = self._log("access", settings.access_log)
        self.audit = Audit(self._log("audit", settings.audit_log))
        if self._followed is not None:
            self._followed.changed = self.audit.event
        self._wake, self._stopping, self._hangup = threading.Event(), False, False

    @property
    def trouble(self) -> str | None:
        return None if self._followed is None else self._followed.trouble

    @contextmanager
    def running(self, url: str, served: ServedIndex) -> Iterator[None]:
        """Follow the keys and write the logs, for as long as the server runs."""
        for log in self._logs:
            log.start()
        thread = threading.Thread(target=self._keep_up, name="penstock-keys", daemon=True)
        thread.start()
        self.audit.event("start", url=url, index=served.url, version=__version__, keys=self.keyring.names)
        served.followed = lambda generation: self.audit.event("generation_followed", index=generation)
        try:
            with self._signal():
                yield
        finally:
            self._stopping = True
            self._wake.set()
            thread.join()
            self.audit.event("stop", url=url)
            for log in self._logs:
                log.close()

    @property
    def _logs(self) -> list[JsonLog]:
        return [log for log in (self.access_log, self.audit.log) if log is not None]

    def _log(self, name: str, target: str | None) -> JsonLog | None:
        if target is None:
            return None
        return JsonLog(target, lambda: self._metrics.count("penstock_log_lost_total", log=name))

    def _keep_up(self) -> None:
        while not self._stopping:
            self._wake.wait(self._poll)
            self._wake.clear()
            if self._hangup:
                self._hangup = False
                for log in self._logs:
                    log.reopen()
            if self._followed is not None:
                self._followed.follow(self.keyring)

    @contextmanager
    def _signal(self) -> Iterator[None]:
        """On SIGHUP open the logs anew and read the keys: it would end a server, and is what administrators send."""
        used = bool(self._logs) or self._followed is not None
        before: Any = None
        if used and os.name == "posix":
            with suppress(ValueError):  # signals are for the main thread
                before = signal.signal(signal.SIGHUP, self._on_hangup)
        try:
            yield
        finally:
            if before is not None:
                signal.signal(signal.SIGHUP, before)

    def _on_hangup(self, number: int, frame: object) -> None:
        self._hangup = True
        self._wake.set()
