"""The seam between the head of a flow (scan, prepare, embed) and its tail (write, commit).

Whatever the head makes goes through here, and nothing else does: finished points, and events of what became of the
documents. A tail beside it takes them from the channels; a tail elsewhere gets them as files (see `shards`).
"""

from __future__ import annotations

from penstock.engine.channel import Channel
from penstock.engine.work import Embedded, Event, event_size


class Seam:
    def __init__(self, points_bytes: int, events_bytes: int) -> None:
        self.points: Channel[list[Embedded]] = Channel("points", points_bytes)
        self.events: Channel[Event] = Channel("commits", events_bytes)

    def send(self, event: Event) -> None:
        self.events.put(event, event_size(event))
