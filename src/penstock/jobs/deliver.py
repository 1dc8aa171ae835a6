"""Deliveries of what standing queries find, beside a run: at least once each, whatever becomes of the receivers."""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from typing import Self

from penstock.core.errors import PenstockError
from penstock.core.retry import Pauses
from penstock.ledger import Alert, FoundMatch, Ledger
from penstock.support.outgoing import Command, NotDelivered, Webhook

AT_ONCE = 8
"""Alerts that are delivered at once; of each, one match after the other."""
POLL = 0.25
"""Seconds between two looks at what there is to deliver."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds before an alert whose delivery failed is tried again."""
LONGEST_WAIT = 3600.0
"""The most seconds for which a receiver may ask."""
REFUSALS = 3
"""Times that a match is sent to a receiver that refuses it."""
GIVE_UP = 7 * 86400.0
"""Seconds for which a match is tried."""
SOON = 3.0
"""Seconds for which the end of a run waits for a delivery that is to be tried again."""
TRIM = 60.0
"""Seconds between two looks whether the ledger has too many matches."""
GRACE = 2.0
"""Seconds that deliveries in progress have to end when the run does."""


class Deliveries:
    """Delivers from the ledger of a run, which is open, until it is left."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._stopped = threading.Event()
        self._changed = threading.Condition()
        self._busy: dict[str, Webhook | Command | None] = {}
        """By the ids of alerts: what is being delivered."""
        self._pauses: dict[str, Pauses] = {}
        self._thread = threading.Thread(target=self._work, name="penstock-deliver", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopped.set()
        end = time.monotonic() + GRACE
        with self._changed:
            for one in self._busy.values():
                if one is not None:
                    one.cut()
            self._changed.wait_for(lambda: not self._busy, GRACE)
        self._thread.join(max(0.0, end - time.monotonic()))
        with suppress(PenstockError):
            self._ledger.trim_matches()

    def finish(self, seconds: float) -> None:
        """Wait until nothing is to be delivered soon; for so many seconds at most."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and (self._due(SOON) or self._busy):
            self._stopped.wait(POLL)

    def _due(self, within: float = 0.0) -> list[str]:
        return self._ledger.due_alerts(within, LONGEST_WAIT)

    def _work(self) -> None:
        trim = time.monotonic() + TRIM
        while not self._stopped.wait(POLL):
            with suppress(PenstockError):  # the run says what is wrong with its ledger
                for alert in self._due():
                    self._begin(alert)
                if time.monotonic() >= trim:
                    trim = time.monotonic() + TRIM
                    self._ledger.trim_matches()

    def _begin(self, alert: str) -> None:
        with self._changed:
            if alert in self._busy or len(self._busy) >= AT_ONCE or self._stopped.is_set():
                return
            self._busy[alert] = None
        threading.Thread(target=self._deliver, args=(alert,), name="penstock-delivery", daemon=True).start()

    def _deliver(self, id: str) -> None:
        """Deliver the matches of an alert, one after the other, until none is left or one fails."""
        receiver: Webhook | Command | None = None
        try:
            if (alert := self._ledger.alert(id)) is None:
                return
            receiver = _receiver(alert)
            with self._changed:
                self._busy[id] = receiver
            while not self._stopped.is_set() and (match := self._ledger.next_delivery(id)) is not None:
                if not self._send(id, receiver, match):
                    return
        except PenstockError:  # the ledger, which is about to be closed, or away: it is tried again
            self._stopped.wait(FIRST_PAUSE)
        finally:
            if receiver is not None:
                receiver.close()
            with self._changed:
                del self._busy[id]
                self._changed.notify_all()

    def _send(self, id: str, receiver: Webhook | Command, match: FoundMatch) -> bool:
        pauses = self._pauses.setdefault(id, Pauses(FIRST_PAUSE, LONGEST_PAUSE))
        try:
            receiver.send(json.dumps(match.to_json(), ensure_ascii=False).encode(errors="replace"), match.key)
        except NotDelivered as error:
            if self._stopped.is_set():  # what was cut off is no failure
                return False
            lost = (error.refused and match.attempts + 1 >= REFUSALS) or time.time() - match.time > GIVE_UP
            pause = max(pauses.next(), min(error.retry_after or 0.0, LONGEST_WAIT))
            self._ledger.note_undelivered(match, str(error), pause, lost=lost)
            return False
        pauses.reset()
        self._ledger.note_delivered(match)
        return True


def _receiver(alert: Alert) -> Webhook | Command:
    if alert.webhook:
        return Webhook(alert.webhook, alert.secret)
    return Command(alert.command or "", {"PENSTOCK_ALERT": alert.name})
