"""Which generation of an index is the current one.

The base is the location that people name. Its manifest says which generation is current; that changes in one step, and
whoever searches or writes asks the base first.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

from penstock.core.contracts import Location, Sink
from penstock.core.errors import OwnershipError, SinkError, SinkUnavailable, Transient
from penstock.core.schema import Manifest

L = TypeVar("L", bound=Location)
RECALL = 0.95
"""The share of the true nearest that searches of a new generation have to find before it becomes the current one."""
TOLERANCE = 0.05
"""By how much its nDCG@10 may be lower than that of the old one, where the difference may be chance."""
EXCHANGES, PAUSE = 30, 0.1
"""Tries of a change of a manifest that others change too, and the longest pause between two, in seconds."""


def current(base: L) -> L:
    """The location to search and to write to: the base itself, or the generation that it names."""
    held = base.manifest()
    return base.generation(held.current) if held is not None and held.current else base


def amend(sink: Sink, change: Callable[[Manifest], Manifest]) -> Manifest:
    """Replace the manifest of an open sink by what `change` returns for it, and again where another process replaced
    it meanwhile, so that no change is lost. `change` raises an error where it must not be made any more."""
    for _ in range(EXCHANGES):
        if (kept := sink.manifest()) is None:
            raise SinkError(f"{sink.url} is gone: another process removed it meanwhile")
        new = change(kept)
        if new == kept or sink.exchange_manifest(kept, new):
            return new
        time.sleep(random.uniform(0, PAUSE))
    raise SinkUnavailable(f"{sink.url}: other processes change its manifest all the time; try again later")


def switch(bases: Sequence[Sink], current: int, former: int | None, *, since: Manifest | None = None) -> None:
    """Have the manifests name these generations. Of several bases that are filled together the first is asked, so it
    comes last.

    `since`: the first one's manifest by which this was decided. Raises OwnershipError where another process has
    switched since then.
    """
    for base in reversed(bases):
        if (held := base.manifest()) is not None:

            def change(kept: Manifest, first: bool = base is bases[0]) -> Manifest:
                if first and since is not None and (kept.current, kept.former) != (since.current, since.former):
                    raise OwnershipError(
                        f"another process made generation {kept.current} the current one of {bases[0].url} meanwhile:"
                        " nothing was switched. Look at what is there now, and try again"
                    )
                return replace(kept, current=current, former=former)

            with base:
                base.open(held)
                amend(base, change)


def align(bases: Sequence[Sink]) -> None:
    """Have those that were away when the first switched, or are new, name the same generations."""
    if (first := bases[0].manifest()) is None:
        return
    for base in bases[1:]:
        with suppress(Transient):  # away still: a later run aligns it
            held = base.manifest()
            if held is None and first.current:
                with base:
                    base.open(first)
            elif held is not None and (held.current, held.former) != (first.current, first.former):
                switch([base], first.current, first.former)
