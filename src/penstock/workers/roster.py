"""The workers of a run, as they were last heard of."""

from __future__ import annotations

import json
import time
from contextlib import suppress

from penstock.core.errors import PenstockError
from penstock.engine.control import Control
from penstock.shards.folder import SENSELESS
from penstock.workers.place import Place

EVERY = 5.0
"""Seconds after which a worker writes again that it is there."""
GONE, FORGOTTEN = 4 * EVERY, 60.0
"""Seconds without news after which a worker counts as gone, and its file is removed."""
ALONE = 10.0
"""Seconds without a worker after which the run says so."""


class Roster:
    """Who works, for whoever looks at the run. Nothing depends on it: leases say whose a shard is."""

    def __init__(self, place: Place, control: Control) -> None:
        self._place, self._control = place, control
        self._seen: dict[str, tuple[bytes, float]] = {}
        self._looked = 0.0
        self._since = time.monotonic()
        self._said = ""

    def look(self, wanted: bool) -> None:
        """`wanted`: there is work for them."""
        now = time.monotonic()
        if now - self._looked < EVERY / 2:
            return
        self._looked = now
        try:
            heard = self._place.heard()
        except PenstockError:  # the place is away: what else is read there says so
            return
        before = self._seen
        self._seen = {
            name: before[name] if name in before and before[name][0] == data else (data, now)
            for name, data in heard.items()
        }
        for name, (_, since) in self._seen.items():
            if now - since > FORGOTTEN:
                with suppress(PenstockError):
                    self._place.leave(name.removesuffix(".json"))
        alive = [data for data, since in self._seen.values() if now - since < GONE]
        self._control.workers = len(alive)
        if alive or not wanted:
            self._since = now
        trouble = next(filter(None, map(_trouble, alive)), "")
        if trouble and all(map(_trouble, alive)):
            self._say(f"workers that can work; one says: {trouble}")
        elif now - self._since > ALONE:
            self._say(f"a worker: start `penstock work {self._place.name}`, on as many machines as you like")
        else:
            self._say("")

    def _say(self, what: str) -> None:
        if what or self._control.waiting == self._said:
            self._control.waiting = what
        self._said = what


def _trouble(data: bytes) -> str:
    try:
        return str(json.loads(data).get("trouble", ""))
    except SENSELESS:
        return ""
