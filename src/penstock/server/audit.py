"""The audit log: who did, or was refused, what matters. A flood of refusals does not fill the disk."""

from __future__ import annotations

import time
from typing import Any

from penstock.server.clients import Client
from penstock.server.json_log import JsonLog, now
from penstock.support.latest import Latest

PERIOD = 60.0
"""Seconds in which a client has one line for each status that it is refused with."""
MAX_REFUSALS = 600
"""Lines about refusals in that time, of all clients."""
MAX_CLIENTS = 10_000


class Audit:
    def __init__(self, log: JsonLog | None) -> None:
        self.log = log
        self._recent: Latest[tuple[str, int], tuple[float, int]] = Latest(MAX_CLIENTS)
        """Client and status -> when its line was written, and how many refusals had none since."""
        self._began, self._lines, self._omitted = float("-inf"), 0, 0

    def event(self, event: str, **fields: Any) -> None:
        if self.log is not None:
            self.log.write({"time": now(), "event": event, **fields})

    def refused(self, client: Client, status: int, **fields: Any) -> None:
        """Note a refused request. To be called on the event loop."""
        if self.log is None:
            return
        moment, name = time.monotonic(), (client.name, status)
        written, omitted = self._recent.get(name, (float("-inf"), 0))
        if moment - written < PERIOD or not self._room(moment):
            self._recent[name] = written, omitted + 1
        else:
            self._recent[name] = moment, 0
            about = {"client": client.address, "key": client.key and client.key.name, "status": status}
            self.event("refused", **about, **fields, omitted=omitted)

    def _room(self, moment: float) -> bool:
        if moment - self._began >= PERIOD:
            if self._omitted:
                self.event("refusals_omitted", count=self._omitted)
            self._began, self._lines, self._omitted = moment, 0, 0
        if self._lines >= MAX_REFUSALS:
            self._omitted += 1
            return False
        self._lines += 1
        return True
