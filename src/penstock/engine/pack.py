"""Batches of like length, cut by tokens.

What waits in the inbox, up to a window, is sorted by length and cut: almost nothing is padded then. The window takes
what is there and waits for nothing: the first chunks go to the model alone rather than late.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from operator import attrgetter
from typing import NamedTuple

from penstock.engine.channel import Channel, Empty, Ended
from penstock.engine.work import Prepared


class Batch(NamedTuple):
    prepared: Sequence[Prepared]
    nbytes: int


class Packer:
    def __init__(self, inbox: Channel[list[Prepared]], *, window: int, tokens: int, rows: int) -> None:
        self._inbox, self._window, self._tokens, self._rows = inbox, window, tokens, rows
        self._ready: deque[Batch] = deque()
        self._filling = threading.Lock()
        """Held while waiting for chunks; so `drop`, which must not wait, does without."""

    def next(self) -> Batch:
        """Charged in the inbox until `release`. Raises what the inbox raises: Ended, Broken."""
        while True:
            with suppress(IndexError):  # there is none, or another thread took it
                return self._ready.popleft()
            with self._filling:
                if not self._ready:
                    self._fill()

    def release(self, batch: Batch) -> None:
        self._inbox.release(batch.nbytes)

    def drop(self) -> None:
        with suppress(IndexError):
            while True:
                self.release(self._ready.popleft())

    def _fill(self) -> None:
        prepared, _ = self._inbox.get()
        window = list(prepared)
        held = sum(one.length for one in prepared)
        while held < self._window:
            try:
                prepared, _ = self._inbox.get(wait=False)
            except (Empty, Ended):
                break  # an end is met again by the next call, once this window is used up
            window.extend(prepared)
            held += sum(one.length for one in prepared)
        window.sort(key=attrgetter("length"), reverse=True)
        start = 0
        while start < len(window):
            longest = max(1, window[start].length)
            end = start + max(1, min(self._rows, self._tokens // longest))
            batch = window[start:end]
            self._ready.append(Batch(batch, sum(one.nbytes for one in batch)))
            start = end
